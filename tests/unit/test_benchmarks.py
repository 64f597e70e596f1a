"""What the benchmarks make of their seconds; nothing is timed here."""

import json
from typing import Any

import numpy as np
import pytest
from mixlora.benchmarks import instruments, results, router, runner, sampling

from . import evaluation_findings as made


def test_a_drifting_machine_moves_no_ratio(monkeypatch):
    """It grows slower by a tenth of the first run each time: plain before and after tell what it does in between."""
    runs = iter(range(1000))
    cost = {"plain": 1.0, "twice": 2.0, "half": 0.5}
    monkeypatch.setattr(sampling, "_seconds", lambda run, steps: cost[run] * steps * (1 + next(runs) / 10))
    names: Any = {name: name for name in cost}  # stand for variants
    found = sampling.over_plain(names.pop("plain"), names, rounds=3, steps=30)
    assert found == {"twice": pytest.approx(2), "half": pytest.approx(0.5)}


def test_one_round_that_was_disturbed_does_not_count(monkeypatch):
    seconds = iter([10, 10, 10, 10, 35, 10, 10, 11, 10])
    monkeypatch.setattr(sampling, "_seconds", lambda run, steps: next(seconds))
    assert sampling.over_plain(print, {"ours": print}, rounds=3, steps=1)["ours"] == pytest.approx(1.1)


def test_a_full_plan_is_made_up_and_read_back(tmp_path):
    planned = made.plan(tmp_path, made.jobs())
    (row,) = runner.reading_rows(planned)
    assert row.name.endswith(f"report of {len(made.jobs())} pictures (s)")
    assert row.value > 0 and row.at_most


def test_numbers_of_numpy_are_written(tmp_path):
    half: Any = np.float32(0.5)  # not the float that types ask for, but what a mean of predictions is
    path = results.write_results("made-up", [results.Row("mean", half, 0.4)], tmp_path)
    (row,) = json.loads(path.read_text())["rows"]
    assert row == {"name": "mean", "value": 0.5, "goal": ">= 0.4", "holds": True}


@pytest.mark.parametrize("benchmark", [instruments, router, runner])
@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--only", 2)])
def test_what_takes_long_does_not_begin_by_mistake(monkeypatch, capsys, benchmark, argument, status):
    monkeypatch.setattr("sys.argv", ["benchmark", argument])
    with pytest.raises(SystemExit) as left:
        benchmark.main()
    assert left.value.code == status
    said = capsys.readouterr()
    assert (benchmark.__doc__.splitlines()[0] in said.out) if status == 0 else (argument in said.err)
