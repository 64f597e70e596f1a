"""The plans of this repository, and the command that goes the whole way."""

from __future__ import annotations

import argparse
import json
from collections import Counter

import pytest
from mixlora.benchmarks.results import Row
from mixlora.evaluation import chain, cli, runner
from mixlora.evaluation.chain import PLANS
from mixlora.evaluation.painting import Painted
from mixlora.evaluation.plan import read_plan
from mixlora.evaluation.runner import Outcome, evaluations
from mixlora.evaluation.store import Store
from mixlora.evaluation.testbeds import StandinTestbed
from mixlora.standin.weights import BASE, adapter_file


@pytest.fixture(autouse=True)
def one_file_for_all(monkeypatch):
    monkeypatch.setattr(StandinTestbed, "checkpoint", lambda self, world: BASE)
    monkeypatch.setattr(StandinTestbed, "adapter", lambda self, element: adapter_file("snow"))


def test_the_plans_of_the_issue():
    jobs = {path.stem: read_plan(path).jobs() for path in PLANS.glob("*.toml")}
    assert set(jobs) == {
        "small",
        "alone",
        "full",
        "control",
        "tau",
        "order",
        "many",
        "lambda",
        "steps",
        "styles",
        "methods",
        "learned",
        "timed",
    }
    assert len(jobs["full"]) == 480 * 6 and len({job.key for job in jobs["full"]}) == 2880
    assert {job.key for job in jobs["small"]} < {job.key for job in jobs["full"]}, "nothing is painted twice"
    assert {job.label for job in jobs["small"]} == {job.label for job in jobs["full"]}
    turns = {job.method.parameters["every"] for job in jobs["tau"] if job.method.kind == "switch"}
    assert {1, 5, 10, 20} <= turns
    assert set(Counter(job.set.size for job in jobs["many"])) == set(range(1, 9))
    assert {job.sampling.steps for job in jobs["steps"]} == {20, 30, 50}
    hours = {name: sum(map(evaluations, of_plan)) / 30 * 2 / 3600 for name, of_plan in jobs.items()}
    assert hours["small"] < 7 / 60 and hours["full"] < 8, "at 2 s for a picture of one branch"
    assert all(hours[name] < 1.5 for name in jobs if name != "full"), hours


def test_rows_are_means_over_each_methods_pictures(tmp_path):
    text = (PLANS / "small.toml").read_text("utf-8").replace("each = 3", "each = 1")
    (tmp_path / "plan.toml").write_text(text, "utf-8")
    plan = read_plan(tmp_path / "plan.toml")
    jobs = plan.jobs()
    with Store(tmp_path) as store:
        for job in jobs:
            store.add_picture(job, 3.0)
            share = 0.25 if job.label == "merge" else 1.0
            store.add_scores(job.key, "oracle", {("share", ""): share, ("element", "snow"): 0.5})
        found = {row.name: row.value for row in [*chain.rows(plan, store), *chain.times(plan, store)]}
    assert found["merge: asked-for elements there (%)"] == 25 and found["switch: asked-for elements there (%)"] == 100
    assert found["no LoRA: quality (0 to 1)"] != found["no LoRA: quality (0 to 1)"], "nobody judged it: no number"
    assert found["pictures"] == len(jobs)
    assert found["composite: sampling (s a picture)"] == 3
    assert found["sampling, all pictures (min)"] == pytest.approx(len(jobs) * 3 / 60)


@pytest.fixture
def called(monkeypatch, tmp_path):
    """What the chain calls; the commands of others answer with what `codes` says, and nothing lies in the store."""
    calls, codes = [], {}

    def paint_plan(plan, arguments, stop):
        calls.append("run")
        Store(tmp_path).close()
        return codes.get("run", Outcome(painted=0))

    own = cli.main

    def main(arguments):
        if arguments[0] == "testbed":
            return own(arguments)
        calls.append(tuple(arguments))
        return codes.get(arguments[0], 0)

    monkeypatch.setattr(runner, "paint_plan", paint_plan)
    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(chain, "rows", lambda plan, store: [Row("share", 1.0)])
    monkeypatch.setattr(chain, "times", lambda plan, store: [Row("sampling", 2.0)])
    monkeypatch.setattr(chain, "FOLDER", tmp_path / "committed")
    return argparse.Namespace(calls=calls, codes=codes, own=own)


def test_the_chain_runs_judges_and_reports(called, tmp_path):
    assert called.own(["testbed", "--results", str(tmp_path)]) == 0
    rest = (str(PLANS / "small.toml"), "--results", str(tmp_path))
    assert called.calls == ["run", ("judge", *rest), ("report", *rest)]


TIMED = ["share", "sampling", "paint, judge and report (min)"]


def written(folder, topic):
    """The names of the rows in a file of results; None where there is none."""
    return next(([row["name"] for row in json.loads(path.read_text("utf-8"))["rows"]]
                 for path in folder.glob(f"{topic}-*.json")), None)  # fmt: skip


def test_results_of_the_repositorys_plans_are_written_into_it_where_all_was_painted_now(called, tmp_path, capsys):
    """What was painted before, elsewhere, or not at all says nothing about the time, and replaces no committed file."""
    own, committed = tmp_path / "reports" / "small", tmp_path / "committed"
    pictures = len({job.key for job in read_plan(chain.SMALL).jobs()})
    called.codes["run"] = Outcome(painted=pictures - 1)
    assert called.own(["testbed", "--results", str(tmp_path)]) == 0
    assert written(own, "testbed") == ["share"] and written(committed, "testbed") is None
    said = capsys.readouterr().out
    assert f"{pictures - 1} of {pictures} pictures were painted in this run" in said and "committed" not in said
    called.codes["run"] = Outcome(painted=pictures)
    assert called.own(["testbed", "--results", str(tmp_path)]) == 0
    assert written(own, "testbed") == TIMED == written(committed, "testbed")
    said = capsys.readouterr().out
    assert "were painted in this run" not in said
    assert all(f"Results: {folder / 'testbed-'}" in said for folder in (own, committed))


def test_the_chain_ends_where_something_fails(called, tmp_path):
    called.codes["judge"] = 1
    assert called.own(["testbed", "--results", str(tmp_path)]) == 1
    assert [call[0] for call in called.calls[1:]] == ["judge"]
    called.codes["run"] = Outcome(failed=[Painted(read_plan(PLANS / "small.toml").jobs()[0], error="torn")])
    called.calls.clear()
    assert called.own(["testbed", "--results", str(tmp_path)]) == 1
    assert called.calls == ["run"]


def test_results_of_the_users_own_plans_stay_out_of_the_repository(called, tmp_path):
    (tmp_path / "mine.toml").write_text('testbed = "standin"\n[sets]\neach = 1\n[methods.a]\nkind = "none"')
    called.codes["run"] = Outcome(painted=len(read_plan(tmp_path / "mine.toml").jobs()))
    assert called.own(["testbed", str(tmp_path / "mine.toml"), "--results", str(tmp_path)]) == 0
    assert called.calls[-1][0] == "report" and not (tmp_path / "committed").exists()
    assert written(tmp_path / "reports" / "mine", "testbed-mine") == TIMED
