"""What is read from a store: every number at its place, nothing dropped in silence."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from mixlora.evaluation.findings import Findings
from mixlora.evaluation.jobs import EvaluationError, Method
from mixlora.evaluation.measures import known
from mixlora.evaluation.reading import missing, observations, read, write_observations
from mixlora.evaluation.store import Comparison, Store
from mixlora.evaluation.versus import panels

from . import evaluation_findings as made

SHARE, UNASKED = known("oracle", "share"), known("oracle", "unasked")


@pytest.fixture
def full(tmp_path):
    jobs = made.jobs(seeds=(1, 2))
    with made.fill(tmp_path, jobs) as store:
        yield jobs, store


def reading_of(jobs, store):
    return read(jobs, made.ELEMENTS, store)


def test_every_number_stands_at_its_place(full):
    jobs, store = full
    reading = reading_of(jobs, store)
    assert reading.labels == tuple(made.METHODS) and len(reading.cases) == 16
    for label in reading.labels:
        row = reading.values["oracle", "share"][reading.row(label)]
        assert row.tolist() == made.array(store, jobs, label, "share").tolist()
    names = [one.name for one in reading.elements]
    assert names == list(made.ELEMENTS), "in the testbed's order"
    for (label, place), job in reading.jobs.items():
        asked = reading.single["oracle", "element"][reading.row(label), place]
        expected = [made.seen(job, name) if name in job.set.elements else np.nan for name in names]
        np.testing.assert_array_equal(asked, expected)
    assert reading.sizes.tolist() == [2] * 10 + [3] * 6 and reading.sets.tolist() == np.repeat(range(8), 2).tolist()


def test_what_is_missing_is_counted_and_left_out_for_all(tmp_path):
    jobs = made.jobs()
    with made.begun(tmp_path) as store:
        for job in jobs:
            if (job.label, job.set.name) != ("switch", "tower + frost"):
                made.paint(store, job)
                if (job.label, job.set.name) != ("merge", "mill + frost"):
                    made.judge(store, job)
        reading = reading_of(jobs, store)
    found = {(one.label, one.what): (one.missing, one.expected) for one in missing(reading)}
    assert found == {("switch", "not painted"): (1, 8), ("merge", "oracle"): (1, 8)}
    findings = Findings(reading)
    assert findings.common(SHARE).tolist() == [False, False] + [True] * 6
    complete = findings.mean(SHARE, "composite")
    assert complete.cases == 6 and complete.value == pytest.approx(
        reading.values["oracle", "share"][reading.row("composite"), 2:].mean()
    )
    assert findings.recall("composite", ["tower"]).cases == 2, "of three sets with a tower one is left out"


def test_a_method_that_nobody_judged_takes_nothing_from_the_others(full):
    jobs, store = full
    jobs = [*jobs, *made.jobs(methods={"later": Method("switch", {"every": 1})}, seeds=(1, 2))]
    findings = Findings(reading_of(jobs, store))
    assert findings.common(SHARE).all() and findings.labels(SHARE) == list(made.METHODS)
    assert np.isnan(findings.mean(SHARE, "later").value)


def test_findings_are_those_of_the_plain_way(full):
    jobs, store = full
    findings = Findings(reading_of(jobs, store))
    merge, composite = (made.array(store, jobs, label, "share") for label in ("merge", "composite"))
    size = findings.sizes == 3
    assert findings.mean(SHARE, "merge", size).value == pytest.approx(merge[10:].mean())
    assert findings.difference(SHARE, "composite", "merge").value == pytest.approx((composite - merge).mean())
    won = findings.wins(SHARE, "composite", "merge")
    assert won == ((composite > merge).sum(), (composite == merge).sum(), (composite < merge).sum())
    assert findings.cost("composite", size) == 3 and findings.cost("merge") == 1 and findings.seconds("composite") == 2
    styles = [job for job in jobs if job.label == "switch"]
    hits = [made.seen(job, name) > 0.5 for job in styles for name in job.set.elements if name in ("ink", "photo")]
    recall = findings.recall("switch", findings.categories["style"])
    assert recall.value == pytest.approx(np.mean(hits)) and recall.cases == len(hits) and recall.sets == 5


def test_times_are_set_against_each_other_only_where_one_run_painted_both(tmp_path):
    """Another machine is faster, and another hour was busier: merges of two elements come from a run of their own."""
    jobs = made.jobs()
    with made.begun(tmp_path) as store:
        for job in jobs:
            apart = job.label == "merge" and job.set.size == 2
            made.paint(store, job, origin="busy hour" if apart else "first run", pace=50.0 if apart else 1.0)
        findings = Findings(reading_of(jobs, store))
    pairs = findings.sizes == 2
    assert findings.cost("merge") == 1 and np.isnan(findings.cost("merge", pairs))
    assert findings.seconds("merge") == 1 and np.isnan(findings.seconds("merge", pairs))
    assert findings.cost("composite", pairs) == 2 == findings.seconds("composite", pairs)


def test_times_that_were_taken_over_without_their_origin_count_for_nothing(tmp_path):
    jobs = made.jobs()
    with made.begun(tmp_path) as store:
        for job in jobs:
            store.adopt(job, 50.0, [], origin="elsewhere" if job.label in ("composite", "switch") else "")
        findings = Findings(reading_of(jobs, store))
    assert np.isnan(findings.cost("merge")) and np.isnan(findings.cost("no LoRA")) and np.isnan(findings.cost("switch"))
    assert np.isnan(findings.seconds("merge")) and findings.seconds("composite") == 50


def test_times_are_over_the_cases_of_the_means_beside_them(tmp_path):
    """Most sets are of two elements, but not by all methods: they are in no mean, so they are in no time."""
    jobs = [job for job in made.jobs() if job.set.size == 3 or job.label in ("composite", "no LoRA")]
    with made.fill(tmp_path, jobs) as store:
        findings = Findings(reading_of(jobs, store))
    assert findings.mean(SHARE, "composite").cases == 3
    assert findings.seconds("composite") == 3 == findings.cost("composite")
    assert np.isnan(findings.cost("composite", findings.sizes == 2))


def test_a_score_that_was_taken_over_ties_with_the_same_one_judged_here(tmp_path):
    """A third is written with six decimals."""
    jobs = [job for job in made.jobs() if job.label in ("merge", "switch")]
    with made.begun(tmp_path) as store:
        for job in jobs:
            made.paint(store, job)
            share = 1 / 3 if job.label == "merge" else round(1 / 3, 6)
            store.add_scores(job.key, "oracle", {("share", ""): share})
        findings = Findings(reading_of(jobs, store))
    counted = findings.wins(SHARE, "switch", "merge")
    assert (counted.win, counted.loss) == (0, 0) and findings.difference(SHARE, "switch", "merge").value == 0


def test_fewer_that_nobody_asked_for_wins(full):
    jobs, store = full
    findings = Findings(reading_of(jobs, store))
    first, second = (made.array(store, jobs, label, "unasked") for label in ("switch", "composite"))
    assert findings.wins(UNASKED, "switch", "composite").win == (first < second).sum()


def test_baselines_of_many_are_the_plain_ones(full):
    jobs, store = full
    assert Findings(reading_of(jobs, store)).baselines == ["no LoRA", "merge", "merge, w/N"]
    sweep = {f"λ = {λ}": Method("merge", {"mode": "sum", "limit": 0.0}, λ) for λ in (-1.0, 0.5, 1.0, 2.0, 4.0)}
    more = made.jobs(methods={**made.METHODS, **sweep, "root": Method("merge", {"mode": "root"})}, seeds=(1, 2))
    findings = Findings(reading_of(more, store))
    assert findings.baselines == ["no LoRA", "merge", "λ = 1.0"] and findings.merge == "merge"


def test_the_tidy_table_has_every_number_once(full, tmp_path):
    jobs, store = full
    rows = write_observations(tmp_path / "all.csv", observations(reading_of(jobs, store)))
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    scores = list(store.scores())
    assert len(found) == rows == len(scores)
    read_back = {(row["key"], row["judge"], row["measure"], row["element"]): float(row["value"]) for row in found}
    assert read_back == {(one.key, one.judge, one.measure, one.element): one.value for one in scores}
    one = next(row for row in found if row["element"] == "frost" and row["method"] == "switch")
    assert one["category"] == "weather" and one["world"] == "north" and "frost" in one["set"]


def test_nothing_to_read_is_said(tmp_path):
    with Store(tmp_path) as store:
        with pytest.raises(EvaluationError, match=r"None of the plan's 40 pictures .*`run` the plan first"):
            reading_of(made.jobs(), store)
        with pytest.raises(EvaluationError, match="no pictures"):
            reading_of([], store)


def test_two_pictures_side_by_side_are_averaged_over_both_orders(full):
    jobs, store = full
    by_case: dict = {}
    for job in jobs:
        by_case.setdefault((job.set.name, job.seed), {})[job.label] = job.key
    rows = []
    for number, keys in enumerate(by_case.values()):
        better = 7 + number % 2  # every second case a point better
        rows += [
            Comparison(keys["merge"], keys["switch"], "vlm:m", "composition", 8.0, better),  # the first gets one more
            Comparison(keys["switch"], keys["merge"], "vlm:m", "composition", better + 1, 7.0),
            Comparison(keys["merge"], keys["composite"], "vlm:m", "composition", 5.0, 6.0),  # in one order only
        ]
    store.add_comparisons(rows)
    (panel,) = panels(reading_of(jobs, store), store.comparisons())
    assert (panel.judge, panel.against) == ("vlm:m", "merge")
    switch, composite = sorted(panel.rows, key=lambda row: row.label != "switch")
    assert (switch.label, switch.mean, switch.other) == ("switch", 8.0, 7.5)
    assert switch.difference.value == 0.5 and switch.difference.sets == 8 and switch.wins == (8, 8, 0)
    assert composite.difference.cases == 0 and composite.half == 16, "pairs seen in one order are counted, not used"
    (bias,) = panel.bias
    assert bias.pairs == 16 and bias.difference == 1.0
