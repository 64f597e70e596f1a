"""The report of made-up findings: what it shows, what it says is missing, and that the page needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from mixlora.evaluation import cli, report, sections, sheets
from mixlora.evaluation.findings import Findings
from mixlora.evaluation.jobs import EvaluationError, Method
from mixlora.evaluation.measures import known
from mixlora.evaluation.reading import read
from mixlora.evaluation.store import Comparison, Store
from PIL import Image

from . import evaluation_findings as made

SHARE, QUALITY = known("oracle", "share"), known("oracle", "quality")
NASTY = '<script>alert("τ")</script> & co | more'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Findings about five methods and one with a nasty name, of which some pictures and scores are missing."""
    folder = tmp_path_factory.mktemp("report")
    methods = {**made.METHODS, NASTY: Method("switch", {"every": 1})}
    jobs = made.jobs(methods=methods, seeds=(1, 2))
    with made.begun(folder) as store:
        for job in jobs:
            if (job.label, job.set.name, job.seed) == ("switch", "gate + rain", 2):
                continue
            made.paint(store, job, side=300 if job.set.size == 3 else 16)
            made.judge(store, job)
        by_case = {(job.set.name, job.seed, job.label): job.key for job in jobs}
        store.add_comparisons(
            Comparison(first, second, "vlm:model", "composition", 7.0, 6.5)
            for name, seed, label in by_case
            if label == "merge"
            for one, other in [(by_case[name, seed, "merge"], by_case[name, seed, "composite"])]
            for first, second in [(one, other), (other, one)]
        )
    return folder, made.plan(folder, jobs, f"# {NASTY}")


@pytest.fixture(scope="module")
def written(folder):
    place, plan = folder
    with Store(place) as store:
        paths = report.write_report(plan, store, place / "out")
    return {path.name: path.read_text("utf-8") for path in paths}


@pytest.fixture(scope="module")
def page(written):
    return made.Page(written["report.html"])


@pytest.fixture
def findings(folder):
    place, plan = folder
    with Store(place) as store:
        return Findings(read(plan.jobs(), plan.testbed.elements, store))


def test_the_page_is_whole_and_needs_nothing_else(page, written):
    assert page.all("script") == [] and page.all("link") == []
    assert "@import" not in written["report.html"] and "url(http" not in written["report.html"]
    outside = [one for tag in ("img", "a", "image", "use") for one in page.all(tag) if "http" in str(one)]
    assert outside == []
    assert [one["href"][1:] for one in page.all("a")] == [one for one in page.ids if f"#{one}" in
                                                         {link["href"] for link in page.all("a")}]  # fmt: skip
    assert len(written["report.html"]) < 5_000_000


def test_what_a_plan_says_is_text_not_markup(page, written):
    assert "<script" not in written["report.html"] and NASTY in "".join(page.words)
    table = next(line for line in written["report.md"].splitlines() if line.startswith("| <script"))
    assert r"co \| more" in table


def test_pictures_are_small_jpegs_with_a_text_for_those_who_do_not_see_them(page):
    pictures = page.all("img")
    assert len(pictures) > 6 * 8
    for one in pictures:
        data = base64.b64decode(one["src"].removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG" and max(image.size) <= sheets.SIDE
        assert " by " in one["alt"]


def test_markdown_shows_the_same_pictures_and_plots_from_their_files(page, folder, written):
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", written["report.md"])
    shown = [one for one in links if one.endswith(".png")]
    assert len(shown) == len(page.all("img"))
    place = folder[0] / "out"
    assert all((place / one).is_file() for one in links)
    plots = {one for one in links if one.endswith(".svg")}
    assert {"cost.svg", "size.svg"} <= plots
    for one in plots:
        drawn = ElementTree.fromstring((place / one).read_text("utf-8"))
        assert drawn.tag.endswith("svg") and "var(--" not in (place / one).read_text("utf-8")


def test_the_table_has_the_means_with_their_intervals(folder, findings, written):
    place, plan = folder
    with Store(place) as store:
        values = made.array(store, [job for job in plan.jobs() if job.label == "composite"], "composite", "share")
    kept = findings.common(SHARE)
    line = next(line for line in written["report.md"].splitlines() if line.startswith("| composite"))
    estimate = findings.mean(SHARE, "composite")
    assert estimate.value == pytest.approx(values[kept].mean()) and kept.sum() == 15
    told = f"{100 * estimate.value:.0f} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"
    assert f"| {told} |" in line.replace("**", "")
    best = max(findings.mean(SHARE, label).value for label in findings.reading.labels)
    assert ("**" in line.partition(" |")[2].partition(" |")[0]) == (estimate.value == best), "the best is bold"
    assert line.rstrip(" |").endswith("| 2.00"), "twice the time of no LoRA in the median"


def test_differences_say_who_won_and_whether_it_is_clear(findings):
    table = sections.differences(findings, "no LoRA")
    row = next(row for row in table.rows if row.label == "composite")
    share = row.cells[0]
    assert share.tone == "better" and share.text.startswith("+") and share.more.endswith(" / 0")
    assert sections.differences(findings, "composite").rows[0].cells[0].tone == "worse"
    assert [row.label for row in table.rows] == [label for label in findings.reading.labels if label != "no LoRA"]


def test_a_smaller_number_is_better_where_the_measure_says_so():
    unasked = known("oracle", "unasked")
    estimate = sections.Estimate(-0.3, -0.5, -0.1, 10, 10)
    assert (sections.tone(unasked, estimate), sections.tone(SHARE, estimate)) == ("better", "worse")
    assert sections.tone(SHARE, sections.Estimate(0.1, -0.1, 0.3, 10, 10)) == ""


def test_numbers_for_people():
    assert SHARE.text(0.666) == "67" and SHARE.text(-0.0004, sign=True) == "0.0"
    assert QUALITY.text(-0.5, sign=True) == "\N{MINUS SIGN}0.50" and QUALITY.text(float("nan")) == "–"
    assert SHARE.range(0.5, 0.5) == "all alike" and SHARE.range(float("nan"), float("nan")) == ""
    other = known("mine", "taste")
    assert other.title == "mine: taste" and other.text(0.12345) == "0.123", "what nobody has described is still shown"


def test_the_report_says_what_is_missing(page, written):
    text = " ".join(page.words)
    assert "1 of 96 pictures are not painted yet." in text
    assert "By oracle, methods are compared over 15 of 16 cases" in text
    assert "8 sets are few" in text
    assert "| switch: not painted | 1 | 16 |" in written["report.md"]


def test_it_says_how_it_was_measured_and_what_it_cannot_show(page):
    text = " ".join(page.words)
    for words in ("euler (normal), 30 steps, CFG 7, 16 × 16", "10,000 bootstrap resamples", "no SD v1.5", "Python 3."):
        assert words in text, words


def test_a_judge_that_sees_two_pictures_has_its_section(page, written):
    assert "vlm:model" in " ".join(page.words) and "side" in page.ids
    assert "| composite – merge: composition (model) | 6.75 | 6.75 | 0.00" in written["report.md"]
    assert re.search(r"- composition: shown first wins 100 %", written["report.md"])
    by_size = written["report.md"].partition("### By number of LoRAs: vlm:model")[2]
    assert "| N = 2 (10 pairs) | N = 3 (6 pairs) |" in by_size and by_size.count(" 0 / 100 / 0 |") == 2


def test_plots_take_the_inks_of_the_page(written):
    drawings = re.findall(r"<svg.*?</svg>", written["report.html"], re.DOTALL)
    assert len(drawings) == 2
    assert [re.search('aria-label="(.*?)"', one)[1] for one in drawings] == [
        "quality over cost", "over N, number of LoRAs",
    ]  # fmt: skip
    for one in drawings:
        assert "var(--ink)" in one and "var(--paper)" in one and "#01020" not in one
        assert "<metadata>" not in one and 'id="figure_1"' not in one
    assert "no LoRA" in drawings[0] and "composite" in drawings[1]


def test_the_same_findings_give_the_same_page(folder, written):
    place, plan = folder
    with Store(place) as store:
        report.write_report(plan, store, place / "again")
    for name, text in written.items():
        again = (place / "again" / name).read_text("utf-8")
        dated = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d UTC)?")
        assert dated.sub("", again) == dated.sub("", text), name


def test_sheets_show_the_best_and_the_worst_cases(findings):
    best, worst = sheets.extremes(findings, "composite", "no LoRA")
    gaps = findings.values(SHARE, "composite") - findings.values(SHARE, "no LoRA")
    shown = [gaps[one.place] for one in best.chosen]
    assert shown == sorted(gaps[~np.isnan(gaps)], reverse=True)[:4]
    assert best.chosen[0].remark == "composite: +100.0 points"
    assert all(gaps[one.place] < 0 for one in worst.chosen)


def test_examples_are_of_every_size_and_both_worlds(findings):
    chosen = [findings.reading.cases[place].set for place in sheets.examples(findings)]
    assert [one.size for one in chosen] == [2, 2, 3, 3]
    assert [one.world for one in chosen] == ["north", "south"] * 2


def test_many_pictures_are_fewer_not_a_larger_page(findings, monkeypatch):
    everything = sheets.sheets(findings, sheets.shown(findings))
    monkeypatch.setattr(sheets, "BUDGET", 30_000)
    fewer = sheets.sheets(findings, sheets.shown(findings))
    assert sum(len(one.strips) for one in fewer) < sum(len(one.strips) for one in everything)
    assert any("left out to keep this page small" in one.note for one in fewer)


def test_the_command(folder, monkeypatch, capsys, tmp_path):
    place, plan = folder
    monkeypatch.setattr(report, "read_plan", lambda path: plan)
    options = ["report", "plan.toml", "--results", str(place)]
    assert cli.main([*options, "--output", str(tmp_path), "--against", "switch"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert "Against switch" in (tmp_path / "report.md").read_text("utf-8")
    assert cli.main([*options, "--against", "swich"]) == 1
    assert "'swich' is no method of the plan; expected one of no LoRA, merge" in capsys.readouterr().err
    assert cli.main(["report", "plan.toml", "--results", str(tmp_path / "nowhere")]) == 1
    assert "holds no results" in capsys.readouterr().err and not (tmp_path / "nowhere").exists()


def test_a_picture_that_is_gone_is_named(tmp_path):
    jobs = made.jobs()
    with made.fill(tmp_path, jobs) as store:
        gone = store.picture_path(jobs[0].key)
        gone.unlink()
        with pytest.raises(EvaluationError, match=f"{gone.name} is no readable picture"):
            report.write_report(made.plan(tmp_path, jobs), store, tmp_path / "out")
