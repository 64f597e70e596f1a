"""Router files: written and read back, everything that is wrong with one, and which stack a router is for."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.methods import method, policy
from mixlora.mixlora_core.errors import RouterError, TensorError
from mixlora.mixlora_core.files import lora_file
from mixlora.mixlora_core.files.hashes import of_file
from mixlora.mixlora_core.routing import router_file
from mixlora.mixlora_core.routing.experts import share, strengths_of
from mixlora.mixlora_core.routing.router_file import KEY, Expert, Head, check_base
from mixlora.mixlora_core.stack import StackEntry, StyleStack
from safetensors.torch import load_file, save_file

LAYER = "middle_block.1.transformer_blocks.0.ff"
HEAD = Head(
    2, "outputs", "mean", "sd1", 7, (Expert("monet", "a" * 64, ("monet style",)), Expert("ghibli", "b" * 64)), "tiny"
)
ROUTERS = {LAYER: torch.arange(12.0).view(2, 6)}
EXPERTS = ({"x.lora_up.weight": torch.ones(3, 1).half(), "x.alpha": torch.tensor(1.0)}, {"y.diff": torch.ones(2)})


@pytest.fixture
def written(tmp_path):
    return router_file.write(tmp_path / "r.safetensors", HEAD, ROUTERS, EXPERTS, {"modelspec.title": "r"})


@pytest.fixture
def damaged(written, tmp_path):
    """Reads a copy of the file in which the header's JSON object or the tensors were changed."""
    number = itertools.count()

    def read(head=lambda said: None, tensors=lambda found: None):
        found, file = load_file(written.identity.path), lora_file.read(written.identity.path)
        said = json.loads(file.metadata[KEY])
        head(said)
        tensors(found)
        path = tmp_path / f"{next(number)}" / "damaged.safetensors"  # files are cached by path, time and size
        path.parent.mkdir()
        save_file(found, path, {KEY: json.dumps(said)})
        return router_file.read(path)

    return read


def test_comes_back_as_it_was_written(written, tmp_path):
    assert written.head == HEAD and written.name == "r.safetensors"
    assert written.routers.keys() == ROUTERS.keys() and torch.equal(written.routers[LAYER], ROUTERS[LAYER])
    for found, expected in zip(written.experts, EXPERTS, strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype
                   for name in found)  # fmt: skip
    assert written.expert(1).name == "r.safetensors (ghibli)" and written.expert(1).tensors is written.experts[1]
    metadata = lora_file.read(written.identity.path).metadata
    assert metadata["modelspec.title"] == "r" and metadata["sshs_model_hash"] == of_file(written.identity.path)[1]
    again = router_file.write(tmp_path / "s.safetensors", HEAD, ROUTERS, EXPERTS, {"modelspec.title": "r"})
    assert Path(written.identity.path).read_bytes() == Path(again.identity.path).read_bytes()


def test_a_lora_is_no_router(tmp_path):
    save_file(dict(EXPERTS[0]), tmp_path / "lora.safetensors")
    with pytest.raises(RouterError, match=r"lora\.safetensors is no router file: .* mixlora\.router"):
        router_file.read(tmp_path / "lora.safetensors")


def test_what_is_not_finite_is_neither_written_nor_read(damaged, tmp_path):
    with pytest.raises(RouterError, match=r"1 of 4 tensors are not finite: router\.middle_block"):
        router_file.write(tmp_path / "n.safetensors", HEAD, {LAYER: torch.full((2, 6), torch.nan)}, EXPERTS, {})
    assert not (tmp_path / "n.safetensors").exists()
    with pytest.raises(TensorError, match=r"tensor router\.middle_block.* has 12 NaN"):
        damaged(tensors=lambda found: found[f"router.{LAYER}.weight"].fill_(torch.nan))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("k", 3, "k is 3, with 2 experts"),
        ("k", 0, "k is 0"),
        ("k", "2", "k is '2'"),
        ("mixing", "inputs", "mixing is 'inputs'"),
        ("rest", 1, "rest is 1"),
        ("format", 2, "format is 2, this version of MixLoRA reads 1"),
        ("experts", [{"name": "monet"}], "cannot be understood"),
        ("experts", None, "cannot be understood"),
        ("colour", "red", "cannot be understood"),
    ],
)
def test_impossible_headers(damaged, key, value, expected):
    with pytest.raises(RouterError, match=rf"damaged\.safetensors: .*{expected}"):
        damaged(head=lambda said: said.update({key: value}))


def test_damaged_tensors_are_named(damaged):
    with pytest.raises(RouterError, match=r"tensor stray is no router's and none of its 2 experts'"):
        damaged(tensors=lambda found: found.update(stray=torch.ones(1)))
    with pytest.raises(RouterError, match=r"tensor expert\.2\.x is no router's"):
        damaged(tensors=lambda found: found.update({"expert.2.x": torch.ones(1)}))
    with pytest.raises(RouterError, match=r"\(3, 6\); expected one row for each of 2 experts"):
        damaged(tensors=lambda found: found.update({f"router.{LAYER}.weight": torch.ones(3, 6)}))
    with pytest.raises(RouterError, match="has no router"):
        damaged(tensors=lambda found: found.pop(f"router.{LAYER}.weight"))
    with pytest.raises(RouterError, match="its expert ghibli has no tensor"):
        damaged(tensors=lambda found: found.pop("expert.1.y.diff"))


def test_another_base_is_refused(written):
    layers = {f"other.{number}": 6 for number in range(6)}
    check_base(written, "sd1", {**layers, LAYER: 6})
    made = r"r\.safetensors was trained on Stable Diffusion 1\.x \(tiny\)"
    with pytest.raises(RouterError, match=made + "; the connected model is Stable Diffusion XL"):
        check_base(written, "sdxl", {**layers, LAYER: 6})
    with pytest.raises(RouterError, match="of another kind"):
        check_base(written, None, {})
    with pytest.raises(RouterError, match="with 7 feed-forward layers; the connected model has 1"):
        check_base(written, "sd1", {LAYER: 6})
    with pytest.raises(RouterError, match=f"a layer {LAYER}, which the connected model does not have"):
        check_base(written, "sd1", {**layers, "other.6": 6})
    with pytest.raises(RouterError, match="reads tokens 6 wide, those of the connected model are 8 wide"):
        check_base(written, "sd1", {**layers, LAYER: 8})


@pytest.fixture
def stack(tmp_path):
    """Two LoRA files as a stack, and their hashes; no test reads their tensors."""
    entries = []
    for number in range(2):
        save_file({"x.lora_up.weight": torch.full((2, 1), float(number))}, tmp_path / f"{number}.safetensors")
        file = lora_file.read(tmp_path / f"{number}.safetensors")
        entries.append(StackEntry(f"{number}.safetensors", file, 0.5 + number, 1.0))
    return StyleStack(tuple(entries)), [of_file(entry.file.identity.path)[1] for entry in entries]


def test_experts_are_known_by_their_tensors_in_the_routers_order(written, stack):
    entries, hashes = stack
    experts = (Expert("b", hashes[1]), Expert("c", "c" * 64), Expert("a", hashes[0]))
    router = replace(written, head=replace(HEAD, experts=experts))
    assert list(strengths_of(router, entries).items()) == [(0, 1.5), (2, 0.5)]
    with pytest.raises(RouterError, match=r"0\.safetensors is no expert of r\.safetensors, whose experts are b, c"):
        strengths_of(replace(written, head=replace(HEAD, experts=experts[:2])), entries)
    with pytest.raises(RouterError, match="in the stack twice"):
        strengths_of(router, StyleStack(entries.entries[:1] * 2))
    with pytest.raises(RouterError, match="stack is empty"):
        strengths_of(router, StyleStack())


def test_the_rest_speaks_as_asked():
    assert [share(rest, 4) for rest in ("off", "mean", "sum")] == [0.0, 0.25, 1.0]


def test_the_policys_parameters_are_checked_when_the_plan_is_read(written, tmp_path, stack):
    path = written.identity.path
    made = method("router", {"file": path, "k": 1}, 0.8)
    assert made.parameters == {"file": path, "k": 1, "rest": "", "sha256": of_file(path)[0]} and made.strength == 0.8
    assert policy(made).evaluations(5, 20, 7.0) == 1
    for wrong, message in [
        ({}, "file is missing"),
        ({"file": str(tmp_path / "none.safetensors")}, "file: .*cannot be opened"),
        ({"file": stack[0].entries[0].file.identity.path}, "file: 0.safetensors is no router file"),
        ({"file": path, "k": -1}, "k is -1"),
        ({"file": path, "rest": "all"}, "rest is 'all'"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            method("router", wrong, 1.0)


def test_a_file_that_changed_after_the_plan_is_not_painted_with(written):
    made = method("router", {"file": written.identity.path}, 1.0)
    router_file.write(Path(written.identity.path), HEAD, {LAYER: torch.zeros(2, 6)}, EXPERTS, {})
    with pytest.raises(EvaluationError, match="it was changed since the plan was read"):
        policy(made)
