"""Routers trained on ComfyUI's own UNet: what is trained, what is written, and that a node computes the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from mixlora.mixlora_core.routing import router_file
from mixlora.mixlora_core.routing.routed import routed
from mixlora.mixlora_core.routing.router import FIRST, SECOND, feed_forwards
from mixlora.mixlora_core.stack import StyleStack
from mixlora.training import router_cli, router_map
from mixlora.training.base import Base
from mixlora.training.checkpoint import Autosave
from mixlora.training.export import file_prefixes
from mixlora.training.router import Routers, train_router
from mixlora.training.router_experts import export_router, load_experts, rest_merged
from mixlora.training.router_options import parse
from mixlora.training.router_settings import RouterSettings
from mixlora.training.samples import Samples
from mixlora.training.settings import TrainingError, TrainSettings
from PIL import Image
from safetensors.torch import load_file

SETTINGS = TrainSettings(steps=3, batch=2, accumulate=1, lr=1e-2, warmup=0.0, min_snr=0.0, caption_dropout=0.0)
OPTIONS = RouterSettings()


@pytest.fixture(scope="module")
def model(models):
    """A model of this file's own: training leaves its convolutions in another order."""
    return models.unet(models.SD15_UNET, seed=3)


@pytest.fixture(scope="module")
def samples():
    source = torch.Generator().manual_seed(0)
    latents, context = (torch.randn(2, *shape, generator=source) for shape in ((4, 8, 8), (77, 768)))
    return Samples(latents=latents, context=context, captions=["a hill, monet style", "a sea, ghibli style"])


@pytest.fixture
def paths(model, loras, models):
    """Two LoRAs of feed-forward layers and a little attention; the second is for one of the blocks alone."""
    layers = feed_forwards(model.model.diffusion_model)
    made = []
    for seed, names in enumerate((list(layers), list(layers)[:1])):
        source = torch.Generator().manual_seed(seed)
        linears: dict[str, Any] = {
            f"{name}.{end}": layers[name].get_submodule(end) for name in names for end in (FIRST, SECOND)
        }
        tensors = models.lora_tensors("LoRA", seed=seed, size=0.1, text=seed == 1)
        for name, prefix in file_prefixes(linears, model.model.model_config.unet_config).items():
            out, into = linears[name].weight.shape
            tensors[f"{prefix}.lora_up.weight"] = torch.randn(out, 2, generator=source).half() * 0.2
            tensors[f"{prefix}.lora_down.weight"] = torch.randn(2, into, generator=source).half() * 0.2
            tensors[f"{prefix}.alpha"] = torch.tensor(1.0)
        words = {"modelspec.trigger_phrase": ("monet style", "ghibli style")[seed]}
        made.append(loras.folder / loras.save(f"e{seed}", tensors, words))
    return made


def bits(model):
    modules = list(model.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return {name: value.clone() for name, value in model.model.state_dict().items()}


@pytest.mark.parametrize("train_experts", [False, True])
def test_a_node_computes_what_was_trained(train_experts, model, samples, paths, models, tmp_path):
    before, base = bits(model), Base.from_comfy(model, name="tiny")
    options, loaded = replace(OPTIONS, train_experts=train_experts), load_experts(paths, base)
    start = Routers(base.unet, [one.parts for one in loaded], options)
    trained = train_router(base, samples, SETTINGS, options, loaded)
    routers = trained.lora
    assert isinstance(routers, Routers) and len(routers.names) == 7
    assert trained.finished and all(torch.isfinite(torch.tensor(trained.losses)))
    for name, weight in routers.weights().items():
        assert (weight != start.weights()[name]).any(), name

    report = export_router(routers, loaded, options, tmp_path / "r.safetensors", base, {"ss_steps": "3"})
    assert "routers of 7 feed-forward layers over 2 experts" in str(report)
    file = router_file.read(tmp_path / "r.safetensors")
    assert [expert.trained for expert in file.head.experts] == [train_experts] * 2
    assert [expert.words for expert in file.head.experts] == [("monet style",), ("ghibli style",)]
    for own, path in zip(file.experts, paths, strict=True):
        original = {name: value for name, value in load_file(path).items() if not name.startswith("lora_te")}
        assert own.keys() == original.keys()
        other = {name for name in own if not torch.equal(own[name], original[name])}
        factors = {name for name in own if "_ff_net_" in name and not name.endswith("alpha")}
        assert other == (factors if train_experts else set())

    with rest_merged(base, loaded, options.rest), routers.attached(base.unet):
        expected = models.sample(model, steps=2)
    stack = StyleStack().plus([(path.name, 1.0, 1.0) for path in paths])
    found, plain = models.sample(routed(model, file, stack), steps=2), models.sample(model, steps=2)
    tolerance = 1e-3 if train_experts else 1e-5  # trained factors are written in fp16
    assert (found - expected).norm() <= tolerance * expected.norm()
    assert (found - plain).norm() > 0.01 * plain.norm()
    import comfy.model_management

    comfy.model_management.unload_all_models()
    after = bits(model)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_stop_and_resume_is_the_uninterrupted_run(model, samples, paths, tmp_path):
    base = Base.from_comfy(model)
    loaded = load_experts(paths, base)
    whole = train_router(base, samples, SETTINGS, OPTIONS, loaded)
    autosave = Autosave(tmp_path / "state", every_steps=0, every_minutes=0, resume=True)
    asked = iter([False, True])
    part = train_router(base, samples, SETTINGS, OPTIONS, loaded, autosave=autosave, stop=lambda: next(asked))
    assert part.steps == 1 and not part.finished
    with pytest.raises(TrainingError, match=r"router: saved .*'balance': 0\.01"):
        train_router(base, samples, SETTINGS, replace(OPTIONS, balance=0.1), loaded, autosave=autosave)
    rest = train_router(base, samples, SETTINGS, OPTIONS, loaded, autosave=autosave)
    assert rest.losses == whole.losses and torch.equal(rest.lora.flat, whole.lora.flat)


def test_the_untrained_router_lets_all_speak_alike(model, paths):
    base = Base.from_comfy(model)
    parts = [one.parts for one in load_experts(paths, base)]
    routers = Routers(base.unet, parts, OPTIONS, seed=1)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 768)
    with torch.no_grad(), routers.attached(base.unet):
        base(x, torch.tensor([500.0]), context)
        shares = torch.cat([said.flatten(0, -2) for said in routers._heard])
        assert routers.balance().item() == pytest.approx(1.0, abs=0.02)
    assert (shares - 0.5).abs().max() < 0.05
    assert not routers._heard


def test_experts_must_be_experts_of_this_base(model, samples, paths, loras, models):
    base = Base.from_comfy(model)
    with pytest.raises(TrainingError, match="expected two LoRA files or more, found 1"):
        load_experts(paths[:1], base)
    with pytest.raises(TrainingError, match=r"e0\.safetensors is there twice"):
        load_experts([paths[0], paths[0]], base)
    attention = loras.folder / loras.save("attention", models.lora_tensors("LoRA", text=False))
    with pytest.raises(TrainingError, match=r"attention\.safetensors changes no feed-forward layer.*--targets ff"):
        load_experts([paths[0], attention], base)
    other = loras.folder / loras.save("other", {"lora_unet_somewhere.lora_up.weight": torch.ones(2, 1)})
    with pytest.raises(TrainingError, match=r"experts: other\.safetensors"):
        load_experts([paths[0], other], base)
    partly = {**load_file(paths[0]), "lora_unet_nowhere.alpha": torch.tensor(1.0)}
    with pytest.raises(TrainingError, match=r"1 of its tensors have no place in the base, such as lora_unet_nowhere"):
        load_experts([paths[1], loras.folder / loras.save("partly", partly)], base)
    with pytest.raises(TrainingError, match="k: 3 experts for a token, but there are 2"):
        train_router(base, samples, SETTINGS, replace(OPTIONS, k=3), load_experts(paths, base))


def test_the_command_line(command, paths, tmp_path, capsys):
    """One data folder for two experts; a few steps, a file, and the errors before any work."""
    place, output = command.index("--output") + 1, tmp_path / "out" / "router.safetensors"
    arguments = [*command[:place], str(output), *command[place + 1 :], "--experts", *map(str, paths), "--steps", "2"]
    assert router_cli.main(arguments) == 0
    said = capsys.readouterr()
    assert "expert e0: 7 feed-forward layers, 2 other weights; trigger 'monet style'" in said.out
    assert "e1.safetensors also changes text encoders; these 3 tensors are left out" in said.err
    assert "2 of 2 experts a token, frozen" in said.out and "routers of 7 feed-forward layers" in said.out
    file = router_file.read(output)
    assert file.head.base == "sd1" and file.head.base_name == "tiny" and len(file.head.base_sha256) == 64
    assert router_cli.main(arguments) == 2 and "give --overwrite" in capsys.readouterr().err

    sheet, base = tmp_path / "map.png", command[command.index("--base") + 1]
    shown = [
        "--base",
        base,
        "--prompt",
        "a hill",
        "--output",
        str(sheet),
        "--width",
        "64",
        "--height",
        "96",
        "--steps",
        "1",
    ]
    assert router_map.main([*shown, "--router", str(output), "--device", "cpu"]) == 0
    assert Image.open(sheet).width > 500
    assert router_map.main([*shown, "--router", str(paths[0]), "--device", "cpu"]) == 2
    assert "e0.safetensors is no router file" in capsys.readouterr().err


def test_the_command_line_says_what_is_wrong():
    files = ["--base", "b", "--output", "o.safetensors", "--data", "d", "d", "--experts", "e", "f"]
    with pytest.raises(TrainingError, match="--data d: is there twice"):
        parse(files)
    with pytest.raises(TrainingError, match="--k 3: there are 2 experts"):
        parse([*files[:4], "--data", "d", "--experts", "e", "f", "--k", "3"])
    with pytest.raises(TrainingError, match="k: expected 2 or more, found 1"):
        parse([*files, "--k", "1"])
