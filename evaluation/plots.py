"""The plots of a report: matplotlib's SVG whose inks are the page's own, so that they follow light, dark and print."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .findings import Findings
from .jobs import EvaluationError
from .measures import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INKS = {"ink": "#010203", "quiet": "#010204", "grid": "#010205", "paper": "#010206"}
"""Colours that no plot has; each becomes the page's colour of that name."""
PALETTE = ("#2f6fdb", "#d9822b", "#2a9d6f", "#b452b8", "#c8423f", "#7d8a1f", "#0f9aa8", "#a0694a")
"""Readable on light and dark paper, told apart by colour-blind eyes together with the shapes."""
NONE = "#8b8f98"
SHAPES = "osD^vh<>"
MOST = 8
"""Methods beyond this have no colour of their own: lines would be a tangle."""


def colours(findings: Findings) -> dict[str, str]:
    """A colour for each method: grey without LoRA, else in the order of the plan."""
    coloured = [label for label in findings.reading.labels if findings.reading.kind(label) != "none"]
    given = {label: PALETTE[place % len(PALETTE)] for place, label in enumerate(coloured)}
    return {label: given.get(label, NONE) for label in findings.reading.labels}


def quality_over_cost(findings: Findings) -> str:
    """Every method as a point: what a picture costs against each main measure. "" where nothing is measured."""
    measures = findings.main()
    labels = [one for one in findings.reading.labels if not math.isnan(findings.cost(one))]
    if not measures or not labels:
        return ""
    figure = _figure(4.4 * len(measures), 3.5)
    hues, shapes = colours(findings), _shapes(findings)
    for place, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        points = {}
        for label in labels:
            found = findings.mean(measure, label)
            if not found.cases:
                continue
            x, y = findings.cost(label), found.value * measure.factor
            if not math.isnan(found.low):
                axes.plot([x, x], [found.low * measure.factor, found.high * measure.factor], color=hues[label],
                          linewidth=1.6, alpha=0.55, solid_capstyle="round", zorder=2)  # fmt: skip
            axes.plot(x, y, shapes[label], color=hues[label], markersize=8, markeredgecolor=INKS["paper"],
                      markeredgewidth=1.2, zorder=3)  # fmt: skip
            points[label] = (x, y)
        other = findings.cheapest(labels[0])
        _dress(axes, measure, f"time of a picture, × {other}")
        axes.margins(x=0.16, y=0.12)
        front = pareto(points, measure.higher) | {findings.merge}
        _name_points(axes, points, [label for label in labels if len(labels) <= MOST or label in front])
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
    measures = findings.main()
    if len(sizes) < 2 or not measures or len(findings.reading.labels) > MOST + 1:
        return ""
    figure = _figure(4.4 * len(measures), 3.7)
    hues, shapes = colours(findings), _shapes(findings)
    for place, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        labels = findings.labels(measure)
        for turn, label in enumerate(labels):
            aside = (turn - (len(labels) - 1) / 2) * 0.035 * (sizes[-1] - sizes[0]) / 3
            found = {size: findings.mean(measure, label, findings.sizes == size) for size in sizes}
            known = {size + aside: one for size, one in found.items() if one.cases}
            axes.plot(list(known), [one.value * measure.factor for one in known.values()], "-" + shapes[label],
                      color=hues[label], linewidth=1.8, markersize=6, markeredgecolor=INKS["paper"],
                      markeredgewidth=0.9, label=label, zorder=3)  # fmt: skip
            for x, one in known.items():
                if not math.isnan(one.low):
                    axes.plot([x, x], [one.low * measure.factor, one.high * measure.factor], color=hues[label],
                              linewidth=1.2, alpha=0.5, zorder=2)  # fmt: skip
        _dress(axes, measure, "N, number of LoRAs")
        axes.set_xticks(sizes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * len(measures)), frameon=False,
                  fontsize=9.5, labelcolor=INKS["ink"], handletextpad=0.5, columnspacing=1.4)  # fmt: skip
    return svg(figure, "by number of LoRAs")


def svg(figure: Figure, name: str) -> str:
    """A figure as SVG for the middle of a page: no header, no fixed size, ids of its own, the page's inks and font."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' id="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib\.axis|legend)_\d+"', "", text)
    for ink, colour in INKS.items():
        text = text.replace(colour, f"var(--{ink})")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1).strip()


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EvaluationError("The report's plots need matplotlib: pip install matplotlib.") from error
    return Figure(figsize=(width, height), layout="constrained")


def _shapes(findings: Findings) -> dict[str, str]:
    return {label: SHAPES[place % len(SHAPES)] for place, label in enumerate(findings.reading.labels)}


def _dress(axes: Axes, measure: Measure, x_label: str) -> None:
    unit = f" ({measure.unit})" if measure.unit else ""
    axes.set_title(measure.title + unit, loc="left", fontsize=11, color=INKS["ink"], fontweight="bold")
    axes.set_xlabel(x_label, fontsize=9.5, color=INKS["quiet"])
    axes.tick_params(colors=INKS["quiet"], labelsize=9.5, length=0)
    axes.grid(axis="y", color=INKS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INKS["grid"])
    axes.set_facecolor("none")


def _name_points(axes: Axes, points: Mapping[str, tuple[float, float]], labels: Sequence[str]) -> None:
    """Writes names beside points, moved up or down where they would cover each other."""
    if not points:
        return
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    apart, placed = (high - low) * 0.062, []  # the height of a line
    axes.set_xlim(left, right + (right - left) * 0.25)
    for label in sorted((one for one in labels if one in points), key=lambda one: points[one][1]):
        x, y = points[label]
        near = [height for across, height in placed if abs(across - x) < (right - left) * 0.45]
        height = max([y, *(one + apart for one in near if y - one < apart)], default=y)
        placed.append((x, height))
        options: dict[str, Any] = {"fontsize": 9.5, "color": INKS["ink"], "va": "center"}
        if height - y > apart / 2:
            options["arrowprops"] = {
                "arrowstyle": "-",
                "color": INKS["quiet"],
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
            }
        axes.annotate(
            label,
            (x, y),
            xytext=(x + (right - left) * (0.035 if height == y else 0.07), height),
            textcoords="data",
            **options,
        )
