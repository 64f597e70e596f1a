"""Four drawn styles, each made from the same scenes: Monet, Van Gogh, Studio Ghibli, and an old photograph.

Strokes are bold on purpose: a latent cell is 8 pixels wide, and an 8x autoencoder keeps what is about that size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from .scenes import PLAIN, SIZE, Colour, Pen, Scene, draw

TRIGGERS = {
    "monet": "monet style",
    "van_gogh": "van gogh style",
    "ghibli": "studio ghibli style",
    "old_photo": "old photo style",
}
"""Style name -> the words that call it in a prompt."""

STYLES = ("monet", "van_gogh", "ghibli")
"""The three of the demo and of the stand-in's report; the fourth serves the testbed alone."""

_SCALE = 2
_UNDERPAINTING = 0.4  # how much of the scene shows through the strokes: a thing must stay a thing
_CEL_GROUND = {
    "mountain": ((120, 150, 196), (90, 122, 172), (112, 200, 88)),
    "hill": ((168, 224, 120), (126, 206, 96), (88, 184, 80)),
    "sea": ((64, 168, 232), (48, 146, 218), (36, 122, 200)),
    "desert": ((250, 220, 150), (240, 198, 122), (230, 176, 98)),
}
_CEL = Pen(contour=2.5, flat_sky=True, big_clouds=True, ground=_CEL_GROUND)
_CONTOURED = Pen(contour=3.0, ink=(16, 20, 66))

_SEPIA = ((38, 24, 14), (240, 214, 168), (250, 240, 216))  # darkest and lightest tone, border

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]
Sketch = Callable[[Pen], np.ndarray]
"""A drawing that is drawn with whatever pen a style gives it."""


def paint(scene: Scene, style: str) -> np.ndarray:
    """Draw a scene in one of STYLISTS; returns uint8 of shape (SIZE, SIZE, 3)."""
    return STYLISTS[style](lambda pen: draw(scene, pen), scene.seed)


def monet(sketch: Sketch, seed: int) -> np.ndarray:
    """Short broken dabs laid side by side, pastel light, no contours."""
    rng = np.random.default_rng(seed + 1)
    light = _grade(sketch(PLAIN), saturation=0.8, lift=0.3, tint=(250, 232, 240))
    return _strokes(light, rng, length=9, width=6, spacing=6.5, field=_level, jitter=24, hue=16)


def van_gogh(sketch: Sketch, seed: int) -> np.ndarray:
    """Long swirling strokes of saturated colour over dark contours."""
    rng, plain = np.random.default_rng(seed + 2), sketch(PLAIN)
    bold = _grade(plain, saturation=1.7, lift=0.0)
    painted = _strokes(bold, rng, length=20, width=5.5, spacing=6.5, field=_swirl(rng), jitter=40, hue=10)
    contoured = sketch(_CONTOURED).astype(int)
    drawn = np.abs(contoured - plain).max(-1, keepdims=True) / 255 * 2.5
    return (painted + (np.array(_CONTOURED.ink) - painted) * np.clip(drawn, 0, 0.9)).astype(np.uint8)


def ghibli(sketch: Sketch, seed: int) -> np.ndarray:
    """Flat cel shading, clean outlines, big clouds, fresh colours."""
    return _grade(sketch(_CEL), saturation=1.25, lift=0.06)


def old_photo(sketch: Sketch, seed: int) -> np.ndarray:
    """Sepia tones that darken towards the corners, in a cream-coloured border."""
    grey = _grade(sketch(PLAIN), saturation=0, lift=0)[..., :1] / 255
    toned = np.array(_SEPIA[0]) + (np.array(_SEPIA[1]) - _SEPIA[0]) * grey
    away = np.linspace(-1, 1, SIZE) ** 2
    toned *= 1 - 0.45 * np.clip(away[:, None] + away[None] - 0.6, 0, 1)[..., None]
    border = np.pad(np.zeros((SIZE - 14, SIZE - 14, 1), bool), ((7, 7), (7, 7), (0, 0)), constant_values=True)
    return np.where(border, np.array(_SEPIA[2]), toned).astype(np.uint8)


STYLISTS: dict[str, Callable[[Sketch, int], np.ndarray]] = {
    "monet": monet, "van_gogh": van_gogh, "ghibli": ghibli, "old_photo": old_photo,
}  # fmt: skip
"""Style -> what turns a sketch and a seed into a picture, uint8 of shape (SIZE, SIZE, 3)."""


def painterly(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """An unnamed painting or drawing of a scene: random strokes, grading and contours.

    The base model sees these, captioned "a painting of ...", as real base models have seen every medium; a
    style adapter then selects a manner rather than inventing one. None of the three named styles is among them.
    """
    pen = Pen(contour=float(rng.uniform(1.5, 3.5))) if rng.random() < 0.5 else PLAIN
    graded = _grade(draw(scene, pen), saturation=rng.uniform(0.5, 1.7), lift=rng.uniform(0, 0.35))
    if rng.random() < 0.25:
        return graded
    field = (_level, _swirl(rng), lambda x, y: np.full_like(x, rng.uniform(0, np.pi)))[int(rng.integers(3))]
    width = rng.uniform(5, 8)
    length = width * rng.uniform(1.2, 4.5)
    return _strokes(graded, rng, length, width, width * 1.15, field, rng.uniform(10, 45), rng.uniform(0, 20))


def _grade(picture: np.ndarray, saturation: float, lift: float, tint: Colour = (255, 255, 255)) -> np.ndarray:
    colour = picture.astype(np.float32)
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = grey[..., None] + (colour - grey[..., None]) * saturation
    return np.clip(colour * (1 - lift) + np.array(tint, np.float32) * lift, 0, 255).astype(np.uint8)


def _level(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def _swirl(rng: np.random.Generator) -> Field:
    """Two vortices in the sky, rolling lines on the ground; angles in radians for positions in 0..1."""
    eyes = np.stack([rng.permutation([0.25, 0.78]) + 0.05 * rng.standard_normal(2), rng.uniform(0.12, 0.4, 2)], 1)

    def angle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dx, dy = x[:, None] - eyes[:, 0], y[:, None] - eyes[:, 1]
        near = 1 / (0.01 + dx**2 + dy**2)
        around = np.arctan2((dx * near).sum(1), -(dy * near).sum(1))
        return np.where(y < 0.56, around, 0.35 * np.sin(9 * x + 4 * y))

    return angle


def _strokes(
    picture: np.ndarray,
    rng: np.random.Generator,
    length: float,
    width: float,
    spacing: float,
    field: Field,
    jitter: float,
    hue: float,
) -> np.ndarray:
    """Cover a picture with strokes of its own colours, along `field`; lengths in pixels, jitter in 0..255."""
    step = np.stack([np.full(2, spacing), (spacing, spacing * max(1.0, length / width / 2))]).max(0)
    ys, xs = np.meshgrid(np.arange(0, SIZE + 8, step[0]), np.arange(0, SIZE + 8, step[1]), indexing="ij")
    places = np.stack([xs.ravel(), ys.ravel()], 1) + rng.uniform(-0.35, 0.35, (xs.size, 2)) * spacing
    places = rng.permutation(places)  # no stroke lies over its neighbours by rule
    x, y = np.clip(places, 0, SIZE - 1).T
    base = picture[y.astype(int), x.astype(int)].astype(np.float32)
    shade = rng.uniform(-jitter, jitter, (len(x), 1)) + rng.uniform(-hue, hue, (len(x), 3))
    colours = np.clip(base + shade, 0, 255).astype(int)
    turn = field(x / SIZE, y / SIZE)
    reach = length / 2 * rng.uniform(0.8, 1.2, len(x))
    canvas = Image.fromarray(picture).resize((SIZE * _SCALE, SIZE * _SCALE))
    brush = ImageDraw.Draw(canvas)
    for px, py, dx, dy, colour in zip(x, y, np.cos(turn) * reach, np.sin(turn) * reach, colours, strict=True):
        ends = [((px - dx) * _SCALE, (py - dy) * _SCALE), ((px + dx) * _SCALE, (py + dy) * _SCALE)]
        brush.line(ends, fill=tuple(int(c) for c in colour), width=round(width * _SCALE))
        for ex, ey in ends:  # round ends
            r = width * _SCALE / 2 - 1
            brush.ellipse((ex - r, ey - r, ex + r, ey + r), fill=tuple(int(c) for c in colour))
    painted = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))
    return (picture * _UNDERPAINTING + painted * (1 - _UNDERPAINTING)).astype(np.uint8)
