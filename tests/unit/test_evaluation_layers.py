"""The testbed's side: roles of elements, policies with layers, and scenes to fit on that are never judged."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mixlora.evaluation import cli
from mixlora.evaluation.jobs import Element, ElementSet, EvaluationError, Sampling
from mixlora.evaluation.methods import method, policy
from mixlora.evaluation.painting import Painter
from mixlora.evaluation.policies.layers import _mix_for, at_once
from mixlora.evaluation.testbeds import ROLES, StandinTestbed
from mixlora.evaluation.tuning import PRODUCT, Case, Score, each_its_own, fitting_prompts, mix_of, other_cases, the_set
from mixlora.mixlora_core.errors import AdapterError
from mixlora.mixlora_core.files import lora_file
from mixlora.mixlora_core.layers.learned_mix import read
from mixlora.mixlora_core.stack import StackEntry, StyleStack
from safetensors.torch import save_file

NAMES = ("tower", "snow")
CHOSEN = ElementSet("tower + snow", "north", NAMES)


@pytest.fixture
def testbed(tmp_path):
    for seed, name in enumerate((*NAMES, "checkpoint")):
        save_file({"x.lora_up.weight": torch.full((2, 2), float(seed))}, tmp_path / f"{name}.safetensors")
    return SimpleNamespace(
        elements={name: Element(name, "north", "thing", name) for name in NAMES},
        adapter=lambda name: tmp_path / f"{name}.safetensors",
        checkpoint=lambda world: tmp_path / "checkpoint.safetensors",
        vae=lambda world: None,
        sampling=lambda world: Sampling(3, 2.0, "euler", "normal", 128, 128),
    )


@pytest.fixture
def stack(testbed):
    files = [lora_file.read(testbed.adapter(name)) for name in NAMES]
    return StyleStack(tuple(StackEntry(file.name, file, 1.0, 1.0) for file in files))


def test_roles_by_category():
    from mixlora.standin.elements import CATEGORIES

    assert [ROLES.get(category, "") for category in CATEGORIES] == ["concept", "", "style", "", "concept"]


def test_the_painter_gives_the_stack_its_roles(testbed):
    elements = {"tower": Element("tower", "north", "landmark", ""), "snow": Element("snow", "north", "style", "")}
    other: Any = SimpleNamespace(**{**vars(testbed), "elements": elements})
    entries = Painter(other)._stack(CHOSEN, 0.7).entries
    assert [(entry.role, entry.strength_model) for entry in entries] == [("concept", 0.7), ("style", 0.7)]


def test_how_many_speak_at_once(stack):
    entry = stack.entries[0]
    roles = ("concept", "concept", "style", "")
    assert at_once(StyleStack(tuple(replace(entry, role=role) for role in roles))) == 3
    assert at_once(StyleStack(tuple(replace(entry, role=role) for role in ("concept", "")))) == 2  # a merge


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"text": "own"}, "text is 'own'; expected one of base, first, all"),
        ({"mode": "mean"}, "mode is 'mean'; expected sum or root"),
        ({"alpha": 0.0}, "expected a slope above 0"),
        ({"by": "token"}, "Layers are grouped by 'token'"),
    ],
)
def test_impossible_concept_style(parameters, message):
    with pytest.raises((EvaluationError, AdapterError), match=message):
        method("concept_style", parameters, 1.0)
    assert policy(method("concept_style", {"alpha": 1, "mode": "root"}, 1.0)).evaluations(5, 30, 7.0) == 1


def test_a_learned_file_is_part_of_the_pictures_key(testbed, stack, tmp_path):
    path = tmp_path / "mix.safetensors"
    with pytest.raises(EvaluationError, match=r"file is '.*'; expected a learned mix"):
        method("learned", {"file": str(path)}, 1.0)
    mix_of(testbed, CHOSEN, (0.5, 0.7)).write(path)
    one = method("learned", {"file": str(path)}, 1.0)
    assert policy(one).check(2, 30) is None and len(one.parameters["digest"]) == 64
    mix_of(testbed, CHOSEN, (0.5, 0.8)).write(path)
    with pytest.raises(EvaluationError, match="has changed since the plan was read"):
        policy(one)
    assert method("learned", {"file": str(path)}, 1.0).parameters["digest"] != one.parameters["digest"]


def test_a_folder_has_a_mix_for_each_set(testbed, stack, tmp_path):
    folder = tmp_path / "mixes"
    folder.mkdir()
    mix_of(testbed, CHOSEN, (0.5, 0.7)).write(folder / "both.safetensors")
    mix_of(testbed, ElementSet("tower", "north", ("tower",)), (0.9,)).write(folder / "tower.safetensors")
    assert torch.equal(_mix_for(str(folder), stack).coefficients, torch.tensor([[0.5], [0.7]]))
    assert _mix_for(str(folder), StyleStack(stack.entries[:1])).groups == ("all",)
    with pytest.raises(EvaluationError, match=r"one learned mix for snow.safetensors, found none of 2 files"):
        _mix_for(str(folder), StyleStack(stack.entries[1:]))


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


def test_the_score_is_what_the_oracle_sees(testbed, tmp_path):
    """A painter that paints the coefficients it finds in the job's file, and an oracle that reads them off."""
    seeds = []

    def paint(job):
        seeds.append((job.prompt, job.seed))
        column = read(policy(job.method).file).coefficients[:, 0]  # type: ignore[attr-defined]
        return column.numpy().copy(), 0.0

    def look(pictures):
        present = np.zeros((len(pictures), 3))
        present[:, [2, 0]] = pictures
        return SimpleNamespace(present=present, quality=np.full(len(pictures), 0.5))

    known, mix = ("snow", "moon", "tower"), tmp_path / "tried.safetensors"
    cases = [Case(CHOSEN, "a", 900_000), Case(CHOSEN, "b", 900_001)]
    score = Score(testbed, cases, each_its_own, mix, paint, look, known)
    assert score((0.5, 0.25)) == pytest.approx(0.375) and score((1.0, 0.5)) == pytest.approx(0.75)
    assert seeds == [("a", 900_000), ("b", 900_001)] * 2
    sound = Score(testbed, cases[:1], each_its_own, mix, paint, look, known, PRODUCT)
    assert sound((0.5, 0.25)) == pytest.approx(0.1875)
    turned = Score(testbed, cases[:1], lambda chosen, values: (values[0], 0.0), mix, paint, look, known)
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


def test_one_strength_a_category_for_all_sets_of_a_plan(tmp_path, monkeypatch, capsys):
    """The oracle sees most where landmarks have most: the search must find that, and every set gets its own file."""
    from mixlora.evaluation import painting, tuning
    from mixlora.standin.element_oracle import ElementOracle

    heard = []

    class Painter:
        def __init__(self, testbed):
            self.testbed = testbed

        def paint(self, job):
            heard.append(job.set.name)
            column = read(policy(job.method).file).coefficients[:, 0]  # type: ignore[attr-defined]
            return np.full(2, float(column[0])), 0.0

    def look(pictures):
        return SimpleNamespace(present=np.tile(pictures[:, :1] / 2, (1, 22)), quality=np.ones(len(pictures)))

    monkeypatch.setattr(painting, "Painter", Painter)
    monkeypatch.setattr(tuning.standalone, "import_comfy", lambda: None)
    monkeypatch.setattr(ElementOracle, "load", lambda: SimpleNamespace(read=look))
    plan, output = tmp_path / "plan.toml", tmp_path / "mixes"
    plan.write_text(PLAN, encoding="utf-8")
    command = ["tune", "--plan", str(plan), "--output", str(output), "--prompts", "3", "--budget", "25"]
    assert cli.main(command) == 0
    judged = ["castle + snow", "torii + rain", "pagoda + old_photo"]
    assert len(set(heard)) == 3 and not set(heard).intersection(judged) and len(heard) == 75
    assert sorted(path.name for path in output.glob("*.safetensors")) == [
        "castle-snow.safetensors", "pagoda-old_photo.safetensors", "torii-rain.safetensors",
    ]  # fmt: skip
    mixes = {path.stem: read(path).coefficients[:, 0] for path in output.glob("*.safetensors")}
    assert mixes["castle-snow"][0] == mixes["torii-rain"][0] > 1.05, "landmarks, louder than the rules that began"
    assert mixes["castle-snow"][1] == mixes["torii-rain"][1], "weather"
    assert "landmark 1." in capsys.readouterr().out
    assert cli.main(command) == 0 and len(heard) == 75, "the log knows all scores"
    with pytest.raises(SystemExit):
        cli.main(["tune", "--budget"])
    for wrong in ([], ["castle", "--plan", str(plan)], ["--plan", str(plan), "--output", "one.safetensors"]):
        assert cli.main(["tune", *wrong]) == 1
    assert "expected a folder" in capsys.readouterr().err
