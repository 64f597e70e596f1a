"""Which style each part of a picture is in."""

import numpy as np
import pytest
from mixlora.standin import experts
from mixlora.standin.element_oracle import ElementOracle
from mixlora.standin.elements import TRIGGERS
from mixlora.standin.region_styles import KINDS, StyleReader, both, shares
from mixlora.standin.workshop import pictures
from PIL import Image


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


def test_pictures_for_the_router_have_the_style_named_first_above(tmp_path, reader, monkeypatch):
    monkeypatch.setattr(experts, "PAIRS", 12)
    folder, words = experts.pairs(tmp_path), {trigger: name for name, trigger in TRIGGERS.items()}
    right = []
    for path in sorted(folder.glob("*.png")):
        *_, above, below = path.with_suffix(".txt").read_text("utf-8").split(", ")
        assert above != below
        tiles = reader.read(np.asarray(Image.open(path))[None])[0]
        right += [tiles[:2].argmax(-1) == KINDS.index(words[above]), tiles[6:].argmax(-1) == KINDS.index(words[below])]
    assert len(right) == 24 and np.mean(right) > 0.6
