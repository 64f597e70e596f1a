"""What a judge that sees two pictures at once found: each method against one, both orders averaged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import statistics
from .judges.position import PositionBias, position_bias
from .measures import Measure, known
from .reading import Reading
from .statistics import Array, Estimate, Wins
from .store import Comparison

Gaps = dict[tuple[str, str], tuple[float, float]]
"""By two keys in the order in which they were shown: what the first and what the second got."""


@dataclass(frozen=True)
class Versus:
    """A method against another by one measure of one judge, over the cases that were shown in both orders."""

    measure: Measure
    label: str
    against: str
    mean: float
    """Points of the method."""
    other: float
    """Points of the other."""
    difference: Estimate
    wins: Wins
    half: int
    """Pairs that were seen in one order only; they are left out."""


@dataclass(frozen=True)
class Panel:
    """All that one judge found."""

    judge: str
    against: str
    rows: tuple[Versus, ...]
    by_size: Mapping[int, tuple[Versus, ...]]
    """The same rows by N."""
    bias: tuple[PositionBias, ...]


def in_both_orders(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Those whose pictures a judge saw in the other order, too."""
    listed = list(comparisons)
    seen = {(one.judge, one.measure, one.first, one.second) for one in listed}
    return [one for one in listed if (one.judge, one.measure, one.second, one.first) in seen]


def panels(reading: Reading, comparisons: Iterable[Comparison]) -> list[Panel]:
    """The findings of every judge that compared pictures of the plan."""
    mine = {job.key for job in reading.jobs.values()}
    by_judge: dict[str, list[Comparison]] = defaultdict(list)
    for one in comparisons:
        if one.first in mine and one.second in mine:
            by_judge[one.judge].append(one)
    return [_panel(reading, judge, found) for judge, found in by_judge.items()]


def _panel(reading: Reading, judge: str, found: list[Comparison]) -> Panel:
    by_measure: dict[str, Gaps] = defaultdict(dict)
    for one in found:
        by_measure[one.measure][one.first, one.second] = one.first_score, one.second_score
    pairs = _pairs(reading, {keys for gaps in by_measure.values() for keys in gaps})
    often = Counter(label for pair in pairs for label in pair)
    against = max(reading.labels, key=lambda label: (often[label], -reading.row(label)))
    oriented = dict.fromkeys((b, a) if a == against else (a, b) for a, b in pairs)
    compared = [(known(judge, measure), *pair, gaps) for measure, gaps in by_measure.items() for pair in oriented]
    rows = [(row, one) for one in compared if (row := versus(reading, *one)).difference.cases or row.half]
    by_size = {
        int(size): tuple(versus(reading, *one, reading.sizes == size) for _, one in rows)
        for size in np.unique(reading.sizes[reading.sizes > 1])
    }
    return Panel(judge, against, tuple(row for row, _ in rows), by_size, tuple(position_bias(found)))


def _pairs(reading: Reading, seen: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs of methods that were compared anywhere, in the order of the plan."""
    labels: dict[str, set[str]] = defaultdict(set)
    for (label, _), job in reading.jobs.items():
        labels[job.key].add(label)
    pairs = {
        tuple(sorted((a, b), key=reading.row))
        for first, second in seen for a in labels[first] for b in labels[second] if a != b
    }  # fmt: skip
    return sorted(((a, b) for a, b in pairs), key=lambda pair: (reading.row(pair[0]), reading.row(pair[1])))


def versus(
    reading: Reading,
    measure: Measure,
    label: str,
    other: str,
    gaps: Mapping[tuple[str, str], tuple[float, float]],
    where: NDArray[np.bool_] | None = None,
) -> Versus:
    """One method against another, over all cases or those of `where`."""
    points = np.full((2, len(reading.cases)), np.nan)
    half = 0
    for place in range(len(reading.cases)) if where is None else np.flatnonzero(where).tolist():
        one, another = reading.jobs.get((label, place)), reading.jobs.get((other, place))
        if one is None or another is None or one.key == another.key:
            continue
        forth, back = gaps.get((one.key, another.key)), gaps.get((another.key, one.key))
        if forth is not None and back is not None:
            points[:, place] = (forth[0] + back[1]) / 2, (forth[1] + back[0]) / 2
        half += (forth is None) != (back is None)
    difference = statistics.difference(points[0], points[1], reading.sets)
    return Versus(
        measure, label, other, _mean(points[0]), _mean(points[1]), difference,
        statistics.wins(points[0] - points[1], measure.tie), half,
    )  # fmt: skip


def _mean(values: Array) -> float:
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else float("nan")
