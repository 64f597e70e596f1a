"""Drawn landscapes with captions: the world that the stand-in model knows.

A `Scene` is a description (land form, time of day, objects, seed); `draw` turns it into a picture and
`Scene.caption` into words. The same description drawn with another `Pen` gives the same composition with
other lines and colours, which is how styles.py gets pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
"""Width and height of a picture in pixels."""

LANDS = ("mountain", "hill", "sea", "desert")
TIMES = ("day", "sunset", "night")
OBJECTS = ("house", "trees", "boat", "flowers", "clouds")
GROWS_ON = {
    "mountain": ("house", "trees", "flowers", "clouds"),
    "hill": ("house", "trees", "flowers", "clouds"),
    "sea": ("boat", "clouds"),
    "desert": ("house", "trees", "clouds"),
}
"""Which objects may stand in which land."""

_PLURAL = {"mountain": "mountains", "hill": "hills", "sea": "the sea", "desert": "a desert"}
_WORDS = {"house": "a house", "trees": "trees", "boat": "a boat", "flowers": "flowers", "clouds": "clouds"}
_SKY = {
    "day": ((84, 156, 236), (196, 228, 252)),
    "sunset": ((96, 62, 150), (255, 168, 84)),
    "night": ((10, 14, 48), (44, 58, 112)),
}
_SUN = {"day": (255, 240, 140), "sunset": (255, 112, 52), "night": (240, 240, 224)}
_LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (0.88, 0.68, 0.66), "night": (0.36, 0.40, 0.58)}
_GROUND = {
    "mountain": ((128, 130, 152), (100, 104, 126), (86, 142, 74)),
    "hill": ((138, 186, 116), (106, 166, 88), (74, 140, 62)),
    "sea": ((48, 122, 192), (40, 104, 176), (34, 90, 158)),
    "desert": ((232, 198, 138), (216, 176, 110), (200, 156, 90)),
}
_PETALS = ((236, 60, 76), (252, 212, 66), (224, 108, 214), (250, 250, 250))
_SCALE = 2  # drawn at twice the size, then averaged down: smooth edges

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What a picture shows; equal scenes draw equal pictures.

    `seed` decides everything that the words leave open: positions, ridges, colours of petals.
    """

    land: str
    time: str
    objects: tuple[str, ...] = ()
    seed: int = 0

    @property
    def caption(self) -> str:
        """The scene in words, for example "a hill landscape at day with a house and trees"."""
        words = [_WORDS[thing] for thing in self.objects]
        return f"a {self.land} landscape at {self.time}" + (f" with {' and '.join(words)}" if words else "")

    @property
    def loose_caption(self) -> str:
        """The same in looser words that leave the time open: "a landscape with hills, trees and sky"."""
        words = [_PLURAL[self.land], *(_WORDS[thing] for thing in self.objects)]
        return f"a landscape with {', '.join(words)} and sky"


@dataclass(frozen=True)
class Pen:
    """How shapes are drawn: contour width in pixels (0: none) and its colour, flat or shaded sky, big clouds."""

    contour: float = 0.0
    ink: Colour = (30, 28, 44)
    flat_sky: bool = False
    big_clouds: bool = False
    ground: dict[str, tuple[Colour, Colour, Colour]] = field(default_factory=lambda: dict(_GROUND))


PLAIN = Pen()


def random_scene(rng: np.random.Generator, objects: int | None = None) -> Scene:
    """Draw a scene at random: land and time uniform, none to two objects that grow on that land."""
    land, time = str(rng.choice(LANDS)), str(rng.choice(TIMES))
    things = GROWS_ON[land]
    count = int(rng.choice(3, p=(0.2, 0.5, 0.3))) if objects is None else min(objects, len(things))
    chosen = sorted(rng.choice(things, count, replace=False).tolist(), key=OBJECTS.index)
    return Scene(land, time, tuple(chosen), int(rng.integers(2**31)))


def draw(scene: Scene, pen: Pen = PLAIN) -> np.ndarray:
    """Draw a scene; returns uint8 of shape (SIZE, SIZE, 3)."""
    return Canvas(scene, pen).picture()


def sheet(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Tile pictures of one size into a contact sheet, one list a row."""
    return Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows], 0))


class Canvas:
    """One drawing in progress; coordinates run from 0 to 1, y downwards."""

    def __init__(self, scene: Scene, pen: Pen) -> None:
        self.scene, self.pen = scene, pen
        self.rng = np.random.default_rng(scene.seed)
        self.side = SIZE * _SCALE
        self.light = np.array(_LIGHT[scene.time])
        self.horizon = 0.56 + 0.06 * self.rng.random()
        self.slots = [float(x) for x in self.rng.permutation([0.2, 0.5, 0.8])]  # things never cover each other
        self.image = Image.new("RGB", (self.side, self.side))
        self.pencil = ImageDraw.Draw(self.image)

    def picture(self, additions: Mapping[str, Callable[[], None]] | None = None) -> np.ndarray:
        """The finished drawing, uint8 of shape (SIZE, SIZE, 3); additions are drawn over the "sky", "ground", "front".

        Each sets its own random numbers.
        """
        # Every part draws its random numbers even when absent, so that a Pen never moves the composition.
        seeds = self.rng.integers(2**31, size=8)
        parts = [self._sky, self._sun, self._clouds, self._land, self._trees, self._house, self._boat, self._flowers]
        over = {self._clouds: "sky", self._land: "ground", self._flowers: "front"}
        for part, seed in zip(parts, seeds, strict=True):
            self.rng = np.random.default_rng(seed)
            part()
            (additions or {}).get(over.get(part, ""), lambda: None)()
        small = self.image.resize((SIZE, SIZE), Image.Resampling.BOX)
        return np.asarray(small)

    def has(self, thing: str) -> bool:
        """Whether the scene asks for an object."""
        return thing in self.scene.objects

    def lit(self, colour: Sequence[float]) -> Colour:
        """A colour as it looks at the scene's time of day."""
        r, g, b = np.clip(np.array(colour) * self.light, 0, 255).astype(int)
        return int(r), int(g), int(b)

    def shape(self, points: np.ndarray, fill: Colour) -> None:
        """A polygon through points (n, 2), contoured as the pen says."""
        corners = [(float(x), float(y)) for x, y in np.asarray(points) * self.side]
        self.pencil.polygon(corners, fill=fill)
        if self.pen.contour:
            width = round(self.pen.contour * _SCALE)
            self.pencil.line([*corners, corners[0]], fill=self.pen.ink, width=width, joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour, contour: bool = True) -> None:
        """An ellipse around (x, y)."""
        turn = np.linspace(0, 2 * np.pi, 33)[:-1]
        points = np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1)
        if contour:
            self.shape(points, fill)
        else:
            self.pencil.polygon([(float(a), float(b)) for a, b in points * self.side], fill=fill)

    def blob(self, discs: np.ndarray, fill: Colour) -> None:
        """Discs (x, y, rx, ry) drawn as one shape: contours first, then the fills over them."""
        grow = self.pen.contour / SIZE / 2
        if grow:
            for x, y, rx, ry in discs:
                self.ellipse(x, y, rx + grow, ry + grow, self.pen.ink, contour=False)
        for x, y, rx, ry in discs:
            self.ellipse(x, y, rx - grow, ry - grow, fill, contour=False)

    def _sky(self) -> None:
        top, bottom = (np.array(colour, float) for colour in _SKY[self.scene.time])
        down = np.linspace(0, 1, self.side)[:, None, None] / 0.75
        if self.pen.flat_sky:
            down = np.floor(down * 2.5) / 2.5
        rows = top + (bottom - top) * np.clip(down, 0, 1)
        self.image.paste(Image.fromarray(np.repeat(rows, self.side, 1).astype(np.uint8)))

    def _sun(self) -> None:
        x, low = 0.15 + 0.7 * self.rng.random(), self.scene.time == "sunset"
        y = (0.34 if low else 0.13) + 0.1 * self.rng.random()
        self.ellipse(x, y, 0.075, 0.075, _SUN[self.scene.time])

    def _clouds(self) -> None:
        if not (self.has("clouds") or self.pen.big_clouds):
            return
        size = 1.5 if self.pen.big_clouds and self.has("clouds") else 1.0
        white = self.lit((255, 255, 255)) if self.scene.time != "night" else (128, 134, 168)
        for x in (0.22, 0.74) if self.has("clouds") else (0.5,):
            x, y = x + 0.08 * self.rng.standard_normal(), 0.16 + 0.16 * self.rng.random()
            puffs = [(-0.11, 0.0, 0.07), (0.0, -0.025, 0.09), (0.11, 0.0, 0.07)]
            discs = [(x + dx * size, y + dy * size, r * size, 0.62 * r * size) for dx, dy, r in puffs]
            self.blob(np.array(discs), white)

    def _land(self) -> None:
        colours = self.pen.ground[self.scene.land]
        if self.scene.land == "mountain":
            self._layer(self._peaks(0.40), self.horizon, colours[0])
            self._layer(self._peaks(0.20), self.horizon + 0.04, colours[1])
            self._layer(self._waves(0.05, 1), self.horizon + 0.12, colours[2])
        elif self.scene.land == "sea":
            for k, colour in enumerate(colours):
                self._layer(self._waves(0.006, 3), self.horizon + 0.13 * k, colour)
        else:
            height, turns = (0.13, 1.0) if self.scene.land == "hill" else (0.08, 0.7)
            for k, colour in enumerate(colours):
                self._layer(self._waves(height, turns), self.horizon + 0.03 + 0.11 * k, colour)

    def _layer(self, rise: np.ndarray, base: float, colour: Colour) -> None:
        x = np.linspace(-0.05, 1.05, len(rise))
        top = np.stack([x, base - rise], 1)
        self.shape(np.concatenate([top, [[1.05, 1.05], [-0.05, 1.05]]]), self.lit(colour))

    def _peaks(self, height: float) -> np.ndarray:
        count = int(self.rng.integers(2, 4))
        tops = (np.arange(count) + 0.3 + 0.4 * self.rng.random(count)) / count
        valleys = np.concatenate([[-0.1], (tops[1:] + tops[:-1]) / 2, [1.1]])
        x = np.sort(np.concatenate([tops, valleys]))
        y = np.where(np.isin(x, tops), height * (0.7 + 0.3 * self.rng.random(len(x))), height * 0.1)
        return np.interp(np.linspace(-0.05, 1.05, 111), x, y)

    def _waves(self, height: float, turns: float) -> np.ndarray:
        x = np.linspace(-0.05, 1.05, 56)
        swell = sum(np.sin(2 * np.pi * (turns * k * x + self.rng.random())) / k for k in (1, 2))
        return height * (0.5 + 0.4 * np.asarray(swell))

    def _trees(self) -> None:
        if not self.has("trees"):
            return
        for k in range(2):
            x = self.slots[0] + 0.17 * (k - 0.5) + 0.02 * self.rng.standard_normal()
            y, h = self.horizon + 0.22 + 0.08 * self.rng.random(), 0.30 + 0.05 * self.rng.random()
            self.shape(box(x - 0.018, y - 0.5 * h, x + 0.018, y), self.lit((110, 74, 46)))
            crown = [(x - 0.045, y - 0.55 * h), (x + 0.045, y - 0.55 * h), (x, y - 0.78 * h)]
            self.blob(np.array([(a, b, 0.062, 0.068) for a, b in crown]), self.lit((52, 128, 58)))

    def _house(self) -> None:
        if not self.has("house"):
            return
        x, y, w, h = self.slots[1], self.horizon + 0.26 + 0.06 * self.rng.random(), 0.13, 0.17
        window = (255, 216, 110) if self.scene.time == "night" else self.lit((120, 176, 216))
        self.shape(box(x - w, y - h, x + w, y), self.lit((236, 220, 190)))
        roof = [(x - w - 0.03, y - h), (x + w + 0.03, y - h), (x, y - h - 0.13)]
        self.shape(np.array(roof), self.lit((196, 62, 46)))
        self.shape(box(x - 0.095, y - 0.125, x - 0.03, y - 0.06), window)
        self.shape(box(x + 0.025, y - 0.115, x + 0.09, y), self.lit((110, 68, 44)))

    def _boat(self) -> None:
        if not self.has("boat"):
            return
        x, y = self.slots[2], self.horizon + 0.2 + 0.08 * self.rng.random()
        hull = [(x - 0.15, y), (x + 0.15, y), (x + 0.1, y + 0.075), (x - 0.1, y + 0.075)]
        sail = [(x + 0.015, y - 0.02), (x + 0.015, y - 0.31), (x + 0.14, y - 0.02)]
        jib = [(x - 0.01, y - 0.02), (x - 0.01, y - 0.25), (x - 0.11, y - 0.02)]
        self.shape(np.array(sail), self.lit((250, 246, 236)))
        self.shape(np.array(jib), self.lit((232, 96, 72)))
        self.shape(np.array(hull), self.lit((136, 74, 42)))

    def _flowers(self) -> None:
        if not self.has("flowers"):
            return
        petal = self.lit(_PETALS[int(self.rng.integers(len(_PETALS)))])
        for row, y in enumerate((0.86, 0.95)):
            for x in np.arange(0.06 + 0.06 * row, 1.0, 0.125):
                dx, dy = 0.012 * self.rng.standard_normal(2)
                self.ellipse(x + dx, y + dy, 0.032, 0.032, petal)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The corners of a rectangle, for `Canvas.shape`."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
