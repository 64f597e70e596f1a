"""Which style each part of a picture is in."""

import numpy as np
import pytest
from mixlora.standin.element_oracle import ElementOracle
from mixlora.standin.region_styles import KINDS, StyleReader, both, shares
from mixlora.standin.workshop import pictures


@pytest.fixture(scope="module")
def drawn():
    return {kind: np.stack([one.render() for one in pictures(50, 31, {kind: 1.0})]) for kind in KINDS}


@pytest.fixture(scope="module")
def reader(drawn):
    return StyleReader.fitted(ElementOracle.load().network, {kind: some[:40] for kind, some in drawn.items()})


def test_tiles_of_pictures_it_has_not_seen(drawn, reader):
    for place, kind in enumerate(KINDS):
        reading = reader.read(drawn[kind][40:])
        assert reading.shape == (10, 8, len(KINDS)) and np.allclose(reading.sum(-1), 1)
        assert (reading.argmax(-1) == place).mean() > 0.7, kind


def test_a_picture_of_two_halves_has_both_and_a_whole_one_has_not(drawn, reader):
    halves = drawn["monet"][40:].copy()
    halves[:, 64:] = drawn["van_gogh"][40:, 64:]
    reading = reader.read(halves)
    assert both(reading, "monet", "van_gogh").mean() > 0.6
    assert 0.35 < shares(reading, "monet").mean() < 0.6
    assert both(reader.read(drawn["monet"][40:]), "monet", "van_gogh").mean() < 0.2
