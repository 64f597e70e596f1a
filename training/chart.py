"""Line charts in Pillow, which ComfyUI brings: one x axis, panels below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Colour = tuple[int, int, int]

PAPER, INK, QUIET, GRID = (252, 252, 250), (30, 30, 36), (105, 105, 115), (228, 228, 226)
WIDTH, HEIGHT = 960, 260
"""Of a panel's axes, with what stands around them."""
LEFT, RIGHT, TOP, BOTTOM, TITLE = 76, 24, 46, 34, 44
_FINE = 3  # drawn so many times as large and scaled down: Pillow's lines have stairs


@dataclass(frozen=True)
class Line:
    """A curve; with `dashed` for something that it is compared with."""

    label: str
    points: Sequence[Point]
    colour: Colour
    width: float = 2.0
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A dot on a curve, with a word below it."""

    label: str
    point: Point
    colour: Colour


@dataclass(frozen=True)
class Panel:
    """Curves on common axes."""

    title: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    rows: tuple[float, float] | None = None
    """The y range; that of all points where None. What lies outside is drawn at the edge."""


def chart(title: str, panels: Sequence[Panel], x_label: str, x_end: float) -> Image.Image:
    """Draws the panels below each other over x from 0 to `x_end`. Labels are in Latin letters: Pillow's own font."""
    size = (WIDTH, TITLE + len(panels) * HEIGHT + BOTTOM)
    canvas = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((LEFT * _FINE, 14 * _FINE), title, INK, _font(20))
    for number, panel in enumerate(panels):
        _Axes(pen, panel, TITLE + number * HEIGHT, max(x_end, 8)).draw(x_label if number == len(panels) - 1 else "")
    return canvas.reduce(_FINE)


class _Axes:
    def __init__(self, pen: ImageDraw.ImageDraw, panel: Panel, top: int, x_end: float) -> None:
        self.pen, self.panel, self.top, self.x_end = pen, panel, top, x_end
        low, high = panel.rows or _range([y for line in panel.lines for _, y in line.points])
        if panel.marks:
            low -= (high - low) / 6  # for the words
        self.ticks = ticks(low, high, 5)
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def draw(self, x_label: str) -> None:
        for y in self.ticks:
            x, height = self.at((0, y))
            crisp = round(height / _FINE) * _FINE
            self.pen.rectangle([x, crisp, (WIDTH - RIGHT) * _FINE, crisp + _FINE - 1], GRID)
            self.pen.text((x - 10 * _FINE, height), number(y, self.ticks), QUIET, _font(13), anchor="rm")
        for x in (x for x in ticks(0, self.x_end, 8) if x <= self.x_end):
            across, bottom = self.at((x, self.low))
            self.pen.line([(across, bottom), (across, bottom + 4 * _FINE)], QUIET, _FINE)
            self.pen.text((across, bottom + 8 * _FINE), f"{x:g}", QUIET, _font(13), anchor="mt")
        for line in self.panel.lines:
            self.line(line)
        for mark in self.panel.marks:
            self.mark(mark)
        self.legend()
        if x_label:
            self.pen.text(
                ((WIDTH - RIGHT) * _FINE, (self.top + HEIGHT + 14) * _FINE), x_label, QUIET, _font(13), anchor="rm"
            )

    def at(self, point: Point) -> Point:
        """Where a point lies on the canvas."""
        y = min(max(point[1], self.low), self.high)
        across = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / self.x_end
        down = self.top + TOP + (HEIGHT - TOP - BOTTOM) * (self.high - y) / (self.high - self.low)
        return across * _FINE, down * _FINE

    def line(self, line: Line) -> None:
        width, places = max(1, round(line.width * _FINE)), [self.at(point) for point in line.points]
        if line.dashed:
            for start, end in _dashes(places, 7 * _FINE):
                self.pen.line([start, end], line.colour, width)
        elif len(places) > 1:
            self.pen.line(places, line.colour, width, joint="curve")
        elif places:
            self.dot(places[0], width, line.colour)

    def mark(self, mark: Mark) -> None:
        x, y = self.at(mark.point)
        self.dot((x, y), 5 * _FINE, mark.colour)
        font = _font(13)
        half = font.getlength(mark.label) / 2
        middle = min(max(x, LEFT * _FINE + half), (WIDTH - RIGHT) * _FINE - half)
        place = (middle, y + 10 * _FINE)
        self.pen.text(place, mark.label, INK, font, anchor="mt", stroke_width=_FINE, stroke_fill=PAPER)

    def dot(self, centre: Point, radius: float, colour: Colour) -> None:
        x, y = centre
        self.pen.ellipse([x - radius, y - radius, x + radius, y + radius], colour, PAPER, _FINE)

    def legend(self) -> None:
        """The panel's title, and at the right end of its line what each colour means."""
        height, font = (self.top + TOP - 20) * _FINE, _font(13)
        self.pen.text((LEFT * _FINE, height), self.panel.title, INK, _font(15), anchor="lm")
        right = (WIDTH - RIGHT) * _FINE
        for line in reversed(self.panel.lines):
            right -= font.getlength(line.label)
            self.pen.text((right, height), line.label, QUIET, font, anchor="lm")
            right -= 28 * _FINE
            sample = [(right, height), (right + 20 * _FINE, height)]
            for start, end in _dashes(sample, 5 * _FINE) if line.dashed else [sample]:
                self.pen.line([start, end], line.colour, max(2, round(line.width)) * _FINE)
            right -= 20 * _FINE


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from just below or at `low` to just above or at `high`, `most` or one more of them."""
    span = high - low or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * most >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def number(value: float, among: Sequence[float]) -> str:
    """A tick's label, with as many digits as tell it from its neighbours."""
    digits = max(0, -math.floor(math.log10(among[1] - among[0]) + 1e-9))
    return f"{value + 0.0:.{digits}f}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        return low - abs(low) / 10 - 1e-3, high + abs(high) / 10 + 1e-3
    return low, high


def _dashes(places: Sequence[Point], length: float) -> list[tuple[Point, Point]]:
    """The drawn stretches of a dashed line."""
    dashes = []
    for (x0, y0), (x1, y1) in pairwise(places):
        count = max(1, round(math.dist((x0, y0), (x1, y1)) / length))
        cuts = [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]
        dashes += [pair for i, pair in enumerate(pairwise(cuts)) if i % 2 == 0]
    return dashes


def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points * _FINE)
