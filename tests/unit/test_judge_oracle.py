"""The oracle's scores follow from what it read, pictures are read once, and a kill costs no score."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.judges import oracle

_spec = importlib.util.spec_from_file_location("judge_world", Path(__file__).with_name("judge_world.py"))
assert _spec and _spec.loader
world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

NAMES = ("snow", "tower", "ink")  # not the order in which sets ask


class Read:
    """Reads any picture as it is told, and counts."""

    def __init__(self, present=(0.9, 0.4, 0.6), quality=0.7):
        self.present, self.quality, self.pictures = present, quality, 0

    def __call__(self, pictures) -> Any:
        assert pictures.dtype == np.uint8 and pictures.shape[1:] == (64, 64, 3)
        self.pictures += len(pictures)
        return SimpleNamespace(
            present=np.tile(self.present, (len(pictures), 1)),
            quality=np.full(len(pictures), self.quality),
            overloaded=np.full(len(pictures), 0.3),
        )


def test_scores_are_those_of_the_asked_elements(tmp_path):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store:
        outcome = oracle.judge(jobs, store, Read(), NAMES, world.nothing)
        found = {(one.key, one.measure, one.element): one.value for one in store.scores(("oracle",))}
    assert (outcome.judged, outcome.known, outcome.notes) == (4, 0, [])
    of_snow = {(measure, element): value for (key, measure, element), value in found.items() if key == jobs[0].key}
    assert of_snow == {
        ("element", "tower"): 0.4,
        ("element", "snow"): 0.9,
        ("all", ""): 0.0,
        ("share", ""): 0.5,
        ("unasked", ""): 1.0,  # ink
        ("quality", ""): 0.7,
        ("overloaded", ""): 0.0,
    }


def test_everything_there_and_nothing_else():
    scores = oracle.scores({"tower": 0.51, "snow": 0.99, "ink": 0.5}, ("tower", "snow"), 1.0, 0.51)
    assert (scores["all", ""], scores["share", ""], scores["unasked", ""]) == (1.0, 1.0, 0.0)
    assert scores["overloaded", ""] == 1.0


def test_only_new_pictures_are_read_and_unpainted_ones_are_named(tmp_path):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs[:2]) as store:
        first = oracle.judge(jobs, store, Read(), NAMES, world.nothing)
        assert first.judged == 2 and "2 pictures of the plan are not painted yet" in first.notes[0]
        world.painted(tmp_path, jobs[2:]).close()
        read = Read()
        second = oracle.judge(jobs, store, read, NAMES, world.nothing)
        assert (second.judged, second.known, read.pictures) == (2, 2, 2)


def test_other_weights_of_the_oracle_read_everything_again(tmp_path):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store:
        oracle.judge(jobs, store, Read(), NAMES, world.nothing, "old")
        assert oracle.judge(jobs, store, Read((1, 1, 1)), NAMES, world.nothing, "new").judged == 4
        assert {one.value for one in store.scores() if one.measure == "all"} == {1.0}


def test_what_was_read_before_an_error_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(oracle, "BATCH", 1)
    jobs, read = world.jobs(), Read()

    def ends(number, total):
        if number == 2:
            raise KeyboardInterrupt

    with world.painted(tmp_path, jobs) as store:
        with pytest.raises(KeyboardInterrupt):
            oracle.judge(jobs, store, read, NAMES, ends)
        assert len(store.scored("oracle")) == 2
        oracle.judge(jobs, store, read, NAMES, world.nothing)
        assert len(store.scored("oracle")) == read.pictures == 4


def test_bad_input_is_told(tmp_path):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store:
        with pytest.raises(EvaluationError, match=r"does not know ink\."):
            oracle.judge(jobs, store, Read(), NAMES[:2], world.nothing)
        path = store.picture_path(jobs[0].key)
        path.write_bytes(b"not a picture")
        with pytest.raises(EvaluationError, match="no readable picture"):
            oracle.judge(jobs, store, Read(), NAMES, world.nothing)
        path.unlink()
        with pytest.raises(EvaluationError, match=r"1 pictures that .* are gone"):
            oracle.judge(jobs, store, Read(), NAMES, world.nothing)
    with world.painted(tmp_path / "other", []) as store, pytest.raises(EvaluationError, match="`run` the plan first"):
        oracle.judge(jobs, store, Read(), NAMES, world.nothing)


def test_pictures_of_a_size_that_the_oracle_cannot_read(tmp_path):
    from mixlora.standin.oracle import as_batch

    def read(pictures) -> Any:
        return as_batch(pictures)

    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store, pytest.raises(EvaluationError, match=r"\(n, 128, 128, 3\)"):
        oracle.judge(jobs, store, read, NAMES, world.nothing)
