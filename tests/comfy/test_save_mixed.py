"""SaveMixedLoRA: core's LoraLoader with the file makes the weights that MixLoRAWeights makes with the stack."""

import json
import os
from typing import Any

import pytest
import torch
from mixlora.mixlora_core import errors
from mixlora.mixlora_core.description import describe
from mixlora.mixlora_core.files import lora_file
from mixlora.mixlora_core.mixing import saving
from mixlora.mixlora_core.mixing.weighted_mix import MixSettings
from mixlora.mixlora_core.stack import StyleStack
from mixlora.nodes.save_mixed_lora import SaveMixedLoRA
from safetensors.torch import load_file

SETTINGS = [("sum", 1.0, 0.0), ("sum to total", 0.7, 0.0), ("1/sqrt(N)", 1.0, 0.0), ("equal energy", 1.0, 0.0),
            ("sum", 1.0, 0.05)]  # fmt: skip


@pytest.fixture
def saved(loras):
    """SaveMixedLoRA on rows; returns what was written, with the error measured layer by layer inside."""

    def save(model, clip, rows, mixing=("sum", 1.0, 0.0), rank=0, dtype="fp32", prefix="mix"):
        stack, settings = StyleStack().plus(rows), saving.SaveSettings(rank, dtype)
        return saving.save_mix(model, clip, stack, MixSettings(*mixing), settings, prefix)

    return save


def changes(models, owner, base):
    """What is added to each weight, in double precision."""
    state = getattr(base, "patcher", base).model.state_dict()
    return {key: (weight.double() - state[key].double()) for key, weight in models.patched_weights(owner).items()}


def distance(models, sd15, clip, file, mixed, chained, rows, mixing):
    """||by the file - by the stack|| / ||by the stack|| beyond fp32's rounding, for each weight, and over all."""
    ours = mixed(sd15, clip, rows, *mixing)[:2]
    theirs = chained(sd15, clip, [(file.lora_name, 1.0, 1.0)])
    errors_, total = {}, [0.0, 0.0]
    for one, other, base in zip(ours, theirs, (sd15, clip), strict=True):
        wanted, found = changes(models, one, base), changes(models, other, base)
        assert wanted.keys() == found.keys() and wanted
        for key, change in wanted.items():
            off = (change - found[key]).norm().item()
            rounding = 6e-8 * getattr(base, "patcher", base).model.state_dict()[key].norm().item()  # of W + dW in fp32
            off = max(off - rounding, 0.0)
            errors_[key] = off / change.norm().item()
            total = [total[0] + off**2, total[1] + change.norm().item() ** 2]
    return errors_, (total[0] / total[1]) ** 0.5


@pytest.mark.parametrize("mixing", SETTINGS)
def test_an_exact_file_is_the_mix(mixing, models, sd15, clip, loras, saved, mixed, chained):
    rows = [(loras.save("a", size=0.5), 0.8, 0.6), (loras.save("b", "LoCon", seed=1, size=1.5), -0.5, 1.0),
            (loras.save("c", "LoCon mid", seed=2, size=0.5), 0.7, -0.4),
            (loras.save("d", "lora_A/B", seed=3), 0.3, 0.0)]  # fmt: skip
    file = saved(sd15, clip, rows, mixing)
    by_layer, total = distance(models, sd15, clip, file, mixed, chained, rows, mixing)
    assert len(by_layer) == 4 and total <= 1e-6 and max(by_layer.values()) <= 1e-6
    assert file.content.error <= 1e-7
    tensors = load_file(file.path)
    up = tensors[f"{models.SQUARE}.lora_up.weight"]
    assert up.shape == (320, 16) and up.dtype == torch.float32 and tensors[f"{models.SQUARE}.alpha"] == 16
    assert tensors[f"{models.CONV}.lora_down.weight"].shape == (8, 320, 3, 3)
    assert not any(file.objections.values())


def test_the_stated_error_is_the_measured_one(models, sd15, clip, loras, saved, mixed, chained):
    rows = [(loras.save("a", size=0.5), 0.8, 0.6), (loras.save("b", "LoHa", seed=1, size=0.5), -0.5, 1.0),
            (loras.save("c", "LoKr", seed=2, size=0.5), 0.3, 0.4)]  # fmt: skip
    names = {models.LINEAR, models.SQUARE, models.CONV, models.TEXT}
    for rank, dtype in ((6, "fp32"), (10, "fp16")):
        file = saved(sd15, clip, rows, rank=rank, dtype=dtype)
        by_layer, total = distance(models, sd15, clip, file, mixed, chained, rows, ("sum",))
        stated = [layer.error / layer.norm for layer in file.content.layers]
        assert {layer.name for layer in file.content.layers} == names
        assert sorted(by_layer.values()) == pytest.approx(sorted(stated), rel=1e-3)
        assert total == pytest.approx(file.content.error, rel=1e-3) and 0.01 < total < 0.9
        assert {layer.rank for layer in file.content.layers} == {rank}
    assert load_file(file.path)[f"{models.CONV}.lora_up.weight"].dtype == torch.float16


@pytest.mark.parametrize("family", ["LoHa", "LoHa Tucker", "LoKr", "LoKr factored", "DoRA", "GLoRA", "OFT", "BOFT",
                                    "full diff", "set weight"])  # fmt: skip
def test_every_other_family_at_full_rank_is_the_mix_too(family, models, sd15, clip, loras, saved, mixed, chained):
    """Rank 320 is all that these layers have: what is left is rounding, also where W itself takes part."""
    rows = [(loras.save("x", family, size=0.5), 0.8, 0.6), (loras.save("b", seed=1, size=0.5), 0.4, 0.3)]
    with pytest.raises(errors.AdapterError, match=r"An exact file is impossible: x\.safetensors has .* in \d layers"):
        saved(sd15, clip, rows)
    file = saved(sd15, clip, rows, rank=320)
    _, total = distance(models, sd15, clip, file, mixed, chained, rows, ("sum",))
    assert total <= 1e-5 and file.content.error <= 1e-5


def test_biases_and_norms_go_along_and_are_told(models, sd15, clip, loras, saved, mixed, chained):
    rows = [(loras.save("x", "norm and bias"), 0.8, 0.6), (loras.save("b", "LoCon", seed=1), 0.4, 0.3)]
    file = saved(sd15, clip, rows)
    by_layer, _ = distance(models, sd15, clip, file, mixed, chained, rows, ("sum",))
    assert max(by_layer.values()) <= 1e-5 and any(key.endswith("bias") for key in by_layer)
    assert "diffusers" in [program for program, why in file.objections.items() if why]
    assert {key.rsplit(".", 1)[1] for key in load_file(file.path)} == {"weight", "alpha", "diff", "diff_b"}


def test_sdxl_gets_sdxls_names(models, sdxl, loras, saved, mixed, chained):
    """Half-precision SDXL: ComfyUI rounds the patched weights, so the changes are compared as the file holds them."""
    tensors = models.lora_tensors("LoRA", text=False, width=2048)
    tensors = {key.replace("down_blocks_0", "down_blocks_1").replace("up_blocks_0", "up_blocks_1"): value
               for key, value in tensors.items()}  # fmt: skip
    rows = [(loras.save("a", tensors), 0.5, 1.0), (loras.save("b", tensors), 0.25, 1.0)]
    file = saved(sdxl, None, rows)
    for module in {key.split(".")[0] for key in tensors}:
        found = load_file(file.path)
        change = found[f"{module}.lora_up.weight"] @ found[f"{module}.lora_down.weight"]
        once = tensors[f"{module}.lora_up.weight"] @ tensors[f"{module}.lora_down.weight"]
        torch.testing.assert_close(change, once * (0.75 * 2 / 4), rtol=1e-4, atol=1e-6)
    about = describe(file.path).metadata
    assert about["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_the_node_says_what_it_did(models, sd15, clip, loras):
    phrase = {"modelspec.trigger_phrase": "in old oils"}
    rows = [(loras.save("styles/a", metadata=phrase), 0.8, 0.6), (loras.save("b", seed=1), -0.5, 1.0)]
    out: Any = SaveMixedLoRA.execute(sd15, "sum", 1.0, 0.0, 4, "fp16", "mixes/two", clip=clip, lora_stack=rows)
    name, report = out.result
    assert name == os.path.join("mixes", "two_00001_.safetensors")
    assert out.ui.as_dict()["text"] == (report,)
    for part in ("3 of rank 4", "read by: ComfyUI, A1111, Forge, diffusers", "styles/a.safetensors: LoRA", "% in all",
                 "use it at strength 1"):  # fmt: skip
        assert part in report
    found = describe(loras.folder / name)
    assert found.trigger_words == ("in old oils",) and all(found.hashes.values()) and len(found.hashes) == 3
    recipe = json.loads(found.metadata["mixlora.recipe"])
    assert [(entry["name"], entry["strength_model"], entry["strength_clip"]) for entry in recipe["loras"]] == rows
    assert recipe["loras"][0]["sha256"] == describe(loras.folder / rows[0][0]).tensor_sha256
    assert found.metadata["ss_base_model_version"] == "sd_1.5" and found.metadata["ss_network_dim"] == "4"
    out = SaveMixedLoRA.execute(sd15, "sum", 1.0, 0.0, 0, "fp16", "mixes/two", lora_stack=rows)
    without = out.result
    assert without[0].endswith("two_00002_.safetensors") and "no CLIP is connected" in without[1]
    assert not any(key.startswith("lora_te") for key in load_file(loras.folder / without[0]))


def test_nothing_is_overwritten_and_nothing_is_left(sd15, loras, saved, monkeypatch):
    rows = [(loras.save("a", text=False), 1.0, 1.0)]
    (loras.folder / "mix_00007_.safetensors").write_bytes(b"mine")
    (loras.folder / "mix_00008_x").mkdir()
    assert saved(sd15, None, rows).path.name == "mix_00009_.safetensors"
    assert (loras.folder / "mix_00007_.safetensors").read_bytes() == b"mine"

    def full(*_):
        raise OSError(28, "No space left on device")

    before = sorted(loras.folder.iterdir())
    monkeypatch.setattr(saving, "write_atomically", full)
    with pytest.raises(errors.AdapterError, match="No space left"):
        saved(sd15, None, rows)
    assert sorted(loras.folder.iterdir()) == before


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "a/../../x", "C:\\x", "", "  ", "styles/"])
def test_names_that_are_no_good(prefix, sd15, loras, saved):
    rows = [(loras.save("a", text=False), 1.0, 1.0)]
    with pytest.raises(errors.LoraNameError):
        saved(sd15, None, rows, prefix=prefix)
    assert [path.name for path in loras.folder.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_saved(models, sd15, loras, saved):
    name = loras.save("a", text=False)
    with pytest.raises(errors.AdapterError, match="nothing to save"):
        saved(sd15, None, [(name, 0.0, 1.0)])
    with pytest.raises(errors.AdapterError, match="connect its stack"):
        SaveMixedLoRA.execute(sd15, "sum", 1.0, 0.0, 0, "fp16", "mix")
    with pytest.raises(errors.StrengthError, match="rank"):
        saving.SaveSettings(-1)
    with pytest.raises(errors.TensorError, match="Save as fp32"):
        saved(sd15, None, [(name, 1e13, 1.0)], dtype="fp16")
    assert [path.name for path in loras.folder.iterdir()] == ["a.safetensors"]


def test_a_mix_can_be_mixed_again(models, sd15, clip, loras, saved, mixed):
    rows = [(loras.save("a", size=0.5), 0.8, 0.6), (loras.save("b", seed=1, size=0.5), 0.4, 0.3)]
    file = saved(sd15, clip, rows)
    both = [(file.lora_name, 1.0, 1.0), (rows[0][0], -0.8, -0.6)]
    found = changes(models, mixed(sd15, clip, both)[0], sd15)
    wanted = changes(models, mixed(sd15, clip, rows[1:])[0], sd15)
    assert all((found[key] - wanted[key]).norm() <= 1e-5 * wanted[key].norm() for key in wanted)
    assert lora_file.read(file.path).metadata["modelspec.merged_from"] == "a.safetensors, b.safetensors"
