"""Strengths found by search: on what, by what score, and what becomes of them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mixlora.evaluation import cli, painting, tuning
from mixlora.evaluation.jobs import ElementSet, EvaluationError, Sampling
from mixlora.evaluation.methods import method, policy
from mixlora.evaluation.plan import read_plan
from mixlora.evaluation.testbeds import StandinTestbed
from mixlora.evaluation.tuning import PRODUCT, Score, as_mix
from mixlora.evaluation.tuning_cases import Case, fitting_prompts, other_cases, the_set
from mixlora.mixlora_core.errors import AdapterError
from mixlora.mixlora_core.layers.learned_mix import read
from mixlora.mixlora_core.stack import StackEntry, StyleStack
from mixlora.standin.element_oracle import ElementOracle
from safetensors.torch import save_file

CHOSEN = ElementSet("tower + snow", "north", ("tower", "snow"))


@pytest.fixture
def stack():
    file: Any = None
    return StyleStack(tuple(StackEntry(f"{name}.safetensors", file, 1.0, 1.0) for name in CHOSEN.elements))


def test_no_scene_to_fit_on_is_judged():
    testbed = StandinTestbed()
    judged = {testbed.prompt(one)[0] for one in testbed.sets}
    for chosen in testbed.sets[::97]:
        prompts = fitting_prompts(testbed, chosen, 6)
        assert len(set(prompts)) == 6 and not judged.intersection(prompts)
        own = testbed.prompt(chosen)[0].split(" landscape at ")
        for prompt in prompts:
            land, rest = prompt.split(" landscape at ")
            assert land != own[0] and rest.split()[0] != own[1].split(",")[0]
            assert all(testbed.elements[name].trigger in prompt for name in chosen.elements)
        assert prompts == fitting_prompts(testbed, chosen, 6) != fitting_prompts(testbed, chosen, 6, seed=1)
    with pytest.raises(EvaluationError, match="--prompts 99; expected 1 to"):
        fitting_prompts(testbed, testbed.sets[0], 99)
    with pytest.raises(EvaluationError, match=r"snow [+] rain is no set"):
        the_set(testbed, ["snow", "rain"])
    assert the_set(testbed, ["monet", "snow", "castle"]).elements == ("castle", "snow", "monet")


def test_the_score_is_what_the_oracle_sees(tmp_path):
    """A painter that paints the coefficients it finds in the job's file, and an oracle that reads them off."""
    seeds = []
    for number, name in enumerate(("tower", "snow", "checkpoint")):
        save_file({"x.lora_up.weight": torch.full((2, 2), float(number))}, tmp_path / f"{name}.safetensors")
    testbed = SimpleNamespace(
        adapter=lambda name: tmp_path / f"{name}.safetensors",
        checkpoint=lambda world: tmp_path / "checkpoint.safetensors",
        vae=lambda world: None,
        sampling=lambda world: Sampling(3, 2.0, "euler", "normal", 128, 128),
    )

    def paint(job):
        seeds.append((job.prompt, job.seed))
        column = read(policy(job.method).file).coefficients[:, 0]  # type: ignore[attr-defined]
        return column.numpy().copy(), 0.0

    def look(pictures):
        present = np.zeros((len(pictures), 3))
        present[:, [2, 0]] = pictures
        return SimpleNamespace(present=present, quality=np.full(len(pictures), 0.5))

    known = ("snow", "moon", "tower")
    own = as_mix(testbed, tmp_path / "tried.safetensors", lambda chosen, values: values)
    first = as_mix(testbed, tmp_path / "tried.safetensors", lambda chosen, values: (values[0], 0.0))
    cases = [Case(CHOSEN, "a", 900_000), Case(CHOSEN, "b", 900_001)]
    score = Score(testbed, cases, own, paint, look, known)
    assert score((0.5, 0.25)) == pytest.approx(0.375) and score((1.0, 0.5)) == pytest.approx(0.75)
    assert seeds == [("a", 900_000), ("b", 900_001)] * 2
    sound = Score(testbed, cases[:1], own, paint, look, known, PRODUCT)
    assert sound((0.5, 0.25)) == pytest.approx(0.1875)
    turned = Score(testbed, cases[:1], first, paint, look, known)
    assert turned((0.5,)) == pytest.approx(0.25), "one number for both, of which the second makes nothing"


def test_sets_to_tune_on_are_none_of_the_judged_ones():
    testbed = StandinTestbed()
    judged = [one for one in testbed.sets if one.size == 5][:40]
    cases = other_cases(testbed, judged, 8)
    assert len({one.chosen.name for one in cases}) == 8 == len({one.seed for one in cases})
    assert {one.chosen.size for one in cases} == {5} and not {one.chosen for one in cases}.intersection(judged)
    assert {one.chosen.world for one in cases} == {"north", "south"}
    shown = {testbed.prompt(one)[0] for one in testbed.sets}
    assert not shown.intersection(one.prompt for one in cases) and cases == other_cases(testbed, judged, 8)
    with pytest.raises(EvaluationError, match="--prompts 57; the plan leaves 56 sets"):
        other_cases(testbed, judged, 57)


PLAN = """
testbed = "standin"
[sets]
names = ["castle + snow", "torii + rain", "pagoda + old_photo"]
[methods.merge]
kind = "merge"
"""


@pytest.fixture
def painted(tmp_path, monkeypatch):
    """A plan; jobs are painted as the strength of their first adapter, and that is how surely anything is seen."""
    jobs = []

    def loudness(job):
        made: Any = policy(job.method)
        if job.method.kind == "learned":
            return float(read(made.file).coefficients[0, 0])
        rows = dict(row.split(" ", 1) for row in made.rows)
        return sum(map(float, rows[job.set.elements[0]].split())) / 2

    def paint(job):
        jobs.append(job)
        return np.full(2, loudness(job)), 0.0

    def look(pictures):
        return SimpleNamespace(present=np.tile(pictures[:, :1] / 2, (1, 22)), quality=np.ones(len(pictures)))

    monkeypatch.setattr(painting, "Painter", lambda testbed: SimpleNamespace(paint=paint))
    monkeypatch.setattr(tuning.standalone, "import_comfy", lambda: None)
    monkeypatch.setattr(ElementOracle, "load", lambda: SimpleNamespace(read=look))
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN, encoding="utf-8")
    return SimpleNamespace(plan=plan, jobs=jobs)


def test_one_strength_a_category_for_all_sets_of_a_plan(painted, tmp_path, capsys):
    """The oracle sees most where landmarks have most: the search must find that, and every set gets its own file."""
    output = tmp_path / "mixes"
    command = ["tune", "--plan", str(painted.plan), "--output", str(output), "--prompts", "3", "--budget", "25"]
    assert cli.main(command) == 0
    heard, judged = [job.set.name for job in painted.jobs], ["castle + snow", "torii + rain", "pagoda + old_photo"]
    assert len(set(heard)) == 3 and not set(heard).intersection(judged) and len(heard) == 75
    assert sorted(path.name for path in output.glob("*.safetensors")) == [
        "castle-snow.safetensors", "pagoda-old_photo.safetensors", "torii-rain.safetensors",
    ]  # fmt: skip
    mixes = {path.stem: read(path).coefficients[:, 0] for path in output.glob("*.safetensors")}
    assert mixes["castle-snow"][0] == mixes["torii-rain"][0] > 1.05, "landmarks, louder than the rules that began"
    assert mixes["castle-snow"][1] == mixes["torii-rain"][1], "weather"
    assert "landmark 1." in capsys.readouterr().out
    assert cli.main(command) == 0 and len(painted.jobs) == 75, "the log knows all scores"


def test_one_strength_a_category_and_part_of_the_run(painted, tmp_path):
    """What is written can be put into a plan as it is."""
    output = tmp_path / "found.toml"
    command = ["tune", "--plan", str(painted.plan), "--edges", "0.4", "--output", str(output), "--prompts", "2",
               "--budget", "24", "--starts", "1", "0.75", "--steps", "7"]  # fmt: skip
    assert cli.main(command) == 0
    assert {job.sampling.steps for job in painted.jobs} == {7} and len(painted.jobs) == 48
    first = [policy(job.method).rows[0] for job in painted.jobs[:4:2]]  # type: ignore[attr-defined]
    assert [row.split()[1:] for row in first] == [["1.000"] * 2, ["0.750"] * 2]
    painted.plan.write_text(PLAN + output.read_text("utf-8"), encoding="utf-8")
    planned = read_plan(painted.plan).methods["learned in time"].method
    rows = dict(row.split(" ", 1) for row in planned.parameters["rows"])
    assert planned.parameters["edges"] == [0.4] and len(rows) == 22
    assert rows["castle"] == rows["pagoda"] and sum(map(float, rows["castle"].split())) > 2.1, "landmarks, louder"


@pytest.mark.parametrize(
    ("more", "named"),
    [(["--score", PRODUCT], "score"), (["--steps", "7"], "pictures"), (["--edges", "0.5"], "edges")],
)
def test_a_log_is_of_one_score_of_one_kind_of_pictures(painted, tmp_path, capsys, more, named):
    """What was searched by one score is not called the best by another."""
    command = ["tune", "--plan", str(painted.plan), "--edges", "0.4", "--output", str(tmp_path / "found.toml"),
               "--prompts", "2", "--budget", "2"]  # fmt: skip
    assert cli.main(command) == 0
    before = (tmp_path / "found.toml").read_text("utf-8")
    assert cli.main([*command, *more]) == 1
    assert f"a log of another search; they differ in {named}." in capsys.readouterr().err
    assert len(painted.jobs) == 4 and (tmp_path / "found.toml").read_text("utf-8") == before


def test_a_log_is_of_one_set_of_files_and_one_oracle(painted, tmp_path, monkeypatch, capsys):
    """A LoRA or an oracle that was trained again scores anew."""
    output = ["--output", str(tmp_path / "one.safetensors")]
    command = ["tune", "castle", "snow", *output, "--prompts", "2", "--budget", "2"]
    assert cli.main(command) == 0
    for place, name, changed, named in (
        (tuning, "digests", lambda testbed, chosen: ("0" * 64,), "pictures"),
        (ElementOracle, "version", lambda: "another", "oracle"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, changed)
            assert cli.main(command) == 1
            assert f"they differ in {named}." in capsys.readouterr().err
    assert cli.main(command) == 0 and len(painted.jobs) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "Give either the elements"),
        (["castle", "--plan", "{plan}"], "Give either the elements"),
        (["castle", "snow", "--edges", "0.4"], "--edges goes with --plan"),
        (["castle", "snow", "--output", "mix.toml"], "ends with .safetensors"),
        (["--plan", "{plan}", "--prompts", "2", "--output", "one.safetensors"], "expected a folder"),
        (["--plan", "{plan}", "--prompts", "2", "--edges", "0.4", "--output", "folder"], "ends with .toml"),
        (["--plan", "{plan}", "--prompts", "2", "--edges", "1.4", "--output", "a.toml"], "edges are"),
        (["--plan", "{plan}", "--prompts", "2", "--starts", "nan", "--output", "folder"], "all finite"),
    ],
)
def test_what_is_refused(painted, tmp_path, monkeypatch, capsys, wrong, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tune", *(one.format(plan=painted.plan) for one in wrong)]) == 1
    assert message in capsys.readouterr().err and not painted.jobs and list(tmp_path.iterdir()) == [painted.plan]


def windows(**parameters):
    return policy(method("timed", parameters, 1.0))


def test_rows_are_the_windows_of_their_adapters(stack, monkeypatch):
    made, seen = windows(edges=[0.25, 0.5], rows=["moon 9 9 9", "snow 0.2 0.4 -0.6", "tower 1 0 0.5"]), []
    monkeypatch.setattr(type(made), "applied", lambda self, model, clip, stack, told: seen.append(told))
    made.apply(None, None, stack)
    tower = seen[0].windows[0]
    assert [(one.start, one.end, one.coefficient) for one in tower] == [(0, 0.25, 1), (0.25, 0.5, 0), (0.5, 1, 0.5)]
    assert [seen[0].branches(step, 20)[0].coefficients for step in (0, 5, 10)] == [(1, 0.2), (0, 0.4), (0.5, -0.6)]
    with pytest.raises(EvaluationError, match="rows have none for snow; they are for tower"):
        windows(rows=["tower 1"]).apply(None, None, stack)
    with pytest.raises(AdapterError, match="would never speak"):
        windows(edges=[0.01], rows=["tower 1 1"]).check(2, 30)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "rows are missing"),
        ({"rows": ["tower"]}, "row 'tower': expected NAME, once, and 1 number"),
        ({"rows": ["tower 1 2"]}, "and 1 number"),
        ({"rows": ["tower 1", "tower 2"]}, "once"),
        ({"rows": ["tower nan"]}, "row 'tower nan'"),
        ({"edges": [0.5, 0.2], "rows": ["tower 1 1 1"]}, "rising shares"),
        ({"edges": [1], "rows": ["tower 1 1"]}, "rising shares"),
        ({"edges": ["half"], "rows": ["tower 1 1"]}, "rising shares"),
        ({"text": "own", "rows": ["tower 1"]}, "text is 'own'"),
    ],
)
def test_a_timed_method_says_what_is_wrong(parameters, message):
    with pytest.raises(EvaluationError, match=message):
        windows(**parameters)
