"""The search for strengths: finds a known optimum, repeats itself, goes on where it was killed."""

import json
import math
import sys

import pytest
from mixlora.training.search import SearchSettings, search
from mixlora.training.settings import TrainingError

BEST = (0.9, 0.35, 1.1)


def score(strengths):
    return -sum((one - best) ** 2 for one, best in zip(strengths, BEST, strict=True))


def test_known_rules_come_first_and_need_no_package():
    found = search(score, 3, SearchSettings(budget=3))
    assert [tried for tried, _ in found.tried] == [(1.0,) * 3, (1 / math.sqrt(3),) * 3, (1 / 3,) * 3]
    assert found.best[0] == max(((1.0,) * 3, (1 / math.sqrt(3),) * 3, (1 / 3,) * 3), key=score)
    assert search(score, 3, SearchSettings(budget=2, highest=0.8)).tried[0][0] == (0.8,) * 3


def test_finds_the_best_strengths_and_repeats_itself():
    pytest.importorskip("cmaes")
    settings = SearchSettings(budget=120)
    found = search(score, 3, settings)
    assert found == search(score, 3, settings) and len(found.tried) == 120
    assert found.best[0] == pytest.approx(BEST, abs=0.05)
    assert all(0 <= value <= 1.5 for strengths, _ in found.tried for value in strengths)
    assert found != search(score, 3, SearchSettings(budget=120, seed=1))


def test_one_adapter():
    pytest.importorskip("cmaes")
    found = search(lambda strengths: -abs(strengths[0] - 0.6), 1, SearchSettings(budget=30))
    assert found.best[0] == pytest.approx((0.6,), abs=0.05) and len(found.tried) == 30


def test_a_killed_search_goes_on(tmp_path):
    pytest.importorskip("cmaes")
    log, asked = tmp_path / "search.json", []

    def killed_at(count):
        def ask(strengths):
            if len(asked) == count:
                raise KeyboardInterrupt
            asked.append(strengths)
            return score(strengths)

        return ask

    with pytest.raises(KeyboardInterrupt):
        search(killed_at(13), 3, SearchSettings(budget=30), log)
    assert len(json.loads(log.read_text())["tried"]) == 13
    found = search(killed_at(99), 3, SearchSettings(budget=30), log)
    assert found == search(score, 3, SearchSettings(budget=30)) and len(asked) == 30
    longer = search(killed_at(99), 3, SearchSettings(budget=34), log)
    assert longer.tried[:30] == found.tried and len(asked) == 34


def test_the_package_is_asked_for_when_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(TrainingError, match=r"needs the package cmaes .*: pip install cmaes"):
        search(score, 3, SearchSettings(budget=4))


def test_what_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="budget 0"):
        SearchSettings(budget=0)
    with pytest.raises(TrainingError, match="no adapter"):
        search(score, 0, SearchSettings())
    with pytest.raises(TrainingError, match="score of 1, 1, 1 is nan; expected a finite number"):
        search(lambda strengths: math.nan, 3, SearchSettings(budget=1))
    log = tmp_path / "search.json"
    search(score, 3, SearchSettings(budget=1), log)
    with pytest.raises(TrainingError, match="a log of another search"):
        search(score, 3, SearchSettings(budget=1, seed=4), log)
    log.write_text("{}")
    with pytest.raises(TrainingError, match="not a readable log"):
        search(score, 3, SearchSettings(budget=1), log)
