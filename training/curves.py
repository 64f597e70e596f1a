"""A run's curves: as a picture for people, as CSV for whatever else."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from .chart import Line, Mark, Panel, chart
from .files import write_atomically
from .validation import Result, percent

BLUE, PALE, ORANGE, GREY = (32, 96, 178), (176, 202, 232), (214, 102, 30), (130, 130, 138)


def smooth(values: Sequence[float]) -> list[float]:
    """A moving average over the past, exponential, over some 20 values at first and a tenth of all at last."""
    averages, average = [], 0.0
    for count, value in enumerate(values, start=1):
        share = 1 / min(count, max(20, len(values) / 10))
        average += (value - average) * share
        averages.append(average)
    return averages


def write_curves(folder: Path, name: str, losses: Sequence[float], results: Sequence[Result]) -> None:
    """Writes `curves.png` and `losses.csv` into a run's folder; raises OSError where that fails."""
    data = io.BytesIO()
    draw(name, losses, results).save(data, "PNG")
    write_atomically(folder / "curves.png", data.getvalue())
    write_atomically(folder / "losses.csv", table(losses, results).encode())


def draw(name: str, losses: Sequence[float], results: Sequence[Result]):
    """The chart: training loss, and what validation found."""
    points = list(enumerate(losses, start=1))
    even = list(zip((step for step, _ in points), smooth(losses), strict=True))
    ordered = sorted(losses)
    rows = (ordered[0], ordered[round(0.98 * (len(ordered) - 1))]) if ordered and ordered[0] < ordered[-1] else None
    training = Panel(
        "Training loss", [Line("each step", points, PALE, 1.0), Line("smoothed", even, BLUE, 2.4)], rows=rows
    )
    panels = [training]
    if len(results) > 1:
        panels.append(_validation(results))
    return chart(f"{name}, after step {len(losses)}", panels, "steps", len(losses))


def table(losses: Sequence[float], results: Sequence[Result]) -> str:
    """CSV: step, training loss, and where there was a validation its loss with and without the adapter."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "loss", "validation_adapter", "validation_base"])
    found = {result.step: (f"{result.adapter:.6g}", f"{result.base:.6g}") for result in results}
    if 0 in found:
        writer.writerow([0, "", *found[0]])
    for step, loss in enumerate(losses, start=1):
        writer.writerow([step, f"{loss:.6g}", *found.get(step, ("", ""))])
    return text.getvalue()


def _validation(results: Sequence[Result]) -> Panel:
    base = results[0].base
    adapter = [(result.step, result.adapter) for result in results]
    marks = []
    if best := next((result for result in reversed(results) if result.is_best), None):
        marks.append(Mark(f"best: step {best.step}, {percent(best)}", (best.step, best.adapter), ORANGE))
    return Panel(
        "Loss on held-out pictures",
        [
            Line("without the adapter", [(0, base), (results[-1].step, base)], GREY, 1.6, dashed=True),
            Line("with it", adapter, ORANGE, 2.4),
        ],
        marks,
    )
