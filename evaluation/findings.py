"""A plan's findings: means, differences, recall and cost, by method, size, world, category and element."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from . import statistics
from .measures import Measure, in_order
from .reading import DIGITS, Reading, complete
from .statistics import NOTHING, Array, Estimate, Wins

BASELINES = ("none", "merge")
"""Kinds that others are compared with."""
MOST_BASELINES = 4
PRESENT = 0.5
"""An element that is more probable than this counts as there."""

Where = NDArray[np.bool_]


class Findings:
    """What can be said about a reading; every comparison goes over the cases that all methods have."""

    def __init__(self, reading: Reading, strength: float = 1.0) -> None:
        """`strength` is the testbed's own λ, at which a merge is the plain one."""
        self.reading, self.strength = reading, strength
        self.measures: list[Measure] = in_order(set(reading.values))
        self.sets, self.sizes = reading.sets, reading.sizes
        self.pooled = (self.sizes > 1) | (self.sizes.max() == 1)
        """(cases,): those that numbers over all cases are of; beside larger sets, adapters alone are references."""
        self.worlds = np.array([case.set.world for case in reading.cases])
        self._common = {column: reading.common(column) for column in reading.values}
        self._hits = {column: _hits(table) for column, table in reading.single.items()}

    def common(self, measure: Measure) -> Where:
        """(cases,): where every method that has this measure has it."""
        return self._common[measure.judge, measure.name]

    def labels(self, measure: Measure) -> list[str]:
        """The methods that have this measure at all."""
        there = np.any(~np.isnan(self.reading.values[measure.judge, measure.name]), axis=1)
        return [label for label, has in zip(self.reading.labels, there, strict=True) if has]

    def values(self, measure: Measure, label: str, where: Where | None = None) -> Array:
        """(cases,): a method's numbers over the common cases, no number elsewhere."""
        kept = self.common(measure) & (self.pooled if where is None else where)
        values = self.reading.values[measure.judge, measure.name][self.reading.row(label)]
        return np.where(kept, np.round(values, DIGITS), np.nan)

    def mean(self, measure: Measure, label: str, where: Where | None = None) -> Estimate:
        """A method's mean."""
        return statistics.mean(self.values(measure, label, where), self.sets)

    def difference(self, measure: Measure, label: str, other: str, where: Where | None = None) -> Estimate:
        """A method's mean over another's, paired."""
        return statistics.difference(self.values(measure, label, where), self.values(measure, other, where), self.sets)

    def wins(self, measure: Measure, label: str, other: str, where: Where | None = None) -> Wins:
        """How often a method does better than another in a case."""
        gaps = self.values(measure, label, where) - self.values(measure, other, where)
        return statistics.wins(gaps if measure.higher else -gaps, measure.tie)

    @property
    def recalled(self) -> tuple[str, str] | None:
        """The judge and measure that say whether an element is there: the oracle's, if it has read the pictures."""
        return ("oracle", "element") if ("oracle", "element") in self._hits else None

    def recall(self, label: str, names: Sequence[str], where: Where | None = None) -> Estimate:
        """The share of askings for some elements in which they are there."""
        if self.recalled is None:
            return NOTHING
        kept = complete(self.reading.single[self.recalled]) & (self.pooled if where is None else where)
        columns = [place for place, one in enumerate(self.reading.elements) if one.name in names]
        hits = self._hits[self.recalled][self.reading.row(label)][:, columns]
        hits = np.where(kept[:, None], hits, np.nan)
        number = int(self.sets.max()) + 1
        sums = np.bincount(self.sets, np.nansum(hits, axis=1), number)
        return statistics.ratio(sums, np.bincount(self.sets, (~np.isnan(hits)).sum(axis=1), number))

    @cached_property
    def categories(self) -> Mapping[str, list[str]]:
        """The names of the elements that are asked for, by category."""
        found: dict[str, list[str]] = {}
        for one in self.reading.elements:
            found.setdefault(one.category, []).append(one.name)
        return found

    @cached_property
    def baselines(self) -> list[str]:
        """What others are compared with: no LoRA and merges; of many the plain ones, then the first ones."""
        found = [label for label in self.reading.labels if self.reading.kind(label) in BASELINES]
        if len(found) > MOST_BASELINES:
            found = [label for label in found if self._is_plain(label)] or found
        return found[:MOST_BASELINES]

    @cached_property
    def merge(self) -> str | None:
        """The method that the paper compares with: the first plain merge, or the first one."""
        merges = [label for label in self.reading.labels if self.reading.kind(label) == "merge"]
        return next((one for one in merges if self._is_plain(one)), merges[0] if merges else None)

    def _is_plain(self, label: str) -> bool:
        """No LoRA, or LoRAs added up at the testbed's own strength and without a limit."""
        method = self.reading.first_job(label).method
        asked = (method.parameters.get("mode", "sum"), method.parameters.get("limit", 0.0), method.strength)
        return method.kind == "none" or asked == ("sum", 0.0, self.strength)

    @cached_property
    def cheapest(self) -> str | None:
        """What costs are measured by: the first method without LoRAs, else the merge."""
        return next((one for one in self.reading.labels if self.reading.kind(one) == "none"), self.merge)

    @cached_property
    def compared(self) -> Where:
        """(cases,): where every method has the main measures; before a judge came, where every method has a picture."""
        measured = [self.common(measure) for measure in self.main()]
        return np.logical_and.reduce(measured) if measured else complete(self.reading.seconds)

    @cached_property
    def origin(self) -> str:
        """Which run painted most of the compared pictures; "" where of none is known which it was."""
        known = Counter(one for one in self.reading.origins[:, self.compared].ravel().tolist() if one)
        return max(known, key=lambda one: known[one], default="")

    def seconds(self, label: str, where: Where | None = None) -> float:
        """The median time of a compared picture, of those that the same run painted for all methods."""
        row = self.reading.row(label)
        timed = self.compared & (self.reading.origins[row] == self.origin) & (self.origin != "")
        values = self.reading.seconds[row, timed & (self.pooled if where is None else where)]
        return float(np.median(values)) if len(values) else float("nan")

    def cost(self, label: str, where: Where | None = None) -> float:
        """The median of a compared picture's time over the cheapest method's for the same case, both of one run."""
        if self.cheapest is None:
            return float("nan")
        row, base, runs = self.reading.row(label), self.reading.row(self.cheapest), self.reading.origins
        timed = self.compared & (runs[row] == runs[base]) & (runs[row] != "")
        mine = np.where(timed & (self.pooled if where is None else where), self.reading.seconds[row], np.nan)
        return statistics.paired_ratio(mine, self.reading.seconds[base])

    def main(self) -> list[Measure]:
        """The measures that plots and sentences are about: share and soundness by the oracle, else what there is."""
        chosen = [one for one in self.measures if one.judge == "oracle" and one.name in ("share", "quality")]
        return chosen or self.measures[:2]


def _hits(probabilities: Array) -> Array:
    """1 where an element is there, 0 where it is not, no number where it was not asked for."""
    return np.where(np.isnan(probabilities), np.nan, probabilities > PRESENT)
