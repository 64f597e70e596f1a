"""The search for strengths: finds a known optimum, repeats itself, goes on where it was killed."""

import json
import math
import sys

import pytest
from mixlora.training.search import Log, SearchSettings, search
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
    log, asked = Log(tmp_path / "search.json", {"score": "a parabola"}), []

    def killed_at(count):
        def ask(strengths):
            if len(asked) == count:
                raise KeyboardInterrupt
            asked.append(strengths)
            return score(strengths)

        return ask

    with pytest.raises(KeyboardInterrupt):
        search(killed_at(13), 3, SearchSettings(budget=30), log)
    assert len(json.loads(log.path.read_text())["tried"]) == 13
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
    log = Log(tmp_path / "search.json", {})
    search(score, 3, SearchSettings(budget=1), log)
    with pytest.raises(TrainingError, match="a log of another search; they differ in seed"):
        search(score, 3, SearchSettings(budget=1, seed=4), log)
    for text in ("{}", '{"search": 3, "tried": []}'):
        log.path.write_text(text)
        with pytest.raises(TrainingError, match="not a readable log"):
            search(score, 3, SearchSettings(budget=1), log)


def test_a_log_answers_for_no_other_score(tmp_path):
    """Numbers of one objective under the name of another would look like a result."""
    path, asked = tmp_path / "search.json", []

    def ask(strengths):
        asked.append(strengths)
        return score(strengths)

    about = {"score": "elements", "edges": (0.4,), "pictures": ["a", "b"]}
    search(ask, 3, SearchSettings(budget=2), Log(path, about))
    search(ask, 3, SearchSettings(budget=3), Log(path, about))
    assert len(asked) == 3, "a tuple is a list in JSON, and yet the same"
    for other in ({**about, "score": "elements x quality"}, {**about, "pictures": ["a", "c"]}, {}):
        with pytest.raises(TrainingError, match=r"they differ in (score|pictures|edges, pictures, score)[.]"):
            search(ask, 3, SearchSettings(budget=3), Log(path, other))
    assert len(asked) == 3


def test_a_log_of_an_earlier_version_says_that_it_does_not_tell(tmp_path):
    log = Log(tmp_path / "search.json", {"score": "elements"})
    search(score, 3, SearchSettings(budget=1), log)
    kept = json.loads(log.path.read_text())
    del kept["search"]["score"]
    log.path.write_text(json.dumps(kept))
    with pytest.raises(TrainingError, match=r"an earlier version wrote it, which did not note score.*delete it"):
        search(score, 3, SearchSettings(budget=1), log)
