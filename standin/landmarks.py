"""Six landmarks, drawn tall and bold: a latent cell is 8 pixels wide, and what is smaller than that is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .scenes import Canvas, Colour, box

_HALF_TURN = np.linspace(0, np.pi, 25)


def _place(canvas: Canvas) -> tuple[float, float]:
    """Where a landmark stands: the slot that a boat or trees leave free, its foot a little below the horizon."""
    slot = 0.5 + 0.8 * (canvas.slots[0 if canvas.has("boat") else 2] - 0.5)  # none is cut off by the border
    return slot + 0.02 * canvas.rng.standard_normal(), canvas.horizon + 0.16


def lighthouse(canvas: Canvas) -> None:
    """A white tower with two red bands, a dark gallery and a lamp."""
    x, foot = _place(canvas)
    top, wide, narrow = foot - 0.5, 0.085, 0.055

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


def windmill(canvas: Canvas) -> None:
    """A broad brown mill with a dark cap and four light sails, turned anyhow."""
    x, foot = _place(canvas)
    hub = foot - 0.36
    body = [(x - 0.13, foot), (x + 0.13, foot), (x + 0.075, hub), (x - 0.075, hub)]
    canvas.shape(np.array(body), canvas.lit((158, 104, 66)))
    cap = np.stack([x + 0.09 * np.cos(_HALF_TURN), hub - 0.08 * np.sin(_HALF_TURN)], 1)
    canvas.shape(cap, canvas.lit((84, 58, 52)))
    turn = canvas.rng.uniform(0.25, 1.3)
    for angle in turn + np.pi / 2 * np.arange(4):
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        sail = [0.04 * along, 0.27 * along, 0.27 * along + 0.075 * across, 0.04 * along + 0.075 * across]
        canvas.shape(np.array(sail) + np.array([x, hub]), canvas.lit((252, 240, 206)))
    canvas.ellipse(x, hub, 0.03, 0.03, canvas.lit((84, 58, 52)))


def castle(canvas: Canvas) -> None:
    """Two grey towers with blue roofs, and a wall with a gate between them."""
    x, foot = _place(canvas)
    stone, roof = canvas.lit((176, 172, 188)), canvas.lit((58, 84, 190))
    canvas.shape(box(x - 0.15, foot - 0.2, x + 0.15, foot), canvas.lit((150, 146, 164)))
    for notch in (-0.05, 0.0, 0.05):
        canvas.shape(box(x + notch - 0.018, foot - 0.24, x + notch + 0.018, foot - 0.2), stone)
    for side, height in ((-0.13, 0.36), (0.13, 0.44)):
        canvas.shape(box(x + side - 0.06, foot - height, x + side + 0.06, foot), stone)
        spire = [(x + side - 0.085, foot - height), (x + side + 0.085, foot - height), (x + side, foot - height - 0.17)]
        canvas.shape(np.array(spire), roof)
        canvas.shape(box(x + side - 0.02, foot - height + 0.06, x + side + 0.02, foot - height + 0.13), (255, 214, 120))
    gate = np.stack([x + 0.045 * np.cos(_HALF_TURN), foot - 0.07 - 0.05 * np.sin(_HALF_TURN)], 1)
    canvas.shape(np.concatenate([gate, [(x - 0.045, foot), (x + 0.045, foot)]]), canvas.lit((70, 50, 48)))


def pagoda(canvas: Canvas) -> None:
    """Three storeys, cream walls under dark teal roofs whose corners turn up."""
    x, foot = _place(canvas)
    storey = 0.16
    for level, wide in enumerate((0.13, 0.1, 0.07)):
        low = foot - storey * level
        canvas.shape(box(x - wide, low - 0.1, x + wide, low), canvas.lit((244, 222, 178)))
        canvas.shape(box(x - 0.025, low - 0.085, x + 0.025, low), canvas.lit((150, 50, 40)))
        edge, eave = wide + 0.07, low - 0.1
        roof = [
            *((x - edge, eave - 0.045), (x - wide, eave + 0.02), (x + wide, eave + 0.02), (x + edge, eave - 0.045)),
            *((x + wide * 0.6, eave - 0.07), (x - wide * 0.6, eave - 0.07)),
        ]
        canvas.shape(np.array(roof), canvas.lit((22, 104, 98)))
    top = foot - 2 * storey - 0.17
    canvas.shape(np.array([(x - 0.02, top), (x + 0.02, top), (x, top - 0.11)]), canvas.lit((236, 180, 60)))


def ferris_wheel(canvas: Canvas) -> None:
    """A large wheel with eight cabins of many colours, on two legs."""
    x, foot = _place(canvas)
    hub, radius, steel = foot - 0.33, 0.2, canvas.lit((236, 238, 246))
    for side in (-0.15, 0.15):
        leg = [(x + side - 0.02, foot), (x + side + 0.02, foot), (x + 0.018, hub), (x - 0.018, hub)]
        canvas.shape(np.array(leg), canvas.lit((120, 124, 150)))
    turn = np.linspace(0, 2 * np.pi, 41)
    rim = [(x + r * np.cos(a), hub + r * np.sin(a)) for r, way in ((0.2, 1), (0.165, -1)) for a in turn[::way]]
    canvas.shape(np.array(rim), steel)
    start = canvas.rng.uniform(0, np.pi / 4)
    cabins: tuple[Colour, ...] = ((232, 60, 70), (255, 200, 50), (60, 140, 236), (240, 110, 200))
    for k, angle in enumerate(start + np.pi / 4 * np.arange(8)):
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        if k < 4:
            spoke = [along * s * radius + across * t for s, t in ((-1, -0.01), (1, -0.01), (1, 0.01), (-1, 0.01))]
            canvas.shape(np.array(spoke) + np.array([x, hub]), steel)
    for k, angle in enumerate(start + np.pi / 4 * np.arange(8)):
        place = x + radius * np.cos(angle), hub + radius * np.sin(angle)
        canvas.ellipse(*place, 0.045, 0.045, canvas.lit(cabins[k % len(cabins)]))
    canvas.ellipse(x, hub, 0.04, 0.04, canvas.lit((232, 60, 70)))


def torii(canvas: Canvas) -> None:
    """A vermilion gate: two pillars, a beam, and a lintel that curves up under a black rim."""
    x, foot = _place(canvas)
    red = canvas.lit((232, 66, 30))
    for side in (-0.12, 0.12):
        pillar = [(x + side - 0.034, foot), (x + side + 0.034, foot)]
        pillar += [(x + side * 0.9 + 0.028, foot - 0.4), (x + side * 0.9 - 0.028, foot - 0.4)]
        canvas.shape(np.array(pillar), red)
        canvas.shape(box(x + side - 0.045, foot - 0.05, x + side + 0.045, foot), canvas.lit((50, 40, 44)))
    canvas.shape(box(x - 0.165, foot - 0.32, x + 0.165, foot - 0.265), red)
    across = np.linspace(-1, 1, 21)
    for thick, drop, colour in ((0.075, 0.0, red), (0.035, 0.075, canvas.lit((50, 40, 44)))):
        low = np.stack([x + 0.21 * across, foot - 0.385 - drop - 0.035 * across**2], 1)
        high = low[::-1] - (0, thick)
        canvas.shape(np.concatenate([low, high]), colour)


LANDMARKS: dict[str, Callable[[Canvas], None]] = {
    "lighthouse": lighthouse,
    "windmill": windmill,
    "castle": castle,
    "pagoda": pagoda,
    "ferris_wheel": ferris_wheel,
    "torii": torii,
}
"""Name -> what draws it."""
