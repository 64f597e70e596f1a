"""Drawing with matplotlib: SVG whose inks are the page's own, so that plots follow light, dark and print."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .jobs import EvaluationError
from .measures import Measure
from .statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INKS = {"ink": "#010203", "quiet": "#010204", "grid": "#010205", "paper": "#010206"}
"""Colours that no plot has; each becomes the page's colour of that name."""
LIGHT = {"ink": "#1c1d22", "quiet": "#666873", "grid": "#e3e1db", "paper": "#fbfaf7"}
"""What the page makes of them on white paper."""
SMALL = 9.5
"""Points of letters."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches. Raises EvaluationError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EvaluationError("The report's plots need matplotlib: pip install matplotlib.") from error
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, name: str) -> str:
    """A figure as SVG for the middle of a page: no header, no fixed size, the page's inks and font."""
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
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(name)}" ', 1).strip()


def alone(page_svg: str) -> str:
    """The same figure as a file of its own: on paper, with the inks themselves."""
    text = re.sub(r"var\(--(\w+)\)", lambda ink: LIGHT[ink[1]], page_svg)
    box = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', text)
    assert box is not None, "every figure says its size"
    paper = f'<rect width="{box[1]}" height="{box[2]}" fill="{LIGHT["paper"]}"/>'
    return re.sub(r"(<svg [^>]*>)", lambda begin: f"{begin[1]}\n{paper}", text, count=1) + "\n"


def dress(axes: Axes, measure: Measure, x_label: str) -> None:
    """Title, labels and a quiet grid."""
    unit = f" ({measure.unit})" if measure.unit else ""
    axes.set_title(measure.title + unit, loc="left", fontsize=11, color=INKS["ink"], fontweight="bold")
    axes.set_xlabel(x_label, fontsize=SMALL, color=INKS["quiet"])
    axes.tick_params(colors=INKS["quiet"], labelsize=SMALL, length=0)
    axes.grid(axis="y", color=INKS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INKS["grid"])
    axes.set_facecolor("none")


def curve(axes: Axes, points: Mapping[float, Estimate], factor: float, label: str, colour: str, shape: str) -> None:
    """A line through means, each with its interval as a thin stroke."""
    known = {x: one for x, one in points.items() if one.cases}
    line: dict[str, Any] = {"linewidth": 1.8, "markersize": 6, "markeredgewidth": 0.9, "zorder": 3}
    heights = [one.value * factor for one in known.values()]
    axes.plot(list(known), heights, f"-{shape}", color=colour, markeredgecolor=INKS["paper"], label=label, **line)
    for x, one in known.items():
        stroke(axes, x, one, factor, colour)


def stroke(axes: Axes, x: float, one: Estimate, factor: float, colour: str, width: float = 1.2) -> None:
    """An interval, upright."""
    if not math.isnan(one.low):
        ends = [one.low * factor, one.high * factor]
        axes.plot([x, x], ends, color=colour, linewidth=width, alpha=0.5, solid_capstyle="round", zorder=2)


def legend(figure: Figure, columns: int) -> None:
    """What the lines mean, below all axes."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "handletextpad": 0.5, "columnspacing": 1.4}
    columns = min(len(labels), columns)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, labelcolor=INKS["ink"], **style)


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]], labels: Sequence[str]) -> None:
    """Writes names beside points, moved up where they would cover each other, then with a thin line to their point."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    line, wide = (high - low) * 0.062, right - left
    axes.set_xlim(left, right + wide * 0.25)
    placed: list[tuple[float, float]] = []
    for label in sorted((one for one in labels if one in points), key=lambda one: points[one][1]):
        x, y = points[label]
        below = [height for across, height in placed if abs(across - x) < wide * 0.45]
        height = max([y, *(one + line for one in below if y - one < line)])
        placed.append((x, height))
        options: dict[str, Any] = {"fontsize": SMALL, "color": INKS["ink"], "va": "center", "textcoords": "data"}
        if height - y > line / 2:
            options["arrowprops"] = {"arrowstyle": "-", "color": INKS["quiet"], "linewidth": 0.6, "shrinkB": 3}
        axes.annotate(label, (x, y), xytext=(x + wide * (0.035 if height == y else 0.07), height), **options)
