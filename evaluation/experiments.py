"""The experiments of docs/evidence.md: which tables each plan of this repository gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import sections
from .findings import Findings
from .measures import RECALL, Measure
from .statistics import Estimate
from .tables import Cell, Head, Row, Table

Build = Callable[[Findings], Table]
COMPARED = ("share", "quality")
"""What the oracle says that experiments are about."""


def measure(findings: Findings, name: str) -> Measure | None:
    """The oracle's measure of that name, if it has read the pictures."""
    return next((one for one in findings.measures if (one.judge, one.name) == ("oracle", name)), None)


def by_size(name: str) -> Build:
    """A measure by N."""

    def build(findings: Findings) -> Table:
        found = measure(findings, name)
        return sections.by_size(findings, found) if found else _empty("method")

    return build


def wins_by_size(baseline: str) -> Build:
    """Won, tied, lost against a baseline by N, in %, for each compared measure."""

    def build(findings: Findings) -> Table:
        if baseline not in findings.reading.labels:
            return _empty("method")
        sizes = sorted(set(findings.sizes.tolist()))
        rows = []
        for found in _compared(findings):
            for label in (one for one in findings.labels(found) if one != baseline):
                counted = [findings.wins(found, label, baseline, findings.sizes == size) for size in sizes]
                cells = tuple(Cell(_shares(one)) for one in counted)
                rows.append(Row(f"{label}: {found.title}", cells))
        heads = tuple(Head(f"N = {size}") for size in sizes)
        return Table("", f"won / tied / lost against {baseline}, %", heads, tuple(rows))

    return build


def against(baseline: Callable[[str], str]) -> Build:
    """Each method's means, and its differences from the method that `baseline` names for it; then the overloaded."""

    def build(findings: Findings) -> Table:
        rows, heads = [], []
        compared, broken = _compared(findings), measure(findings, "overloaded")
        for found in compared:
            points = "points" if found.unit == "%" else ""
            heads += [sections.head(found), Head("difference", points), Head("won / tied / lost", "%")]
        heads += [sections.head(broken)] if broken else []
        for label in findings.reading.labels:
            cells, other = [], baseline(label)
            for found in compared:
                cells.append(_mean(findings, found, label))
                if other == label or other not in findings.reading.labels:
                    cells += [Cell("–"), Cell("–")]
                    continue
                gap = findings.difference(found, label, other)
                cells.append(_gap(found, gap))
                cells.append(Cell(_shares(findings.wins(found, label, other))))
            cells += [_mean(findings, broken, label)] if broken else []
            rows.append(Row(label, tuple(cells)))
        return Table("", "method", tuple(heads), tuple(rows))

    return build


def grid(name: str, baseline: str = "") -> Build:
    """A measure of methods whose labels end in ", SETTING": methods down, settings across.

    With `baseline`, instead of means the differences from that method at the same setting.
    """

    def build(findings: Findings) -> Table:
        found = measure(findings, name)
        if found is None:
            return _empty("method")
        parts = {label: tuple(label.rsplit(", ", 1)) for label in findings.reading.labels}
        parts = {label: part for label, part in parts.items() if len(part) == 2}
        settings = list(dict.fromkeys(setting for _, setting in parts.values()))
        rows = []
        for method in dict.fromkeys(method for method, _ in parts.values()):
            if method == baseline:
                continue
            rows.append(Row(method, tuple(_at(findings, found, method, setting, baseline) for setting in settings)))
        unit = found.unit if not baseline else "points" if found.unit == "%" else ""
        what = f"{found.title}{f' minus that of {baseline}' if baseline else ''}{f', {unit}' if unit else ''}"
        return Table("", what, tuple(map(Head, settings)), tuple(rows))

    return build


def _at(findings: Findings, found: Measure, method: str, setting: str, baseline: str) -> Cell:
    label, other = f"{method}, {setting}", f"{baseline}, {setting}"
    if label not in findings.reading.labels or (baseline and other not in findings.reading.labels):
        return Cell("–")
    if not baseline:
        return _mean(findings, found, label)
    return _gap(found, findings.difference(found, label, other))


def _mean(findings: Findings, found: Measure, label: str) -> Cell:
    mean = findings.mean(found, label)
    return Cell(found.text(mean.value), found.range(mean.low, mean.high))


def _gap(found: Measure, gap: Estimate) -> Cell:
    return Cell(found.text(gap.value, True), found.range(gap.low, gap.high, True), tone=sections.tone(found, gap))


def styles(alone: bool, own: bool) -> Build:
    """How often each style is there (`own`), or what stands beside it; alone, or in sets of several."""

    def build(findings: Findings) -> Table:
        reading = findings.reading
        names = findings.categories.get("style", [])
        rows = []
        for style in names:
            where = np.array([style in case.set.elements for case in reading.cases]) & ((findings.sizes == 1) == alone)
            asked = [style] if own else [one.name for one in reading.elements if one.category != "style"]
            found = [findings.recall(label, asked, where) for label in reading.labels]
            cells = tuple(Cell(RECALL.text(one.value), RECALL.range(one.low, one.high)) for one in found)
            sets = len(set(findings.sets[where].tolist()))
            rows.append(Row(f"{style.replace('_', ' ')} ({sets} set{'' if sets == 1 else 's'})", cells))
        what = "the style is there, %" if own else "other elements are there, %"
        return Table("", what, tuple(map(Head, reading.labels)), tuple(rows))

    return build


def by_category(findings: Findings) -> Table:
    """How often elements of each category are there."""
    return sections.by_category(findings) or _empty("method")


def merge(label: str) -> str:
    """Everything is compared with the merge."""
    return "merge"


def listed(label: str) -> str:
    """An order of the stack is compared with the listed one of the same method."""
    return f"{label.rpartition(', ')[0]}, listed"


EXPERIMENTS: Mapping[str, Mapping[str, Build]] = {
    "alone": {"alone": sections.headline},
    "full": {
        "full-methods": sections.headline,
        "full-against-merge": lambda findings: sections.differences(findings, "merge"),
        "full-against-mean": lambda findings: sections.differences(findings, "merge, w/N"),
        "full-share": by_size("share"),
        "full-quality": by_size("quality"),
        "full-wins": wins_by_size("merge"),
        "full-category": by_category,
    },
    "control": {"control": against(lambda label: "merge, w/N"), "control-share": by_size("share")},
    "tau": {"tau": against(merge), "tau-turns": lambda findings: sections.differences(findings, "switch, τ = 5")},
    "order": {"order": against(listed)},
    "many": {
        "many-share": by_size("share"),
        "many-quality": by_size("quality"),
        "many-cost": sections.cost_by_size,
    },
    "lambda": {f"lambda-{name}": grid(name) for name in ("share", "overloaded", "quality")},
    "steps": {
        "steps-share": grid("share"),
        "steps-quality": grid("quality"),
        "steps-difference": grid("share", "merge"),
    },
    "methods": {
        "methods-all": sections.headline,
        "methods-against-merge": lambda findings: sections.differences(findings, "merge"),
        "methods-against-composite": lambda findings: sections.differences(findings, "composite"),
        "methods-share": by_size("share"),
        "methods-cost": sections.cost_by_size,
    },
    "learned": {"learned": against(merge)},
    "timed": {"timed": against(lambda label: "merge, λ = 0.75")},
    "styles": {
        "styles-alone": styles(alone=True, own=True),
        "styles-beside": styles(alone=False, own=True),
        "styles-others": styles(alone=False, own=False),
    },
}
"""By plan and name of the table in docs/evidence.md."""


def _compared(findings: Findings) -> Sequence[Measure]:
    return [found for name in COMPARED if (found := measure(findings, name))]


def _shares(counted: Sequence[int]) -> str:
    total = sum(counted)
    return " / ".join(f"{100 * count / total:.0f}" for count in counted) if total else "–"


def _empty(corner: str) -> Table:
    return Table("", corner, (), ())


def numbers(findings: Findings) -> list[tuple[str, float]]:
    """The findings as named numbers with the ends of their intervals: what every method reached, and over the merge."""
    found: list[tuple[str, float]] = []
    for one in _compared(findings):
        for label in findings.labels(one):
            estimates = {f"{label}: {one.title}": findings.mean(one, label)}
            if findings.merge not in (None, label):
                estimates[f"{label} minus {findings.merge}: {one.title}"] = findings.difference(
                    one, label, str(findings.merge)
                )
            for name, estimate in estimates.items():
                unit = f" ({one.unit})" if one.unit else ""
                ends = {"": estimate.value, ", 95 % from": estimate.low, ", 95 % to": estimate.high}
                found += [
                    (f"{name}{unit}{end}", value * one.factor) for end, value in ends.items() if not math.isnan(value)
                ]
    return found
