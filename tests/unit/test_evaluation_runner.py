"""Runs are resumable after any kill, a failing job stops no other, and progress counts the work that is left."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mixlora.evaluation import cli, cluster, runner
from mixlora.evaluation.jobs import EvaluationError, Method
from mixlora.evaluation.painting import Painted, png
from mixlora.evaluation.runner import Outcome, Progress, missing, open_results, paint
from mixlora.evaluation.store import Store
from PIL import Image

SCRIPT = Path(__file__).with_name("evaluation_process.py")
_spec = importlib.util.spec_from_file_location("evaluation_process", SCRIPT)
assert _spec and _spec.loader
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)


def complete(folder, count):
    """Whether every job has its row, its picture is the right one, and nothing else lies there."""
    with Store(folder) as store:
        pictures = store.pictures()
    jobs = process.jobs(count)
    assert set(pictures) == {job.key for job in jobs}
    for job in jobs:
        np.testing.assert_array_equal(np.asarray(Image.open(store.picture_path(job.key))), process.picture(job))
    files = {path for path in (folder / "pictures").rglob("*") if path.is_file()}
    return files == {picture.path for picture in pictures.values()}


def test_killed_again_and_again_nothing_is_lost_and_nothing_counted_twice(tmp_path):
    count, kept = 60, 0
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(count)]
    for delay in (0.0, 0.03, 0.1):
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None and running.stdout.readline() == "begun\n"
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "pictures").glob("*/*.png"))) <= kept and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)  # it may be anywhere in its work
        running.kill()
        running.wait()
        with Store(tmp_path) as store:
            rows = store.pictures()
        lying = {path.stem for path in (tmp_path / "pictures").glob("*/[!.]*.png")}
        assert set(rows) <= lying and len(lying - set(rows)) <= 1, "the picture in hand at most"
        assert len(rows) >= kept
        kept = len(lying)
    with open_results(tmp_path) as store:
        assert len(missing(store, process.jobs(count))) == count - len(rows)
    assert process.run(tmp_path, count).painted == count - len(rows)
    assert complete(tmp_path, count)
    assert process.run(tmp_path, count) == Outcome()


def test_a_picture_that_vanished_is_painted_again(tmp_path):
    process.run(tmp_path, 5)
    with Store(tmp_path) as store:
        gone = store.picture_path(process.jobs(5)[2].key)
    gone.unlink()
    assert process.run(tmp_path, 5).painted == 1
    assert complete(tmp_path, 5)


def test_asked_to_stop_it_ends_after_the_picture_in_hand(tmp_path):
    said = []
    outcome = process.run(tmp_path, 9, stop=lambda: bool(said), say=said.append)
    assert (outcome.painted, outcome.left) == (1, 8)
    assert process.run(tmp_path, 9).painted == 8
    assert complete(tmp_path, 9)


def test_a_job_that_fails_is_named_and_the_others_are_painted(tmp_path):
    said = []

    def source(jobs, stop):
        for job in jobs:
            yield Painted(job, error="TensorError: torn") if job.seed == 1 else Painted(job, png(process.picture(job)))

    with open_results(tmp_path) as store:
        outcome = paint(store, process.jobs(3), source, lambda: False, said.append)
        assert outcome.painted == 2 and [done.job.seed for done in outcome.failed] == [1]
        assert said.count("FAILED merge: tower + snow (noise 1): TensorError: torn") == 1
        assert [job.seed for job in missing(store, process.jobs(3))] == [1], "the next run tries it again"


def test_pictures_of_one_run_on_one_machine_have_one_origin(tmp_path):
    """A run that goes on after a kill is another one: another hour is another load."""

    def source(jobs, stop):
        for job in jobs:
            yield Painted(job, png(process.picture(job)), 0.5, machine="second" if job.seed == 1 else "first")

    with open_results(tmp_path) as store:
        for todo in (process.jobs(3), process.jobs(5)[3:]):
            paint(store, todo, source, lambda: False, lambda line: None)
        pictures = store.pictures()
        first, second, third, fourth, fifth = (pictures[job.key].origin for job in process.jobs(5))
    assert first == third != second and fourth == fifth and len({first, second, fourth}) == 3
    assert not any("first" in one.origin for one in pictures.values()), "no machine's name gets into published scores"


def test_a_worker_says_on_which_machine_it_painted(monkeypatch):
    """What comes back over the network is plain data, and becomes what the worker had."""
    job = process.jobs(1)[0]
    done = Painted(job, b"png", 2.0, machine="second")
    monkeypatch.setattr(cluster, "Painter", lambda testbed: SimpleNamespace(attempt=lambda job: done))
    assert Painted(job, *cluster.painter("standin", {})(asdict(job))) == done


def test_two_runs_do_not_paint_into_one_folder(tmp_path):
    with (
        open_results(tmp_path),
        pytest.raises(EvaluationError, match="Another run paints into"),
        open_results(tmp_path),
    ):
        pass
    with open_results(tmp_path):
        pass


def test_equal_pictures_are_painted_once_and_checkpoints_stay_together(tmp_path):
    jobs = [replace(job, files=(str(job.seed % 2) * 64,)) for job in process.jobs(4)]
    with open_results(tmp_path) as store:
        todo = missing(store, [*jobs, *(replace(job, label="other name") for job in jobs)])
    assert [job.seed for job in todo] == [0, 2, 1, 3]


def test_time_left_counts_composite_n_times(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    merge = process.jobs(1)[0]
    composite = replace(merge, label="composite", method=Method("composite", {"text": "own"}))
    progress = Progress([merge, composite, composite])
    now[0] = 60.0
    assert progress.count(Painted(merge, b"png", 58.0)).startswith("1/3  4:00 left   58.0 s  merge: tower + snow")
    now[0] = 61.0
    assert progress.count(Painted(composite, b"png")) == "", "not a line for every picture"
    now[0] = 62.0
    assert progress.count(Painted(composite, b"png")).startswith("3/3  0:00 left"), "but one for the last"


def test_command_line(capsys, tmp_path):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in cli.COMMANDS)
    assert cli.main(["ran"]) == 2
    assert "Unknown command 'ran'" in capsys.readouterr().err
    assert cli.main(["run", str(tmp_path / "absent.toml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "absent.toml" in said


def test_names_of_methods_are_printed_on_every_console(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stderr", console)
    assert cli.main(["merge, w/√N"]) == 2
    console.flush()
    assert b"Unknown command 'merge, w/\\u221aN'" in console.buffer.getvalue()


def test_every_worker_finds_a_place_on_machines_that_are_not_alike():
    places = {(8, 4): 2, (4, 2): 2, (16, 2): 2, (2,): 2, (8,): 3, (1,): 4, (): 1}
    shares = {cores: cluster.cores_each(cores, workers) for cores, workers in places.items()}
    assert shares == {(8, 4): 4, (4, 2): 2, (16, 2): 8, (2,): 1, (8,): 2, (1,): 0.25, (): 1}
    assert [cluster.gpus_each((1, 1), workers) for workers in (1, 2, 3)] == [1, 1, 0.5]


@pytest.mark.parametrize(("ray", "workers"), [(None, 2), ("", 0)])
def test_workers_need_ray_and_one_at_least(ray, workers):
    arguments: Any = SimpleNamespace(ray=ray, workers=workers)
    with pytest.raises(EvaluationError, match=f"--workers {workers} needs --ray and a number"):
        runner.paint_plan(None, arguments, lambda: False)  # type: ignore[arg-type]


def test_interrupted_says_that_it_is_kept(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert cli.main(["run", "plan.toml"]) == 130
    assert "what is finished is kept" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_in_order(monkeypatch, tmp_path, number):
    def paint_plan(plan, arguments, stop):
        os.kill(os.getpid(), number)
        return process.run(tmp_path, 5, stop, lambda line: None)

    monkeypatch.setattr(runner, "read_plan", lambda path: None)
    monkeypatch.setattr(runner, "paint_plan", paint_plan)
    assert cli.main(["run", "plan.toml"]) == 128 + number
    assert process.run(tmp_path, 5).painted == 5, "none was begun after the signal, the store is whole"
