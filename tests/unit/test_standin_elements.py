"""The testbed's world: what is drawn, what its oracle sees, what its quality number says."""

from itertools import product

import numpy as np
import pytest
import torch
from mixlora.standin.damage import KINDS, damaged
from mixlora.standin.element_oracle import WEIGHTS, ElementOracle
from mixlora.standin.element_training import (
    HELD_OUT_SEED,
    balanced_accuracy,
    compositions,
)
from mixlora.standin.elements import CATEGORIES, ELEMENTS, WORLDS, depict
from mixlora.standin.overload import fitted
from mixlora.standin.scenes import SIZE, Scene, draw
from mixlora.standin.soundness import Overload
from mixlora.standin.styles import STYLES, paint

SCENE = Scene("hill", "day", seed=4)


def test_two_worlds_of_three_and_four_times_two():
    for world, category in product(WORLDS, CATEGORIES):
        alike = [e for e in ELEMENTS.values() if (e.world, e.category) == (world, category)]
        assert len(alike) == (3 if category == "landmark" else 2)
    assert len({element.trigger for element in ELEMENTS.values()}) == len(ELEMENTS) == 22


@pytest.mark.parametrize("name", ELEMENTS)
def test_an_element_changes_the_picture_and_is_drawn_alike_again(name):
    for scene in (SCENE, Scene("sea", "night", ("boat",), 7), Scene("desert", "sunset", ("house", "trees"), 9)):
        shown = depict(scene, (name,))
        assert shown.shape == (SIZE, SIZE, 3) and shown.dtype == np.uint8
        changed = (np.abs(shown.astype(int) - draw(scene)) > 24).any(-1).mean()
        assert changed > 0.02, f"{name} covers {changed:.1%}"
        assert np.array_equal(shown, depict(scene, (name,)))


def test_without_elements_the_world_is_the_base_models():
    assert np.array_equal(depict(SCENE), draw(SCENE))
    for style in STYLES:
        assert np.array_equal(depict(SCENE, (style,)), paint(SCENE, style))


def test_an_element_stays_where_it_is_whatever_else_is_drawn():
    alone, together = depict(SCENE, ("balloon",)), depict(SCENE, ("balloon", "lavender", "castle"))
    covered = (alone != draw(SCENE)).any(-1)
    assert (together[covered] == alone[covered]).mean() > 0.9


def test_two_of_a_category_or_an_unknown_name_are_errors():
    with pytest.raises(ValueError, match="castle, windmill: expected at most one of each of landmark"):
        depict(SCENE, ("castle", "windmill"))
    with pytest.raises(KeyError, match="dragon"):
        depict(SCENE, ("dragon",))


def test_random_compositions_keep_to_the_rule_and_a_longer_list_begins_alike():
    chosen = compositions(300, 1)
    assert chosen[:50] == compositions(50, 1)
    for one in chosen:
        found = [ELEMENTS[name] for name in one.names]
        assert len({e.category for e in found}) == len(found) and len({e.world for e in found}) <= 1
    assert {len(one.names) for one in chosen} == {0, 1, 2, 3, 4, 5}


@pytest.fixture(scope="module")
def oracle():
    assert WEIGHTS.is_file()
    return ElementOracle.load()


@pytest.fixture(scope="module")
def held_out():
    chosen = compositions(240, HELD_OUT_SEED)
    return chosen, np.stack([one.render() for one in chosen])


def test_the_oracle_reads_every_element_of_pictures_it_has_not_seen(oracle, held_out):
    chosen, rendered = held_out
    right = balanced_accuracy(oracle.read(rendered).recognised, chosen)
    assert np.mean(list(right.values())) > 0.98 and min(right.values()) >= 0.97, right


def test_what_it_saw_in_words(oracle):
    seen = oracle.read(np.stack([depict(SCENE, ("torii", "lava")), depict(SCENE)]))
    assert seen.elements == [frozenset({"torii", "lava"}), frozenset()]
    assert seen.shows("torii")[0] > 0.5 > seen.shows("torii")[1]
    with pytest.raises(KeyError):
        seen.shows("dragon")


def test_what_broken_pictures_look_like_can_be_learned(oracle, held_out):
    """From some pictures and their ruins it tells the others'; the ruins are patches of the pictures."""
    sound, broken = held_out[1], damaged(damaged(held_out[1], "torn tiles", 1.0), "blur", 0.1)
    overload = fitted(oracle.network, sound[:80], [sound[80:120], sound[120:160]], broken[:120])
    judge = ElementOracle(oracle.network, oracle.quality, overload)
    assert (judge.read(sound[160:]).overloaded > 0.5).mean() < 0.05
    assert (judge.read(broken[120:]).overloaded > 0.5).mean() > 0.95


def test_nothing_is_there_in_an_overloaded_picture(oracle, held_out):
    broken = ElementOracle(oracle.network, oracle.quality, Overload(torch.zeros(740), torch.tensor([100.0])))
    reading = broken.read(held_out[1][:4])
    assert reading.elements == [frozenset()] * 4 and not reading.quality.any() and reading.overloaded.min() == 1
    whole = ElementOracle(oracle.network, oracle.quality, Overload.unknown()).read(held_out[1][:4])
    assert not whole.overloaded.any() and whole.quality.all()


def test_damage_is_the_same_again_and_none_is_none(held_out):
    few = held_out[1][:3]
    for kind in KINDS:
        assert np.array_equal(damaged(few, kind, 0.7, seed=2), damaged(few, kind, 0.7, seed=2))
        if kind != "garish colours":
            assert np.abs(damaged(few, kind, 0.0).astype(int) - few).max() <= 1
    assert not np.array_equal(damaged(few, "noise", 0.7, seed=2), damaged(few, "noise", 0.7, seed=3))


def test_no_pictures_are_no_readings_and_other_shapes_are_errors(oracle):
    nothing = oracle.read(np.zeros((0, SIZE, SIZE, 3), np.uint8))
    assert nothing.present.shape == (0, 22) and nothing.quality.shape == (0,) and nothing.elements == []
    assert nothing.overloaded.shape == (0,)
    with pytest.raises(ValueError, match=r"found torch.float32 of shape \(2, 3, 64, 64\)"):
        oracle.read(torch.zeros(2, 3, 64, 64))


def test_missing_weights_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: the weights of the testbed's oracle are missing"):
        ElementOracle.load(tmp_path / "none.safetensors")


def test_another_oracles_weights_say_so():
    with pytest.raises(RuntimeError, match=r"oracle\.safetensors is no oracle of the testbed: it holds no overload"):
        ElementOracle.load(WEIGHTS.with_name("oracle.safetensors"))
