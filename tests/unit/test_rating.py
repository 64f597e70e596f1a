"""Which pictures a rater sees, and what is kept of the answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from mixlora.evaluation import ratings
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.judges.pictures import painted
from mixlora.evaluation.rating.pairs import pairs
from mixlora.evaluation.rating.sheet import open_sheet

_spec = importlib.util.spec_from_file_location("judge_world", Path(__file__).with_name("judge_world.py"))
assert _spec and _spec.loader
world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

GIVEN = {"composition": 4, "image": 2}


@pytest.fixture
def shown(tmp_path):
    """`shown(labels, rater, ...)` gives the pairs of painted pictures, the singles among them."""

    def show(labels=("merge", "switch"), rater="Ann", only=(), seed=0, sets=(*world.SETS, *world.SINGLES)):
        jobs = world.jobs(sets, labels)
        with world.painted(tmp_path, jobs) as store:
            return pairs(jobs, painted(jobs, store), rater, only, seed)

    return show


@pytest.fixture
def sheet(tmp_path, shown):
    """`sheet(rater, ...)` opens the rater's sheet on one file."""
    return lambda rater="Ann", **options: open_sheet(
        tmp_path / "made" / "ratings.json", rater, shown(rater=rater, **options), world.ELEMENTS
    )


def keys(found):
    return [(pair.left.job.key, pair.right.job.key) for pair in found]


# ---------------------------------------------------------------------------------------------- which pairs


@pytest.mark.parametrize("labels", [("merge", "switch"), ("merge", "switch", "composite", "none")])
def test_every_picture_of_a_set_is_shown_once_beside_another_of_it(shown, labels):
    found = shown(labels)
    assert {pair.left.job.set.size for pair in found} == {2}, "an adapter alone is nothing to compare"
    assert all(
        pair.left.job.set == pair.right.job.set and pair.left.job.label != pair.right.job.label for pair in found
    )
    every = [key for pair in keys(found) for key in pair]
    assert len(every) == len(set(every)) == len(labels) * len(world.SETS)


def test_of_three_methods_one_is_shown_twice(shown):
    every = [key for pair in keys(shown(("merge", "switch", "none"))) for key in pair]
    assert (len(every), len(set(every))) == (8, 6)


def test_order_and_sides_are_the_raters_own_and_the_same_at_every_start(shown):
    many = tuple(world.ElementSet(f"{number}", "north", ("tower", "snow")) for number in range(16))
    drawn = shown(sets=many)
    first = keys(drawn)
    assert keys(shown(sets=many)) == first
    assert 3 <= sum(pair.left.job.label == "merge" for pair in drawn) <= 13, "sides are shuffled"
    assert [pair.left.job.seed for pair in drawn] != list(range(16)), "the order is shuffled"
    for other in (shown(sets=many, rater="Bob"), shown(sets=many, seed=1)):
        assert keys(other) != first
    fewer = keys(shown(sets=many[:8]))
    assert len(fewer) == 8 and fewer == [pair for pair in first if pair in fewer], "a plan may grow"


def test_only_some_methods_and_only_what_is_painted(shown, tmp_path):
    assert {pair.left.job.label for pair in shown(("merge", "switch", "none"), only=("merge", "none"))} <= {
        "merge",
        "none",
    }
    with pytest.raises(EvaluationError, match="'fancy' is no method of the plan"):
        shown(only=("merge", "fancy"))
    with pytest.raises(EvaluationError, match="two or more of the methods are painted"):
        shown(("merge",))
    jobs = world.jobs(labels=("merge", "composite"))
    with world.painted(tmp_path, jobs[:3]) as store:
        assert len(pairs(jobs, painted(jobs, store), "Ann")) == 1, "a set that lacks a picture waits"


# ---------------------------------------------------------------------------------------------- what is kept


def test_the_page_learns_no_method_and_no_job(sheet):
    page = sheet()
    text = json.dumps(page.state())
    assert not any(word in text for word in (*world.METHODS, page.pairs[0].left.job.key, "pictures/"))
    first = page.state()["pairs"][0]["elements"][0]
    assert first == {"category": "landmark", "name": "tower", "trigger": "a stone tower, round windows"}


def test_an_answer_is_in_the_file_at_once_in_the_published_layout(sheet):
    page = sheet()
    page.rate(1, GIVEN)
    job = page._pictures[1].job
    (entry,) = json.loads(page.path.read_text("utf-8"))
    assert (page.path.parent / entry["path"]).read_bytes() == page.picture(1).read_bytes()
    assert entry == {
        "index": 1,
        "path": entry["path"],
        "method": job.label,
        "number of elements": 2,
        "prompt": [
            f"{number}. {one.category} ({one.name}): {one.trigger}"
            for number, one in enumerate(map(world.ELEMENTS.get, job.set.elements), 1)
        ],
        "human_1": {"composition": 4.0, "image": 2.0},
        "avg_human_score": {"composition": 4.0, "image": 2.0},
        "set": job.set.name,
        "seed": job.seed,
        "key": job.key,
        "raters": {"human_1": "Ann"},
    }


def test_a_rater_goes_on_and_others_share_the_file(sheet):
    ann, bob = sheet("Ann"), sheet("Bob")  # both at work, neither sees the other's page
    ann.rate(0, GIVEN)
    number = [shown.job.key for shown in bob._pictures].index(ann._pictures[0].job.key)
    bob.rate(number, {"composition": 5, "image": 5})
    ann.rate(1, GIVEN)
    bob.rate(number, {"composition": 5, "image": 4})
    kept = {one.key: one for one in ratings.read(ann.path)}
    assert len(kept) == 2
    both = kept[ann._pictures[0].job.key]
    assert both.raters == {"human_1": "Ann", "human_2": "Bob"}
    assert both.people["human_2"] == {"composition": 5.0, "image": 4.0} and both.mean == {
        "composition": 4.5,
        "image": 3.0,
    }
    again = sheet("Ann").state()["answers"]
    assert again[:2] == [{"composition": 4.0, "image": 2.0}] * 2 and not any(again[2:])
    assert sum(map(bool, sheet("Bob").state()["answers"])) == 1


def test_an_answer_can_be_taken_back_and_what_others_gave_stays(sheet):
    ann = sheet("Ann")
    published = {
        "path": "a.png",
        "method": "merge",
        "prompt": ["1. style (B): b"],
        "human_1": {"composition": 1, "image": 2},
    }
    ann.path.write_text(json.dumps([published, {**published, "human_1": {"composition": 3, "image": 3}}]), "utf-8")
    ann.rate(0, GIVEN)
    before = ratings.read(ann.path)
    assert before[2].people == {"human_2": {"composition": 4.0, "image": 2.0}}, "human_1 is somebody else"
    ann.rate(1, GIVEN)
    ann.rate(0, None)
    ann.rate(2, None)  # nothing was there
    after = ratings.read(ann.path)
    assert after[:2] == before[:2] and [one.key for one in after[2:]] == [ann._pictures[1].job.key]


@pytest.mark.parametrize(
    "given",
    [{}, {"composition": 4}, {**GIVEN, "image": 6}, {**GIVEN, "image": 0}, {**GIVEN, "image": 3.0}, {**GIVEN, "x": 1}],
)
def test_other_answers_are_refused(sheet, given):
    page = sheet()
    with pytest.raises(ValueError, match="whole numbers from 1 to 5"):
        page.rate(0, given)
    assert not page.path.exists()


def test_a_file_that_cannot_be_read_is_never_replaced(sheet):
    page = sheet()
    page.path.write_text("half of [", "utf-8")
    with pytest.raises(EvaluationError, match="no JSON file"):
        page.rate(0, GIVEN)
    assert page.path.read_text("utf-8") == "half of ["
