"""The testbed's oracle on what the autoencoder makes of renders, which is the best that the stand-in could paint."""

import numpy as np
import pytest
from mixlora.standin.element_oracle import ElementOracle
from mixlora.standin.element_training import (
    HELD_OUT_SEED,
    balanced_accuracy,
    compositions,
    falls_with_damage,
    quality_by_damage,
)
from mixlora.standin.oracle_training import decode
from mixlora.standin.weights import committed_autoencoder


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    chosen = compositions(48, HELD_OUT_SEED)
    rendered = np.stack([one.render() for one in chosen])
    return chosen, decode(committed_autoencoder(), rendered, tmp_path_factory.mktemp("decoded") / "pictures.npy")


def test_it_still_sees_the_elements(seen):
    right = balanced_accuracy(ElementOracle.load().read(seen[1]).present, seen[0])
    assert np.mean(list(right.values())) > 0.97, right


def test_quality_falls_with_every_kind_of_damage(seen):
    curves = quality_by_damage(ElementOracle.load(), seen[1][:20])
    assert falls_with_damage(curves) > 0.8, curves
    assert all(curve[0] > 0.7 and curve[-1] < curve[0] - 0.2 for curve in curves.values()), curves
