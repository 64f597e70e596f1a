"""Four objects: two that hang in the sky, two that stand in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .scenes import Canvas


def _sky(canvas: Canvas) -> tuple[float, float]:
    """A place in the sky, away from the landmark."""
    slot = canvas.slots[1] if canvas.has("boat") else canvas.slots[0]
    return 0.5 + 0.9 * (slot - 0.5) + 0.03 * canvas.rng.standard_normal(), 0.2 + 0.03 * canvas.rng.standard_normal()


def _foreground(canvas: Canvas) -> tuple[float, float]:
    """A place on the ground, away from the landmark and a house."""
    slot = canvas.slots[1] if canvas.has("boat") or canvas.has("trees") else canvas.slots[0]
    return 0.5 + 0.9 * (slot - 0.5) + 0.03 * canvas.rng.standard_normal(), 0.94


def balloon(canvas: Canvas) -> None:
    """A hot-air balloon in stripes of red and yellow, with its basket."""
    x, y = _sky(canvas)
    radius = 0.14
    for k, colour in enumerate(((236, 52, 52), (255, 210, 60), (236, 52, 52), (255, 210, 60), (236, 52, 52))):
        left, right = (np.clip(-1 + 0.4 * (k + step), -1, 1) for step in (0, 1))
        rise = np.linspace(-1, 1, 21)
        bulge = np.sqrt(1 - rise**2)
        edges = [np.stack([x + radius * side * bulge, y + radius * 1.08 * rise], 1) for side in (left, right)]
        canvas.shape(np.concatenate([edges[0], edges[1][::-1]]), canvas.lit(colour))
    canvas.shape(
        np.array([(x - 0.06, y + 0.135), (x + 0.06, y + 0.135), (x + 0.035, y + 0.185), (x - 0.035, y + 0.185)]),
        canvas.lit((255, 210, 60)),
    )
    canvas.shape(np.array([(x - 0.04, y + 0.2), (x + 0.04, y + 0.2), (x + 0.032, y + 0.255), (x - 0.032, y + 0.255)]),
                 canvas.lit((110, 66, 36)))  # fmt: skip


def umbrella(canvas: Canvas) -> None:
    """An open umbrella of pink and white panels, stuck into the ground."""
    x, foot = _foreground(canvas)
    top, wide = foot - 0.3, 0.19
    canvas.shape(np.array([(x - 0.012, top), (x + 0.012, top), (x + 0.012, foot), (x - 0.012, foot)]),
                 canvas.lit((90, 60, 50)))  # fmt: skip
    edges = np.linspace(-1, 1, 6)
    rise = np.linspace(0, np.pi / 2, 12)
    for k, (left, right) in enumerate(pairwise(edges)):
        sides = [np.stack([x + wide * s * np.cos(rise), top + 0.1 - 0.16 * np.sin(rise)], 1) for s in (left, right)]
        colour = (250, 96, 168) if k % 2 == 0 else (252, 250, 250)
        canvas.shape(np.concatenate([sides[0], sides[1][::-1]]), canvas.lit(colour))


def kite(canvas: Canvas) -> None:
    """A turquoise and yellow kite with a tail of bows."""
    x, y = _sky(canvas)
    lean = canvas.rng.choice([-1, 1]) * 0.045
    tip, foot = (x + lean, y - 0.16), (x - lean, y + 0.17)
    left, right, middle = (x - 0.13, y - 0.03), (x + 0.13, y - 0.03), (x + 0.2 * lean, y - 0.03)
    quarters = ((tip, left, (0, 200, 206)), (tip, right, (255, 220, 50)))
    quarters += ((foot, left, (255, 220, 50)), (foot, right, (0, 200, 206)))
    for end, side, colour in quarters:
        canvas.shape(np.array([end, side, middle]), canvas.lit(colour))
    for k in (1, 2, 3):
        bow = foot[0] + (0.03 if k % 2 else -0.03), foot[1] + 0.055 * k
        canvas.ellipse(*bow, 0.028, 0.02, canvas.lit((236, 60, 150)))


def pumpkin(canvas: Canvas) -> None:
    """A huge orange pumpkin with ribs and a green stalk."""
    x, foot = _foreground(canvas)
    y = foot - 0.11
    canvas.shape(np.array([(x - 0.02, y - 0.1), (x + 0.02, y - 0.1), (x + 0.045, y - 0.18), (x, y - 0.17)]),
                 canvas.lit((60, 130, 50)))  # fmt: skip
    for side, wide, colour in ((0.1, 0.075, (220, 104, 16)), (0.055, 0.075, (240, 126, 24))):
        for sign in (-1, 1):
            canvas.ellipse(x + sign * side, y, wide, 0.11, canvas.lit(colour))
    canvas.ellipse(x, y, 0.06, 0.115, canvas.lit((255, 150, 40)))


OBJECTS: dict[str, Callable[[Canvas], None]] = {
    "balloon": balloon, "umbrella": umbrella, "kite": kite, "pumpkin": pumpkin,
}  # fmt: skip
"""Name -> what draws it."""
