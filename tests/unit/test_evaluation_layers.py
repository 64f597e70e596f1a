"""The testbed's side: roles of elements, policies with layers, and scenes to fit on that are never judged."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mixlora.evaluation.jobs import Element, ElementSet, EvaluationError, Sampling
from mixlora.evaluation.methods import method, policy
from mixlora.evaluation.painting import Painter
from mixlora.evaluation.policies.layers import _mix_for, at_once
from mixlora.evaluation.testbeds import ROLES
from mixlora.evaluation.tuning import mix_of
from mixlora.mixlora_core.errors import AdapterError
from mixlora.mixlora_core.files import lora_file
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
