"""The plots of a report: quality over cost, over the number of LoRAs, and over a setting that a plan sweeps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .drawing import INKS, curve, dress, legend, name_points, new_figure, stroke, svg
from .findings import Findings
from .measures import Measure
from .statistics import Estimate

PALETTE = ("#2f6fdb", "#d9822b", "#2a9d6f", "#b452b8", "#c8423f", "#7d8a1f", "#0f9aa8", "#a0694a")
"""Readable on light and dark paper; with the shapes, also told apart where colours are not."""
NONE = "#8b8f98"
SHAPES = "osD^vh<>"
MOST = 8
"""Methods beyond this have no colour of their own: lines would be a tangle."""
_SETTINGS = (re.compile(r"(?P<method>.+), (?P<name>\S+) = (?P<value>-?[\d.]+)"),
             re.compile(r"(?P<method>.+), (?P<value>\d+) (?P<name>\w+)"))  # fmt: skip


class Setting(NamedTuple):
    """A label that ends in a setting, such as "switch, τ = 5" or "merge, 20 steps"."""

    method: str
    name: str
    value: float


def quality_over_cost(findings: Findings) -> str:
    """Every method as a point: what a picture costs against each main measure. "" where nothing is measured."""
    measures = findings.main()
    labels = [one for one in findings.reading.labels if not math.isnan(findings.cost(one))]
    if not measures or not labels:
        return ""
    figure = new_figure(4.4 * len(measures), 3.5)
    hues = colours(findings)
    for place, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        points = {}
        for turn, label in enumerate(findings.reading.labels):
            found = findings.mean(measure, label)
            if label not in labels or not found.cases:
                continue
            x, y = points[label] = findings.cost(label), found.value * measure.factor
            stroke(axes, x, found, measure.factor, hues[label], width=1.6)
            axes.plot(x, y, SHAPES[turn % len(SHAPES)], color=hues[label], markersize=8, zorder=3,
                      markeredgecolor=INKS["paper"], markeredgewidth=1.2)  # fmt: skip
        dress(axes, measure, f"time of a picture, × {findings.cheapest}")
        axes.margins(x=0.16, y=0.12)
        told = pareto(points, measure.higher) | {findings.merge}
        name_points(axes, points, [label for label in labels if len(labels) <= MOST or label in told])
    return svg(figure, "quality over cost")


def pareto(points: Mapping[str, tuple[float, float]], higher: bool = True) -> set[str]:
    """The labels of those that no other beats in both cost and value."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        better = one[1] >= other[1] if higher else one[1] <= other[1]
        return one != other and one[0] <= other[0] and better

    return {label for label, mine in points.items() if not any(beats(other, mine) for other in points.values())}


def by_size(findings: Findings) -> str:
    """Each main measure over N, a line for each method. "" for one size, or for too many methods."""
    sizes = sorted(set(findings.sizes.tolist()))
    labels = findings.reading.labels
    if len(sizes) < 2 or len(labels) > MOST + 1:
        return ""

    def points(measure: Measure, label: str) -> dict[float, Estimate]:
        aside = (labels.index(label) - (len(labels) - 1) / 2) * 0.012 * (sizes[-1] - sizes[0])
        return {size + aside: findings.mean(measure, label, findings.sizes == size) for size in sizes}

    return _curves(findings, colours(findings), points, "N, number of LoRAs", {size: f"{size}" for size in sizes})


def setting(label: str) -> Setting | None:
    """The setting in a label, if it ends in one."""
    for pattern in _SETTINGS:
        if found := pattern.fullmatch(label):
            return Setting(found["method"], found["name"], float(found["value"]))
    return None


def over_setting(findings: Findings) -> tuple[str, str]:
    """The setting that most labels of the plan end in, and each main measure over it; baselines without it lie across.

    Both "" where it has fewer than three values.
    """
    found = {label: one for label in findings.reading.labels if (one := setting(label))}
    names = [one.name for one in found.values()]
    name = max(names, key=names.count, default="")
    swept = {label: one for label, one in found.items() if one.name == name}
    methods = list(dict.fromkeys(one.method for one in swept.values()))
    values = sorted({one.value for one in swept.values()})
    if len(values) < 3 or len(methods) > MOST:
        return "", ""
    across = [label for label in findings.baselines if label not in swept][: MOST - len(methods)]
    hues = dict(zip([*methods, *across], [*PALETTE[: len(methods)], *[NONE] * len(across)], strict=True))

    def points(measure: Measure, method: str) -> dict[float, Estimate]:
        if method in across:
            return {float(place): findings.mean(measure, method) for place in (0, len(values) - 1)}
        mine = {one.value: label for label, one in swept.items() if one.method == method}
        return {
            float(place): findings.mean(measure, mine[value]) for place, value in enumerate(values) if value in mine
        }

    places = {float(place): f"{value:g}" for place, value in enumerate(values)}  # evenly: 0.25 and 4 on one axis
    return name, _curves(findings, hues, points, name, places)


def colours(findings: Findings) -> dict[str, str]:
    """A colour for each method: grey without LoRA, else in the order of the plan."""
    coloured = [label for label in findings.reading.labels if findings.reading.kind(label) != "none"]
    given = {label: PALETTE[place % len(PALETTE)] for place, label in enumerate(coloured)}
    return {label: given.get(label, NONE) for label in findings.reading.labels}


def _curves(
    findings: Findings,
    hues: Mapping[str, str],
    points: Callable[[Measure, str], Mapping[float, Estimate]],
    x_label: str,
    ticks: Mapping[float, str],
) -> str:
    """Axes for each main measure, on them a curve for each of `hues`."""
    measures = findings.main()
    if not measures:
        return ""
    figure = new_figure(4.4 * len(measures), 3.7)
    for place, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        for turn, (label, colour) in enumerate(hues.items()):
            curve(axes, points(measure, label), measure.factor, label, colour, SHAPES[turn % len(SHAPES)])
        dress(axes, measure, x_label)
        axes.set_xticks(list(ticks), list(ticks.values()))
    legend(figure, 2 * len(measures))
    return svg(figure, f"over {x_label}")
