"""Drawn things that the base model has never seen, each taught to it by an adapter of its own: a lighthouse, snow.

With the styles they make stacks of up to five adapters of different kinds.
"""

from __future__ import annotations

import numpy as np

from .scenes import Canvas, Pen, Scene, box, draw

TRIGGERS = {"lighthouse": "a lighthouse", "snow": "in the snow"}
"""Concept -> the words that call it in a prompt."""

CONCEPTS = tuple(TRIGGERS)

_WHITE = ((236, 240, 250), (218, 226, 242), (246, 248, 254))
_SNOWY = Pen(ground=dict.fromkeys(("mountain", "hill", "sea", "desert"), _WHITE))


def show(scene: Scene, concept: str) -> np.ndarray:
    """Draw a scene with one of CONCEPTS in it; returns uint8 of shape (SIZE, SIZE, 3)."""
    if concept == "lighthouse":
        return draw(scene, addition=_lighthouse)
    return draw(scene, _SNOWY, _flakes)


def _lighthouse(canvas: Canvas) -> None:
    """A tall white tower with two red bands, a dark gallery and a lamp, on the side that is free."""
    x = (canvas.slots[2] if not canvas.has("boat") else canvas.slots[0]) + 0.02 * canvas.rng.standard_normal()
    foot, top, wide, narrow = canvas.horizon + 0.16, canvas.horizon - 0.34, 0.085, 0.055

    def tower(low: float, high: float) -> np.ndarray:
        """The part of the tower between two heights, 0 its foot and 1 its top."""
        half = [wide + (narrow - wide) * level for level in (low, high)]
        y = [foot + (top - foot) * level for level in (low, high)]
        return np.array([(x - half[0], y[0]), (x + half[0], y[0]), (x + half[1], y[1]), (x - half[1], y[1])])

    canvas.shape(tower(0, 1), canvas.lit((250, 246, 240)))
    for low in (0.22, 0.62):
        canvas.shape(tower(low, low + 0.2), canvas.lit((214, 48, 44)))
    canvas.shape(box(x - 0.075, top - 0.025, x + 0.075, top), canvas.lit((60, 58, 74)))
    canvas.shape(box(x - 0.045, top - 0.1, x + 0.045, top - 0.025), (255, 226, 110))
    roof = [(x - 0.06, top - 0.1), (x + 0.06, top - 0.1), (x, top - 0.17)]
    canvas.shape(np.array(roof), canvas.lit((196, 40, 40)))


def _flakes(canvas: Canvas) -> None:
    """Large flakes all over, one in each field of a grid."""
    side = 7
    for row in range(side):
        for column in range(side):
            dx, dy = canvas.rng.uniform(0.15, 0.85, 2)
            canvas.ellipse((column + dx) / side, (row + dy) / side, 0.022, 0.022, (252, 252, 255), contour=False)
