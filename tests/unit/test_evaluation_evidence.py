"""The tables of docs/evidence.md: written from results, between their markers, and nothing else changes."""

from __future__ import annotations

import json
import re
from functools import cache

import numpy as np
import pytest
from mixlora.evaluation import cli, evidence, experiments, goals
from mixlora.evaluation.chain import PLANS
from mixlora.evaluation.experiments import EXPERIMENTS
from mixlora.evaluation.findings import Findings
from mixlora.evaluation.jobs import ElementSet, EvaluationError, Method
from mixlora.evaluation.methods import method
from mixlora.evaluation.plan import read_plan
from mixlora.evaluation.reading import read
from mixlora.evaluation.store import Store
from mixlora.evaluation.testbeds import StandinTestbed
from mixlora.standin.weights import BASE, adapter_file

from . import evaluation_findings as made


@pytest.fixture
def few(monkeypatch):
    """The repository's plans without their files, and of each only every ninth case, so that tests are quick."""
    monkeypatch.setattr(StandinTestbed, "checkpoint", lambda self, world: BASE)
    monkeypatch.setattr(StandinTestbed, "adapter", lambda self, element: adapter_file("snow"))

    @cache
    def thinned(path):
        plan = read_plan(path)
        whole, methods = plan.jobs(), len(plan.methods)
        step = 60 if plan.name == "full" else 9
        jobs = [job for place, job in enumerate(whole) if place // methods % step == 0]
        object.__setattr__(plan, "jobs", lambda: jobs)
        return plan

    monkeypatch.setattr(evidence, "read_plan", thinned)
    return thinned


def findings_of(tmp_path, methods, sets=made.SETS, seen=made.seen):
    jobs = made.jobs(sets, methods)
    with made.fill(tmp_path / "made", jobs, seen) as store:
        return Findings(read(jobs, made.ELEMENTS, store))


def texts(table):
    return {row.label: [cell.line for cell in row.cells] for row in table.rows}


def test_every_table_has_its_place_in_the_document_and_no_place_is_empty():
    text = evidence.DOCUMENT.read_text("utf-8")
    places = [place["name"] for place in evidence._PLACE.finditer(text)]
    assert sorted(places) == sorted(name for tables in EXPERIMENTS.values() for name in tables)
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(places)
    assert all((PLANS / f"{name}.toml").is_file() for name in EXPERIMENTS)


def test_tables_are_written_from_results_and_the_prose_stays(few, tmp_path, monkeypatch, capsys):
    document = tmp_path / "evidence.md"
    before = evidence.DOCUMENT.read_text("utf-8")
    document.write_text(before, "utf-8")
    numbers = tmp_path / "numbers"
    options = ["--results", str(tmp_path), "--document", str(document), "--benchmarks", str(numbers)]
    Store(tmp_path).close()
    assert cli.main(["evidence", *options]) == 1
    assert "tau: nothing painted and judged yet" in capsys.readouterr().out and document.read_text("utf-8") == before
    wanted = [name for name in EXPERIMENTS if name not in ("lambda",)]
    for name in wanted:
        made.fill(tmp_path, few(PLANS / f"{name}.toml").jobs()).close()
    assert cli.main(["evidence", *options, *wanted]) == 0
    after = document.read_text("utf-8")
    blank = re.compile(r"(<!-- table: [\w-]+ -->).*?(<!-- end -->)", re.DOTALL)
    assert blank.sub(r"\1\2", after) == blank.sub(r"\1\2", before)
    for name in wanted:
        for table in EXPERIMENTS[name]:
            content = after.partition(f"<!-- table: {table} -->")[2].partition("<!-- end -->")[0]
            assert re.search(r"\n\| --- \|( ---: \|)+\n\| .*\d", content), table
            assert re.search(r"\*\d+ sets.*95 % intervals", content), table
    content = after.partition("<!-- table: lambda-share -->")[2].partition("<!-- end -->")[0]
    assert content == before.partition("<!-- table: lambda-share -->")[2].partition("<!-- end -->")[0]
    kept = {path.stem.rpartition("-")[0]: json.loads(path.read_text())["rows"] for path in numbers.iterdir()}
    assert sorted(kept) == ["methods", "methods-learned", "methods-timed", "testbed-evidence"]
    rows = {row["name"]: row["value"] for row in kept["testbed-evidence"]}
    low, value, high = (rows[f"composite: elements there (%){end}"] for end in (", 95 % from", "", ", 95 % to"))
    assert 0 <= low < value < high <= 100
    assert "composite minus merge: soundness, 95 % from" in rows and not any("τ" in name for name in rows)


def test_goals_are_about_the_best_method_that_is_cheap_enough(tmp_path):
    """Of five elements ssr has four, the merge two, Switch three, Composite, which costs most, and centred all."""
    sets = [ElementSet(f"five {number}", "north", ("tower", "frost", "ink", "gate", "rain")) for number in range(4)]
    kinds = {"no LoRA": "none"} | {kind: kind for kind in ("ssr", "centred", "merge", "switch", "composite")}
    methods = {label: method(kind, {}, 1.0) for label, kind in kinds.items()}
    there = {"none": 0, "merge": 2, "switch": 3, "ssr": 4, "centred": 5, "composite": 5}

    def seen(job, element):
        return float(job.set.elements.index(element) < there[job.method.kind])

    found = findings_of(tmp_path, methods, sets, seen)
    first, second, third = (row for row in goals.methods(found) if row.goal is not None)
    assert first.name == ("N = 5: best one-pass method (ssr) minus switch, elements there (points), 95 % from")
    assert (first.value, first.holds) == (pytest.approx(20), True)
    assert "method at no more than 2 x plain cost (centred) minus composite" in second.name
    assert (second.value, second.holds) == (0, False), "as good is not better"
    assert third.name.startswith("N = 5: cost of centred, the cheapest form of Composite")
    assert (third.value, third.holds) == (pytest.approx(0.2), True)


def test_the_learned_mix_is_held_against_the_best_fixed_strength(tmp_path):
    sets = [ElementSet(f"five {number}", "north", ("tower", "frost", "ink", "gate", "rain")) for number in range(4)]
    strengths = {"merge": 1.0, "merge, λ = 0.5": 0.5, "no LoRA": 0.0}
    methods = {label: method("merge" if there else "none", {}, there or 1.0) for label, there in strengths.items()} | {
        "learned": method("timed", {"rows": ["tower 1"]}, 1.0)
    }

    def seen(job, element):
        number = 3 if job.method.kind == "timed" else 4 * job.method.strength * (job.method.kind == "merge") - 2
        return float(job.set.elements.index(element) < number)

    found = findings_of(tmp_path, methods, sets, seen)
    (row,) = (row for row in goals.learned(found) if row.goal is not None)
    assert row.name == ("N = 5: learned mix (learned) minus best fixed λ (merge), elements there (points), 95 % from")
    assert (row.value, row.holds) == (pytest.approx(20), True)


def test_the_full_plans_time_is_told_once_all_of_it_is_painted(tmp_path):
    jobs = made.jobs()
    for name, some, told in (("part", jobs[:-1], False), ("whole", jobs, True)):
        with made.fill(tmp_path / name, some) as store:
            found = Findings(read(jobs, made.ELEMENTS, store))
            hours = sum(picture.seconds for picture in store.pictures(job.key for job in jobs).values()) / 3600
        goal = [row.value for row in goals.full(found) if row.goal is not None]
        assert goal == ([pytest.approx(hours)] if told else [])


def test_partial_results_say_so(few, tmp_path):
    plan = few(PLANS / "tau.toml")
    jobs = plan.jobs()
    with made.fill(tmp_path, jobs[:-1]) as store:
        found = evidence.found(plan, store)
    assert found is not None
    cases = len(jobs) // len(plan.methods)
    assert f"only {cases - 1} of {cases} cases are there for all methods" in evidence.basis(found)


def test_differences_are_from_the_method_that_the_experiment_names(tmp_path):
    reverse = Method("switch", {"every": 2})
    methods = {"merge": Method("merge"), "switch, listed": Method("switch"), "switch, reversed": reverse}
    findings = findings_of(tmp_path, methods)
    share = experiments.measure(findings, "share")
    assert share is not None
    table = texts(experiments.against(experiments.listed)(findings))
    gap = findings.difference(share, "switch, reversed", "switch, listed")
    assert table["switch, reversed"][1].startswith(f"{share.text(gap.value, sign=True)} (")
    assert table["switch, listed"][1:3] == ["–", "–"] and table["merge"][1:3] == ["–", "–"]


def test_grids_put_settings_beside_each_other(tmp_path):
    methods = {
        "merge, 20 steps": Method("merge"), "switch, τ = 5, 20 steps": Method("switch", {"every": 5}),
        "merge, 30 steps": Method("merge", {"limit": 0.0}), "switch, τ = 5, 30 steps": Method("switch", {"every": 6}),
        "switch, τ = 3, 30 steps": Method("switch", {"every": 3}),
    }  # fmt: skip
    findings = findings_of(tmp_path, methods)
    table = experiments.grid("share")(findings)
    assert [head.text for head in table.heads] == ["20 steps", "30 steps"]
    assert list(texts(table)) == ["merge", "switch, τ = 5", "switch, τ = 3"] and texts(table)["switch, τ = 3"][0] == "–"
    gaps = experiments.grid("share", "merge")(findings)
    share = experiments.measure(findings, "share")
    assert share is not None and list(texts(gaps)) == ["switch, τ = 5", "switch, τ = 3"]
    expected = findings.difference(share, "switch, τ = 5, 30 steps", "merge, 30 steps")
    assert texts(gaps)["switch, τ = 5"][1].startswith(share.text(expected.value, sign=True))


def test_styles_alone_and_beside_others(tmp_path):
    sets = [*made.SETS, ElementSet("ink", "north", ("ink",)), ElementSet("photo", "south", ("photo",))]

    def seen(job, name):
        alone = job.set.size == 1
        return 0.9 if (name == "ink" and alone) or (name != "ink" and not alone) else 0.1

    findings = findings_of(tmp_path, {"merge": Method("merge")}, sets, seen)
    tables = {name: texts(build(findings)) for name, build in EXPERIMENTS["styles"].items()}
    assert tables["styles-alone"] == {"ink (1 set)": ["100"], "photo (1 set)": ["0"]}
    assert tables["styles-beside"]["ink (3 sets)"] == ["0 (all alike)"]
    assert tables["styles-beside"]["photo (2 sets)"] == ["100 (all alike)"]
    assert tables["styles-others"]["ink (3 sets)"] == ["100 (all alike)"]


def test_wins_are_counted_by_size(tmp_path):
    findings = findings_of(tmp_path, made.METHODS)
    row = texts(experiments.wins_by_size("merge")(findings))["composite: elements there"]
    share = experiments.measure(findings, "share")
    assert share is not None
    won = findings.wins(share, "composite", "merge", findings.sizes == 3)
    assert row[1] == " / ".join(f"{100 * one / 3:.0f}" for one in won) and np.sum(won) == 3


def test_a_document_without_places_is_an_error(tmp_path):
    path = tmp_path / "none.md"
    path.write_text("# Nothing", "utf-8")
    with pytest.raises(EvaluationError, match=r"none.md has no place for tau. Put in a line <!-- table: tau -->"):
        evidence.write_tables(path, {"tau": "x"})
    assert path.read_text("utf-8") == "# Nothing"


def test_an_unknown_experiment(capsys):
    assert cli.main(["evidence", "tow"]) == 1
    assert "'tow' is no experiment; expected some of alone, full, control" in capsys.readouterr().err


def test_costs_that_nobody_knows_reach_no_goal_and_stand_in_no_way(tmp_path):
    """Of Composite's forms only the one that the same run painted is held against it."""
    five = ElementSet("five", "north", ("tower", "frost", "ink", "gate", "rain"))
    methods = {label: method(label if label != "no LoRA" else "none", {}, 1.0)
               for label in ("no LoRA", "reused", "centred", "composite")}  # fmt: skip
    jobs = made.jobs([five], methods)
    with made.begun(tmp_path) as store:
        for job in jobs:
            made.paint(store, job, origin="alone" if job.label == "reused" else "together")
            made.judge(store, job, lambda job, element: 0.9)
        findings = Findings(read(jobs, made.ELEMENTS, store))
    (row,) = goals.cheapest(findings)
    assert "cost of centred" in row.name and row.value == pytest.approx(0.2)
    shown = texts(experiments.EXPERIMENTS["methods"]["methods-all"](findings))
    assert shown["reused"][-2:] == ["–", "–"] and shown["centred"][-2:] == ["1", "1.00"]
