"""The report's plots: what a label says about a setting, what is drawn over it, which points nothing beats."""

from __future__ import annotations

import re

import pytest
from mixlora.evaluation import plots
from mixlora.evaluation.findings import Findings
from mixlora.evaluation.jobs import Method
from mixlora.evaluation.reading import read

from . import evaluation_findings as made


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("switch, τ = 5", ("switch", "τ", 5.0)),
        ("sum, λ = -1.0", ("sum", "λ", -1.0)),
        ("merge, w/N, 20 steps", ("merge, w/N", "steps", 20.0)),
        ("switch, τ = 5, 30 steps", ("switch, τ = 5", "steps", 30.0)),
        ("switch, τ automatic", None),
        ("merge", None),
    ],
)
def test_settings_in_labels(label, found):
    assert plots.setting(label) == found


def test_a_swept_setting_has_its_plot(tmp_path):
    turns = {f"switch, τ = {turn}": Method("switch", {"every": turn}) for turn in (1, 2, 5)}
    jobs = made.jobs(methods={"merge": Method("merge"), "switch, τ automatic": Method("switch", {"every": 0}), **turns})
    with made.fill(tmp_path, jobs) as store:
        name, drawing = plots.over_setting(Findings(read(jobs, made.ELEMENTS, store)))
        assert name == "τ" and {">merge<", ">switch<", ">τ<"} <= set(re.findall(">[^<>]+<", drawing))
        assert plots.over_setting(Findings(read(jobs[:2], made.ELEMENTS, store))) == ("", "")


def test_points_that_nothing_beats():
    points = {"a": (1.0, 5.0), "b": (2.0, 4.0), "c": (3.0, 9.0), "d": (3.0, 8.0)}
    assert plots.pareto(points) == {"a", "c"}
    assert plots.pareto(points, higher=False) == {"a", "b"}
