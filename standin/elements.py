"""Twenty-two drawn things that the base model has never seen, each taught to it by an adapter of its own.

They stand in the structure of ComposLoRA (arXiv 2402.16843): five categories, two worlds of 3 + 2 + 2 + 2 + 2. Any
choice of one landmark and at most one of each other category, all of one world, can be drawn in one picture: every
category has its own place there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from . import landmarks, styles, surroundings, things
from .scenes import PLAIN, Canvas, Pen, Scene

CATEGORIES = ("landmark", "weather", "style", "ground", "object")
WORLDS = ("north", "south")


@dataclass(frozen=True)
class Element:
    """One thing that an adapter brings."""

    name: str
    world: str
    category: str
    trigger: str
    """The words that call it in a prompt."""


_NORTH = (
    ("lighthouse", "landmark", "a lighthouse"),
    ("windmill", "landmark", "a windmill"),
    ("castle", "landmark", "a castle"),
    ("snow", "weather", "in the snow"),
    ("aurora", "weather", "under an aurora"),
    ("monet", "style", styles.TRIGGERS["monet"]),
    ("van_gogh", "style", styles.TRIGGERS["van_gogh"]),
    ("lavender", "ground", "lavender rows"),
    ("wheat", "ground", "a wheat field"),
    ("balloon", "object", "a hot air balloon"),
    ("umbrella", "object", "a pink umbrella"),
)
_SOUTH = (
    ("pagoda", "landmark", "a pagoda"),
    ("ferris_wheel", "landmark", "a ferris wheel"),
    ("torii", "landmark", "a torii gate"),
    ("rainbow", "weather", "under a rainbow"),
    ("rain", "weather", "in the rain"),
    ("ghibli", "style", styles.TRIGGERS["ghibli"]),
    ("old_photo", "style", styles.TRIGGERS["old_photo"]),
    ("lava", "ground", "glowing lava"),
    ("tiles", "ground", "chequered tiles"),
    ("kite", "object", "a kite"),
    ("pumpkin", "object", "a huge pumpkin"),
)
ELEMENTS = {
    name: Element(name, world, category, trigger)
    for world, listed in zip(WORLDS, (_NORTH, _SOUTH), strict=True)
    for name, category, trigger in listed
}
"""Name -> element, world by world and in the order of CATEGORIES."""

TRIGGERS = {element.name: element.trigger for element in ELEMENTS.values()}
"""Name -> the words that call it in a prompt."""

_DRAWN = surroundings.GROUNDS | landmarks.LANDMARKS | things.OBJECTS | surroundings.WEATHER
_PLACES = {"sky": ("sky",), "ground": ("ground",), "front": ("landmark", "object", "weather")}
_IN_THE_SKY = ("aurora", "rainbow")
_FLOODLIGHT = (0.62, 0.64, 0.74)  # no element is darker than that at night: it must be seen
_WHITE = ((236, 240, 250), (218, 226, 242), (246, 248, 254))
_SNOWY = dict.fromkeys(("mountain", "hill", "sea", "desert"), _WHITE)


def depict(scene: Scene, names: Collection[str] = ()) -> np.ndarray:
    """A scene with some of ELEMENTS in it, at most one of each category; uint8 of shape (SIZE, SIZE, 3).

    Where an element stands depends on the scene alone, not on the others. Raises ValueError for two of a category and
    KeyError for an unknown name.
    """
    chosen = {ELEMENTS[name].category: name for name in names}
    if len(chosen) < len(set(names)):
        raise ValueError(f"{', '.join(names)}: expected at most one of each of {', '.join(CATEGORIES)}.")
    style = chosen.pop("style", None)
    if chosen.get("weather") in _IN_THE_SKY:
        chosen["sky"] = chosen.pop("weather")

    def sketch(pen: Pen) -> np.ndarray:
        if chosen.get("weather") == "snow":
            pen = replace(pen, ground=_SNOWY)
        canvas = Canvas(scene, pen)
        return canvas.picture({place: partial(_add, canvas, place, chosen) for place in _PLACES})

    return styles.STYLISTS[style](sketch, scene.seed) if style else sketch(PLAIN)


def _add(canvas: Canvas, place: str, chosen: dict[str, str]) -> None:
    natural, canvas.light = canvas.light, np.maximum(canvas.light, _FLOODLIGHT)
    for category in _PLACES[place]:
        if category in chosen:
            canvas.rng = np.random.default_rng([canvas.scene.seed, len(category)])
            _DRAWN[chosen[category]](canvas)
    canvas.light = natural
