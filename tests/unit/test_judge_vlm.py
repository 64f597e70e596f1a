"""A vision-language model as judge: what is asked, what is kept, and that nothing is asked twice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.judges import vlm
from mixlora.evaluation.judges.client import Client, Endpoint
from mixlora.evaluation.judges.estimate import Request, estimate
from mixlora.evaluation.judges.rubric import question
from mixlora.evaluation.store import Store

pytest.importorskip("openai")


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


world, vlm_server = _load("judge_world"), _load("vlm_server")
KEY = "sk-secret-of-a-user"
Reply, good, failure = vlm_server.Reply, vlm_server.good, vlm_server.failure


def judged(store, script, jobs=None, *, attempts=3, against=None, concurrency=1, server=None, **options):
    """Asks a scripted server for everything that is pending: (docket's outcome, the requests it got)."""
    with vlm_server.VlmServer(script) as server:
        endpoint = Endpoint("eyes", server.url, **{"pause": 0.01, "timeout": 20.0, "retries": 2, **options})
        showings, _ = vlm.showings(jobs or world.jobs(), world.ELEMENTS, store, against)
        docket, client = vlm.Docket(showings, store, endpoint, attempts), Client(endpoint, KEY)
        try:
            vlm.ask(docket, client, concurrency, world.nothing)
        finally:
            client.close()
            judged.asked = server.asked
        return docket.outcome(), server.asked


def test_each_method_is_compared_with_the_first_merge_in_both_orders(tmp_path):
    jobs = world.jobs((*world.SETS, *world.SINGLES), ("switch", "merge", "composite"))
    with world.painted(tmp_path, jobs) as store:
        outcome, asked = judged(store, lambda *_: Reply(good(8, 9, 5.5, 9.5)), jobs)
        assert (outcome.judge, outcome.judged, outcome.known, outcome.failed) == ("vlm:eyes", 8, 0, [])
        found = store.comparisons("vlm:eyes")
        path = store.picture_path
        merge = {job.set.name: job.key for job in jobs if job.label == "merge"}
        pairs = {(merge[job.set.name], job.key) for job in jobs if job.label != "merge" and job.set.size > 1}
        both = pairs | {(b, a) for a, b in pairs}
        assert {(one.first, one.second) for one in found} == both and len(found) == 2 * 8
        for one in found:
            scores = {"composition": (8, 5.5), "quality": (9, 9.5)}[one.measure]
            assert (one.first_score, one.second_score) == scores
        assert [tuple(one["pictures"]) for one in asked] == [
            tuple(path(key).read_bytes() for key in showing.keys)
            for showing in vlm.showings(jobs, world.ELEMENTS, store)[0]
        ]
        texts = {one["text"] for one in asked}
        assert texts == {question([world.ELEMENTS[name] for name in one.elements]) for one in world.SETS}


def test_an_answered_request_is_never_asked_again(tmp_path):
    with world.painted(tmp_path, world.jobs()) as store:
        judged(store, lambda *_: Reply(good()))
        assert KEY.encode() not in store.path.read_bytes()
        outcome, asked = judged(store, lambda *_: failure(500))
        assert (outcome.judged, outcome.known, len(asked)) == (0, 4, 0)
        for change in [{"temperature": 0.0}, {"max_tokens": 9}]:
            assert len(judged(store, lambda *_: Reply(good(1, 1, 1, 1)), **change)[1]) == 4, change
        assert {one.first_score for one in store.comparisons()} == {1.0}
        judged(store, lambda *_: failure(500))
        assert {one.first_score for one in store.comparisons()} == {8.0, 9.0}, "scores follow from the kept answers"


def test_a_changed_picture_is_another_request(tmp_path):
    jobs = world.jobs(world.SETS[:1])
    with world.painted(tmp_path, jobs) as store:
        judged(store, lambda *_: Reply(good()), jobs)
        store.picture_path(jobs[0].key).write_bytes(store.picture_path(jobs[1].key).read_bytes())
        assert len(judged(store, lambda *_: Reply(good()), jobs)[1]) == 2


def test_malformed_and_cut_off_answers_are_asked_for_again(tmp_path):
    replies = [Reply("hm"), Reply(good(), "length"), Reply(good())]
    jobs = world.jobs(world.SETS[:1])
    with world.painted(tmp_path, jobs) as store:
        outcome, asked = judged(store, lambda number, _: replies[min(number // 2, 2)], jobs)
        assert (outcome.judged, outcome.failed, len(asked)) == (2, [], 6)


def test_what_stays_malformed_is_failed_and_reported_and_not_paid_for_again(tmp_path):
    jobs = world.jobs(world.SETS[:1])

    def stubborn(number, asked):
        merge_first = asked["pictures"][0] == merge
        return Reply(good() if merge_first else "no idea")

    with world.painted(tmp_path, jobs) as store:
        merge = store.picture_path(jobs[0].key).read_bytes()
        outcome, asked = judged(store, stubborn, jobs)
        assert len(asked) == 1 + 3 and outcome.judged == 1
        assert outcome.failed == [
            "tower + snow (noise 0): switch, then merge: malformed: no line of scores for Image 1 and Image 2"
        ]
        assert any("1 pairs lack an order" in note for note in outcome.notes)
        assert {one.first for one in store.comparisons()} == {jobs[0].key}
        again, asked = judged(store, stubborn, jobs)
        assert (len(asked), len(again.failed), again.known) == (0, 1, 1)
        assert len(judged(store, lambda *_: Reply(good()), jobs, attempts=4)[1]) == 1, "more attempts are asked for"


def test_a_judge_that_never_answers_ends_clearly_and_what_is_finished_stays(tmp_path):
    with world.painted(tmp_path, world.jobs()) as store:
        with pytest.raises(EvaluationError, match="given up after 3 attempts"):
            judged(store, lambda number, _: Reply(good()) if number < 2 else failure(503))
        assert len(store.comparisons()) == 2 * 2
        outcome, asked = judged(store, lambda *_: Reply(good()))
        assert (outcome.judged, outcome.known, len(asked)) == (2, 2, 2)


def test_a_request_that_is_refused_stops_no_other_and_is_asked_next_time(tmp_path):
    with world.painted(tmp_path, world.jobs()) as store:
        outcome, _ = judged(store, lambda number, _: failure(400, "not allowed") if number == 1 else Reply(good()))
        assert outcome.judged == 3 and "refused: " in outcome.failed[0] and "not allowed" in outcome.failed[0]
        assert judged(store, lambda *_: Reply(good()))[0].judged == 1


def test_a_server_that_refuses_everything_is_not_asked_everything(tmp_path):
    sets = [replace(one, name=f"{number} {one.name}") for number in range(4) for one in world.SETS]
    jobs = world.jobs(sets, ("merge", "switch", "composite"))
    with world.painted(tmp_path, jobs) as store:
        with pytest.raises(EvaluationError, match=r"about 5 sets in a row were refused: .*unknown field"):
            judged(store, lambda *_: failure(400, "unknown field"), jobs)
        assert len(judged.asked) == 4 * (vlm.PATIENCE - 1) + 1


def test_a_set_that_a_server_refuses_to_look_at_keeps_nobody_from_the_others(tmp_path):
    jobs = world.jobs(labels=("merge", "switch", "composite", "none"))
    with world.painted(tmp_path, jobs) as store:
        outcome, _ = judged(store, lambda number, _: failure(400, "no") if number < 6 else Reply(good()), jobs)
        assert (outcome.judged, len(outcome.failed)) == (6, 6)


def test_several_requests_at_a_time(tmp_path):
    """The server answers only when three are there at once."""
    together = threading.Barrier(4, timeout=60)

    def script(*_):
        together.wait()
        return Reply(good())

    with world.painted(tmp_path, world.jobs()) as store:
        assert judged(store, script, concurrency=4)[0].judged == 4


def test_answers_under_way_at_the_end_are_kept(tmp_path):
    """One request is refused for good while another one is answered: that answer was paid for."""
    refused = threading.Event()

    def script(number, asked):
        if number == 0:
            refused.set()
            return failure(401)
        refused.wait(60)
        return Reply(good())

    with world.painted(tmp_path, world.jobs()) as store:
        with pytest.raises(EvaluationError, match="refuses the key"):
            judged(store, script, concurrency=2)
        assert len(store.comparisons()) == 2 * (len(judged.asked) - 1)


def test_killed_in_the_middle_it_goes_on_without_asking_twice(tmp_path):
    reached = threading.Event()

    def script(number, asked):
        if number == 2:
            reached.set()
            return Reply(hang=True)
        return Reply(good())

    world.painted(tmp_path, world.jobs()).close()
    with vlm_server.VlmServer(script) as server:
        command = [sys.executable, str(Path(__file__).with_name("vlm_process.py")), str(tmp_path), server.url]
        running = subprocess.Popen(command)
        assert reached.wait(60)
        running.kill()
        running.wait()
        first = [tuple(one["pictures"]) for one in server.asked]
    with Store(tmp_path) as store:
        assert len(store.comparisons("vlm:eyes")) == 2 * 2
        outcome, asked = judged(store, lambda *_: Reply(good()))
        then = [tuple(one["pictures"]) for one in asked]
        assert (len(first), len(then), outcome.known) == (3, 2, 2) and then[0] == first[2]
        assert len({*first, *then}) == 4, "only the request in hand was asked again"


def test_what_cannot_be_compared_is_told(tmp_path):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs[:3]) as store:
        showings, notes = vlm.showings(jobs, world.ELEMENTS, store)
        assert len(showings) == 2 and "1 pictures of the plan are not painted" in notes[0]
        with pytest.raises(EvaluationError, match=r"the plan has merge, switch, not 'plain'"):
            vlm.showings(jobs, world.ELEMENTS, store, "plain")
        with pytest.raises(EvaluationError, match="the plan has merge only"):
            vlm.showings(jobs[:1], world.ELEMENTS, store)
        twin = [*jobs[:2], replace(jobs[0], label="merge again")]
        showings, notes = vlm.showings(twin, world.ELEMENTS, store)
        assert len(showings) == 2 and "1 pairs are one and the same picture" in notes[0]


def test_an_estimate_counts_what_is_pending(tmp_path):
    with world.painted(tmp_path, world.jobs()) as store:
        showings, _ = vlm.showings(world.jobs(), world.ELEMENTS, store)
        docket = vlm.Docket(showings, store, Endpoint("eyes", max_tokens=1000), 3)
        known = docket.estimate(price_in=2.0, price_out=10.0)
        text = sum(-(-len(showing.text) // 4) for showing in showings)
        assert (known.requests, known.input_tokens) == (4, text + 8 * (85 + 170))
        assert (known.typical_output, known.most_output) == (4 * 400, 3 * 4 * 1000), "malformed twice"
        typical = (known.input_tokens * 2 + 1600 * 10) / 1e6
        assert f"about {typical:.2f}, at most {3 * (known.input_tokens * 2 + 4000 * 10) / 1e6:.2f}" in str(known)
        assert docket.estimate(picture=3000).input_tokens == text + 8 * 3000
        judged(store, lambda *_: Reply(good()), max_tokens=1000)
        assert vlm.Docket(showings, store, Endpoint("eyes", max_tokens=1000), 3).estimate().requests == 0
    assert "price" not in str(estimate([Request("text", [(1, 1)])], 10))
