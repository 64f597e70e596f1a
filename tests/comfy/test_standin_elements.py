"""The testbed's oracle on what the autoencoder makes of renders, which is the best that the stand-in could paint."""

import numpy as np
import pytest
from mixlora.standin import element_training, oracle_training, workshop
from mixlora.standin.build import NAME, build_checkpoint
from mixlora.standin.damage import damaged
from mixlora.standin.element_oracle import WEIGHTS, ElementOracle
from mixlora.standin.element_training import (
    HELD_OUT_SEED,
    balanced_accuracy,
    compositions,
    train_element_oracle,
)
from mixlora.standin.oracle_training import decode
from mixlora.standin.quality import by_damage, falls_with_damage, recalibrate
from mixlora.standin.sampling import Painter, Shot
from mixlora.standin.weights import adapter_file, committed_autoencoder
from safetensors.torch import load_file

NORTH = ["castle", "snow", "balloon"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    chosen = compositions(48, HELD_OUT_SEED)
    rendered = np.stack([one.render() for one in chosen])
    return chosen, decode(committed_autoencoder(), rendered, tmp_path_factory.mktemp("decoded") / "pictures.npy")


def test_it_still_sees_the_elements(seen):
    right = balanced_accuracy(ElementOracle.load().read(seen[1]).recognised, seen[0])
    assert np.mean(list(right.values())) > 0.97, right


def test_sound_pictures_are_not_overloaded_and_far_too_strong_adapters_overload(seen, tmp_path):
    oracle = ElementOracle.load()
    assert (oracle.read(seen[1]).overloaded > 0.5).mean() < 0.05
    painter = Painter(build_checkpoint(tmp_path / NAME), {n: adapter_file(n) for n in NORTH}, tmp_path)
    shots = [
        Shot(tuple((name, strength) for name in names), "a hill landscape at day, a castle, in the snow", 3)
        for names, strength in ((["castle"], 1.0), (["snow"], 1.0), (NORTH, 2.0))
    ]
    reading = oracle.read(painter.paint(shots, "some"))
    assert (reading.overloaded > 0.5).tolist() == [False, False, True]
    assert not reading.elements[2] and reading.quality[2] < 0.5


def test_quality_falls_with_every_kind_of_damage(seen):
    curves = by_damage(ElementOracle.load(), seen[1][:20])
    assert falls_with_damage(curves) > 0.8, curves
    assert all(curve[0] > 0.7 and curve[-1] < curve[0] - 0.2 for curve in curves.values()), curves


def test_what_single_adapters_paint_is_sound(seen):
    """Soft pictures, as of a soft style, are far from all that is drawn; once known, they read sound."""
    oracle, soft = ElementOracle.load(), damaged(seen[1], "blur", 0.6)
    again = recalibrate(oracle, seen[1], soft, damaged(seen[1], "torn tiles", 1.0))
    assert again.read(soft[3::4]).quality.mean() > oracle.read(soft[3::4]).quality.mean() + 0.2
    assert again.network is oracle.network
    torn = damaged(soft, "torn tiles", 1.0)
    assert again.read(torn).quality.mean() < again.read(soft).quality.mean() - 0.2


def test_resumed_training_is_the_same_training(tmp_path, monkeypatch):
    """Killed in its third step, the training goes on to the same bits, calibration included."""
    monkeypatch.setattr(oracle_training, "_BATCH", 8)
    monkeypatch.setattr(element_training, "_DECODED", 4)
    monkeypatch.setattr(element_training, "_REAL", 8)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_element_oracle(whole, steps=3, count=10, path=whole / "weights")

    def killed(clean, random):
        if random.initial_seed() == 2:
            raise KeyboardInterrupt
        return augmented(clean, random)

    augmented = oracle_training.augmented
    monkeypatch.setattr(oracle_training, "Run", lambda *given, every: workshop.Run(*given, every=-1.0))
    monkeypatch.setattr(oracle_training, "augmented", killed)
    with pytest.raises(KeyboardInterrupt):
        train_element_oracle(broken, steps=3, count=10, path=broken / "weights")
    assert not (broken / "weights").exists()
    monkeypatch.setattr(oracle_training, "augmented", augmented)
    train_element_oracle(broken, steps=3, count=10, path=broken / "weights")
    first, second = load_file(whole / "weights"), load_file(broken / "weights")
    assert first.keys() == second.keys() == load_file(WEIGHTS).keys()
    assert all((first[key] == second[key]).all() for key in first)
