"""Ratings files in the published layout: read, written back the same, and everything wrong with one told at once."""

from __future__ import annotations

import json

import pytest
from mixlora.evaluation import ratings
from mixlora.evaluation.jobs import EvaluationError

PUBLISHED = {
    "index": 1,
    "path": "output/2_elements/merge_character_1_style_2.png",
    "method": "merge",
    "number of elements": 2,
    "prompt": ["1. character (A): a, black hair", "2. style (B): b, ink"],
    "human_1": {"composition": 3.0, "image": 5.0},
    "human_2": {"composition": 4.0, "image": 4.0},
    "avg_human_score": {"composition": 3.5, "image": 4.5},
    "clipscore": {"score": 34.57},
    "gpt4v": {"composition": 7.75, "image": 9.0},
}


@pytest.fixture
def saved(tmp_path):
    """Writes anything as a ratings file."""

    def save(content):
        path = tmp_path / "ratings.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return save


def test_the_published_layout_is_read_and_written_back(saved):
    path = saved([PUBLISHED])
    (rating,) = ratings.read(path)
    assert rating.people == {
        "human_1": {"composition": 3.0, "image": 5.0},
        "human_2": {"composition": 4.0, "image": 4.0},
    }
    assert rating.judges == {"clipscore": {"score": 34.57}, "gpt4v": {"composition": 7.75, "image": 9.0}}
    assert rating.mean == {"composition": 3.5, "image": 4.5}
    ratings.write(path, [rating])
    assert json.loads(path.read_text("utf-8")) == [PUBLISHED]
    assert list(json.loads(path.read_text("utf-8"))[0]) == list(PUBLISHED), "in the same order"


def test_pictures_of_one_prompt_and_noise_are_a_group(saved):
    entries = [
        PUBLISHED,
        {**PUBLISHED, "method": "switch"},
        {**PUBLISHED, "prompt": PUBLISHED["prompt"][:1]},
        {**PUBLISHED, "seed": 1},
    ]
    one, same, shorter, noise = (rating.group for rating in ratings.read(saved(entries)))
    assert one == same and len({one, shorter, noise}) == 3


def test_files_of_ours_know_job_and_raters(saved):
    ours = {**PUBLISHED, "set": "a + b", "seed": 7, "key": "k", "raters": {"human_2": "Ann"}}
    path = saved([ours])
    (rating,) = ratings.read(path)
    assert (rating.set, rating.seed, rating.key, rating.raters) == ("a + b", 7, "k", {"human_2": "Ann"})
    ratings.write(path, [rating])
    assert json.loads(path.read_text("utf-8")) == [ours]


def test_a_file_with_means_only(saved):
    entry = {name: value for name, value in PUBLISHED.items() if not name.startswith("human")}
    (rating,) = ratings.read(saved([entry]))
    assert rating.mean == PUBLISHED["avg_human_score"]


def test_nobody_has_rated_it_yet(saved):
    entry = {name: PUBLISHED[name] for name in ("index", "path", "method", "number of elements", "prompt")}
    path = saved([entry])
    (rating,) = ratings.read(path)
    assert rating.mean == {}
    ratings.write(path, [rating])
    assert json.loads(path.read_text("utf-8")) == [entry]


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("half of [", ["is no JSON file"]),
        ({"ratings": []}, ["expected a list of rated pictures, found dict"]),
        (
            [7, {**PUBLISHED, "method": 3}],
            ["entry 1: expected an object", "entry 2 (output", "'method', a str, found 3"],
        ),
        ([{"method": "merge", "prompt": []}], ["'path', a str, found None"]),
        ([{**PUBLISHED, "human_2": {"composition": 4}}], ["'human_2' lacks image"]),
        ([{**PUBLISHED, "human_1": "five"}], ["'human_1' is 'five'; expected an object of numbers"]),
        ('[{"path": "a", "method": "b", "prompt": [], "gpt4v": {"image": NaN}}]', ["'gpt4v' is {'image': nan}"]),
    ],
)
def test_everything_wrong_is_told(saved, content, messages):
    path = saved(content)
    with pytest.raises(EvaluationError) as raised:
        ratings.read(path)
    assert str(path) in str(raised.value) and all(message in str(raised.value) for message in messages)
