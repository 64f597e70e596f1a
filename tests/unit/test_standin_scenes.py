"""The renderer: the same description draws the same picture, and every word of it can be seen."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from mixlora.standin.scenes import GROWS_ON, LANDS, OBJECTS, SIZE, TIMES, Scene, draw, random_scene
from mixlora.standin.styles import STYLES, TRIGGERS, paint, painterly
from mixlora.standin.workshop import PAINTING, Picture, pictures


def test_equal_scenes_draw_equal_pictures():
    scene = Scene("hill", "sunset", ("house", "trees"), seed=7)
    first, again = draw(scene), draw(Scene("hill", "sunset", ("house", "trees"), seed=7))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, draw(Scene("hill", "sunset", ("house", "trees"), seed=8)))


@pytest.mark.parametrize(
    ("scene", "sky", "ground"),
    [
        (Scene("mountain", "sunset", ("house", "flowers"), 3), (127.7, 87.3, 123.2), (105.4, 86.7, 73.3)),
        (Scene("hill", "day", ("trees", "clouds"), 14), (143.6, 191.8, 239.0), (99.6, 157.9, 100.3)),
        (Scene("sea", "night", ("boat",), 15), (29.1, 36.1, 74.9), (24.2, 43.9, 96.5)),
        (Scene("desert", "day", ("house", "trees"), 92), (126.3, 182.0, 237.2), (178.9, 163.4, 119.7)),
    ],
    ids=lambda value: value.land if isinstance(value, Scene) else "",
)
def test_scenes_are_those_that_the_committed_weights_were_trained_on(scene, sky, ground):
    halves = draw(scene).astype(float).reshape(2, -1, 3).mean(1)
    assert halves == pytest.approx(np.array([sky, ground]), abs=0.3)  # other Pillows may round an edge otherwise


@pytest.mark.parametrize("land", LANDS)
def test_every_object_that_grows_on_a_land_shows_there_and_moves_nothing_else(land):
    empty = draw(Scene(land, "day", (), seed=3)).astype(int)
    for thing in GROWS_ON[land]:
        changed = np.abs(draw(Scene(land, "day", (thing,), seed=3)) - empty).max(-1) > 8
        assert 0.02 < changed.mean() < 0.4, thing


@pytest.mark.parametrize("time", TIMES)
def test_time_of_day_is_seen_in_the_light(time):
    brightness = {t: np.mean([draw(Scene(land, t, (), 1)).mean() for land in LANDS]) for t in TIMES}
    assert sorted(TIMES, key=brightness.__getitem__) == ["night", "sunset", "day"]
    assert brightness[time] > 20


def test_captions():
    scene = Scene("sea", "night", ("boat", "clouds"), seed=1)
    assert scene.caption == "a sea landscape at night with a boat and clouds"
    assert scene.loose_caption == "a landscape with the sea, a boat, clouds and sky"
    assert Picture(scene, "van_gogh").caption == f"{scene.caption}, {TRIGGERS['van_gogh']}"
    assert Picture(scene, "painting").caption == PAINTING + scene.caption
    assert Picture(Scene("hill", "day", (), seed=4), "plain").caption == "a landscape with hills and sky"


def test_random_scenes_hold_only_what_grows_there():
    random = np.random.default_rng(0)
    for _ in range(200):
        scene = random_scene(random)
        assert scene.land in LANDS and scene.time in TIMES
        assert set(scene.objects) <= set(GROWS_ON[scene.land])
        assert list(scene.objects) == sorted(scene.objects, key=OBJECTS.index)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_repaints_the_whole_picture_and_keeps_the_scene(style):
    scene = Scene("mountain", "day", ("house",), seed=5)
    plain, styled = draw(scene).astype(float), paint(scene, style).astype(float)
    assert np.array_equal(styled, paint(scene, style))
    assert np.abs(styled - plain).mean() > 8
    assert np.corrcoef(plain.ravel(), styled.ravel())[0, 1] > 0.6


def test_unnamed_paintings_differ_from_each_other():
    scene = Scene("hill", "day", (), seed=5)
    seen = {hashlib.sha256(painterly(scene, np.random.default_rng(k)).tobytes()).hexdigest() for k in range(6)}
    assert len(seen) == 6


def test_a_list_of_pictures_begins_like_a_shorter_one():
    shares = {"plain": 1.0, "monet": 1.0}
    assert pictures(30, 9, shares)[:10] == pictures(10, 9, shares)
    assert {picture.style for picture in pictures(30, 9, shares)} == {"plain", "monet"}
