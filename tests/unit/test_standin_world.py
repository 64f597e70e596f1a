"""Any set of elements of one world can be drawn in one picture: none hides another, and the oracle reads them all."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np
import pytest
from mixlora.standin.element_oracle import WEIGHTS, ElementOracle
from mixlora.standin.element_training import HELD_OUT_SEED
from mixlora.standin.elements import CATEGORIES, ELEMENTS, WORLDS, depict
from mixlora.standin.scenes import GROWS_ON, LANDS, TIMES, Scene, random_scene

# Every land, every time of day, with one or two things of the base model in it.
SCENES = [Scene(land, TIMES[k % 3], GROWS_ON[land][: k % 2 + 1], 20 + k) for k, land in enumerate(LANDS)]


def of(world: str, category: str) -> list[str]:
    return [e.name for e in ELEMENTS.values() if (e.world, e.category) == (world, category)]


def companions(name: str, turn: int) -> list[str]:
    """One element of each other category of the same world, by turns, but no style: its strokes fall anew."""
    own = ELEMENTS[name]
    alike = (of(own.world, category) for category in CATEGORIES if category not in (own.category, "style"))
    return [names[turn % len(names)] for names in alike]


def changed(scene: Scene, names: Collection[str], others: Collection[str]) -> np.ndarray:
    """How far each pixel differs between two choices of elements, (SIZE, SIZE), in 0..255."""
    return np.abs(depict(scene, names).astype(int) - depict(scene, others)).max(-1)


@pytest.mark.parametrize("name", ELEMENTS)
def test_no_element_is_hidden_by_the_others(name):
    for turn, scene in enumerate(SCENES):
        others = companions(name, turn)
        share = (changed(scene, [*others, name], others) > 24).mean()
        assert share > 0.03, f"{name} beside {', '.join(others)} in {scene} covers {share:.1%}"


@pytest.mark.parametrize("name", ELEMENTS)
def test_no_element_resembles_another_of_its_category(name):
    own = ELEMENTS[name]
    for other in set(of(own.world, own.category)) - {name}:
        for scene in SCENES:
            share = (changed(scene, [name], [other]) > 24).mean()
            assert share > 0.08, f"{name} and {other} differ in {share:.1%} of {scene}"


@pytest.mark.parametrize("style", [e.name for e in ELEMENTS.values() if e.category == "style"])
def test_a_style_keeps_landmarks_apart(style):
    scene, landmarks = Scene("hill", "day", seed=31), of(ELEMENTS[style].world, "landmark")
    drawn = [changed(scene, [name], []).ravel() for name in landmarks]
    painted = [changed(scene, [name, style], [style]).ravel() for name in landmarks]
    likeness = np.corrcoef([*painted, *drawn])[:3, 3:]
    assert (np.diag(likeness) > 0.7).all() and likeness.argmax(1).tolist() == [0, 1, 2], f"{landmarks}: {likeness}"


def test_the_order_of_names_does_not_matter():
    names = ["umbrella", "wheat", "monet", "aurora", "castle"]
    assert np.array_equal(depict(SCENES[1], names), depict(SCENES[1], names[::-1]))


def test_the_oracle_reads_every_set_of_five():
    random = np.random.default_rng(HELD_OUT_SEED)
    sets = [frozenset(names) for world in WORLDS for names in product(*(of(world, kind) for kind in CATEGORIES))]
    reading = ElementOracle.load().read(np.stack([depict(random_scene(random), names) for names in sets]))
    seen = [frozenset(np.array(list(ELEMENTS))[row > 0.5].tolist()) for row in reading.recognised]
    wrong = [(sorted(asked - found), sorted(found - asked)) for asked, found in zip(sets, seen, strict=True)]
    assert len(sets) == 96
    assert sum(pair != ([], []) for pair in wrong) <= 5, wrong


def test_the_oracle_is_small_enough_to_be_committed():
    assert WEIGHTS.stat().st_size <= 1_000_000
