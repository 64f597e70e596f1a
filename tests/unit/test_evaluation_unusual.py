"""Reports and findings of plans that are out of the ordinary: judges of pairs alone, sets of one, many methods."""

from __future__ import annotations

from dataclasses import replace

from mixlora.evaluation import drawing, plots, report, sections, sheets
from mixlora.evaluation.findings import Findings
from mixlora.evaluation.jobs import ElementSet, Method
from mixlora.evaluation.measures import known
from mixlora.evaluation.reading import read
from mixlora.evaluation.store import Comparison

from . import evaluation_findings as made

SHARE = known("oracle", "share")


def test_pictures_that_only_a_judge_of_pairs_has_seen_count_as_judged(tmp_path):
    jobs = [job for job in made.jobs() if job.label in ("merge", "composite")]
    with made.begun(tmp_path) as store:
        for job in jobs:
            made.paint(store, job)
        pairs = [(jobs[place].key, jobs[place + 1].key) for place in range(0, len(jobs), 2)]
        shown = [keys for pair in pairs for keys in (pair, pair[::-1])]
        store.add_comparisons(Comparison(one, two, "vlm:model", "composition", 7.0, 6.5) for one, two in shown)
        report.write_report(made.plan(tmp_path, jobs), store, tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "No judge has scored" not in text and "- judges: vlm:model" in text


def test_adapters_alone_are_in_no_number_over_all_sets(tmp_path):
    singles = [ElementSet(name, made.ELEMENTS[name].world, (name,)) for name in made.ELEMENTS]
    jobs = made.jobs([*made.SETS, *singles])
    with made.fill(tmp_path, jobs) as store:
        both = Findings(read(jobs, made.ELEMENTS, store))
        alone = Findings(read(made.jobs(singles), made.ELEMENTS, store))
        without = Findings(read(made.jobs(), made.ELEMENTS, store))
    for label in made.METHODS:
        assert both.mean(SHARE, label).value == without.mean(SHARE, label).value
        assert both.recall(label, list(made.ELEMENTS)).value == without.recall(label, list(made.ELEMENTS)).value
        assert both.mean(SHARE, label, both.sizes == 1).value == alone.mean(SHARE, label).value, "and by N they are"


def test_costs_are_of_one_method_even_where_others_have_more_steps(tmp_path):
    jobs = made.jobs()
    more = [replace(job, label=f"{job.label}, 60 steps", sampling=replace(job.sampling, steps=60)) for job in jobs]
    with made.begun(tmp_path) as store:
        for job in (*jobs, *more):
            made.paint(store, job, origin="one run", pace=job.sampling.steps / 30)
            made.judge(store, job)
        findings = Findings(read([*jobs, *more], made.ELEMENTS, store))
    assert [findings.cost(label) for label in ("no LoRA", "merge, 60 steps", "no LoRA, 60 steps")] == [1, 2, 2]


def test_a_setting_of_a_plan_is_no_markup_in_a_drawing():
    name = '"><script>alert(1)</script>'
    drawn = drawing.svg(drawing.new_figure(1, 1), name)
    assert "<script" not in drawn and "&quot;&gt;&lt;script&gt;" in drawn


def test_many_methods_have_no_tangle_of_lines(tmp_path):
    methods = {f"switch {turn}": Method("switch", {"every": turn}) for turn in range(1, 11)}
    jobs = made.jobs(methods={**made.METHODS, **methods})
    with made.fill(tmp_path, jobs) as store:
        findings = Findings(read(jobs, made.ELEMENTS, store))
        assert plots.by_size(findings) == "" and sections.by_element(findings) is None
        assert len(sheets.shown(findings)) == 12 and {"no LoRA", "merge", "composite"} <= set(sheets.shown(findings))
        named = [label for label in findings.reading.labels if f">{label}<" in plots.quality_over_cost(findings)]
        assert "merge" in named and len(named) < 10, "only those that nothing beats in both, and the merge"
        paths = report.write_report(made.plan(tmp_path, jobs), store, tmp_path / "out")
    made.Page(paths[0].read_text("utf-8"))


def test_pictures_without_scores_still_make_a_report(tmp_path):
    jobs = made.jobs(methods={"switch": Method("switch", {"every": 5})})
    with made.begun(tmp_path) as store:
        for job in jobs:
            made.paint(store, job)
        paths = report.write_report(made.plan(tmp_path, jobs), store, tmp_path / "out")
    text = paths[0].read_text("utf-8")
    assert "No judge has scored these pictures yet" in " ".join(made.Page(text).words) and "data:image/jpeg" in text
