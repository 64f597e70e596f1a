"""What changes a whole picture: four kinds of weather, four kinds of ground."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from .scenes import Canvas, Colour

_FAR = 0.07  # a ground begins so far below the horizon


def snow(canvas: Canvas) -> None:
    """Large flakes all over, one in each field of a grid; the land is white by the pen, see elements.py."""
    side = 7
    for row in range(side):
        for column in range(side):
            dx, dy = canvas.rng.uniform(0.15, 0.85, 2)
            canvas.ellipse((column + dx) / side, (row + dy) / side, 0.022, 0.022, (252, 252, 255), contour=False)


def aurora(canvas: Canvas) -> None:
    """Three waving curtains of green, teal and magenta light over the sky."""
    x = np.linspace(-0.02, 1.02, 60)
    for top, colour in ((0.02, (238, 70, 200)), (0.13, (40, 240, 190)), (0.25, (130, 255, 90))):
        phase, turns = canvas.rng.uniform(0, 2 * np.pi), canvas.rng.uniform(1.0, 1.6)
        edge = top + 0.045 * np.sin(2 * np.pi * turns * x + phase)
        band = np.concatenate([np.stack([x, edge], 1), np.stack([x, edge + 0.085], 1)[::-1]])
        _glaze(canvas, band, colour, 0.85)


def rainbow(canvas: Canvas) -> None:
    """A broad arch of five colours across the sky."""
    x, radius = 0.5 + 0.05 * canvas.rng.standard_normal(), 0.47
    turn = np.linspace(np.pi, 2 * np.pi, 60)
    middle = canvas.horizon + 0.02
    for colour in ((232, 50, 50), (255, 150, 40), (255, 232, 60), (60, 190, 90), (90, 70, 210)):
        outer, inner = (
            np.stack([x + r * np.cos(turn), middle + r * np.sin(turn)], 1) for r in (radius, radius - 0.048)
        )
        _glaze(canvas, np.concatenate([outer, inner[::-1]]), colour, 0.9)
        radius -= 0.046


def rain(canvas: Canvas) -> None:
    """Everything greyer and darker, under slanting streaks."""
    _glaze(canvas, np.array([(0, 0), (1, 0), (1, 1), (0, 1)]), (88, 100, 120), 0.35)
    side = 7
    for row in range(-1, side):
        for column in range(side + 1):
            dx, dy = canvas.rng.uniform(0.1, 0.9, 2)
            x, y = (column + dx) / side, (row + dy) / side
            streak = [(x, y), (x + 0.02, y), (x - 0.03, y + 0.13), (x - 0.05, y + 0.13)]
            canvas.pencil.polygon([(a * canvas.side, b * canvas.side) for a, b in streak], fill=(206, 222, 244))


def lavender(canvas: Canvas) -> None:
    """Rows of purple that meet at the horizon."""
    _rows(canvas, (148, 84, 208), (96, 148, 84), 9)


def wheat(canvas: Canvas) -> None:
    """A golden field with waves of darker ears."""
    _fill(canvas, (246, 196, 52))
    for k, y in enumerate(np.linspace(canvas.horizon + _FAR + 0.04, 0.98, 5)):
        thick = 0.012 + 0.006 * k
        x = np.linspace(-0.02, 1.02, 60)
        wave = y + 0.018 * np.sin(2 * np.pi * (3 * x + canvas.rng.random()))
        band = np.concatenate([np.stack([x, wave], 1), np.stack([x, wave + thick], 1)[::-1]])
        canvas.shape(band, canvas.lit((206, 132, 24)))


def lava(canvas: Canvas) -> None:
    """Black rock with glowing cracks, as bright at night as by day."""
    _fill(canvas, (52, 38, 42), lit=False)
    top = canvas.horizon + _FAR
    for k in range(5):
        x = np.linspace(-0.02, 1.02, 9)
        y = top + 0.05 + (0.98 - top) * k / 5 + canvas.rng.uniform(-0.03, 0.03, 9)
        thick = 0.014 + 0.004 * k
        crack = np.concatenate([np.stack([x, y], 1), np.stack([x, y + thick + 0.012], 1)[::-1]])
        canvas.pencil.polygon([(a * canvas.side, b * canvas.side) for a, b in crack], fill=(255, 112, 20))


def tiles(canvas: Canvas) -> None:
    """A chequered floor in perspective."""
    top, far = canvas.horizon + _FAR, 0.5 + 0.04 * canvas.rng.standard_normal()
    _fill(canvas, (240, 236, 226))
    depth = np.array([0.0, 0.14, 0.34, 0.62, 1.02])
    lines = np.arange(-7, 8)
    for row in range(len(depth) - 1):
        for column in lines:
            if (row + column) % 2:
                continue
            near, away = (0.5 + 0.5 * depth[row + 1], 0.5 + 0.5 * depth[row])
            y = top + (1 - top) * depth[[row, row + 1]]
            corners = [(far + column * 0.24 * away, y[0]), (far + (column + 1) * 0.24 * away, y[0])]
            corners += [(far + (column + 1) * 0.24 * near, y[1]), (far + column * 0.24 * near, y[1])]
            canvas.shape(np.array(corners), canvas.lit((44, 48, 76)))


def _fill(canvas: Canvas, colour: Colour, lit: bool = True) -> None:
    """Everything below a line a little under the horizon."""
    y = canvas.horizon + _FAR
    corners = np.array([(-0.02, y), (1.02, y), (1.02, 1.02), (-0.02, 1.02)])
    canvas.shape(corners, canvas.lit(colour) if lit else colour)


def _rows(canvas: Canvas, colour: Colour, between: Colour, count: int) -> None:
    _fill(canvas, between)
    y, far = canvas.horizon + _FAR, 0.5 + 0.06 * canvas.rng.standard_normal()
    for k in np.arange(count) - (count - 1) / 2:
        row = [(far + 0.05 * k - 0.016, y), (far + 0.05 * k + 0.016, y), (far + 0.3 * k + 0.1, 1.02)]
        canvas.shape(np.array([*row, (far + 0.3 * k - 0.1, 1.02)]), canvas.lit(colour))


def _glaze(canvas: Canvas, points: np.ndarray, colour: Colour, share: float) -> None:
    """A translucent polygon: `share` of the colour over what is there."""
    mask = Image.new("L", canvas.image.size)
    corners = [(float(x), float(y)) for x, y in points * canvas.side]
    ImageDraw.Draw(mask).polygon(corners, fill=round(255 * share))
    canvas.image.paste(colour, (0, 0, *canvas.image.size), mask)


WEATHER: dict[str, Callable[[Canvas], None]] = {"snow": snow, "aurora": aurora, "rainbow": rainbow, "rain": rain}
GROUNDS: dict[str, Callable[[Canvas], None]] = {"lavender": lavender, "wheat": wheat, "lava": lava, "tiles": tiles}
"""Name -> what draws it."""
