"""describe.py: what it says about a file is what ComfyUI and diffusers do with it."""

import json

import pytest
import torch
from mixlora.mixlora_core import bases, execution
from mixlora.mixlora_core.adapter import match
from mixlora.mixlora_core.description import COMFYUI, describe
from mixlora.mixlora_core.errors import AdapterError
from mixlora.mixlora_core.files import lora_file
from mixlora.mixlora_core.files.hashes import with_hashes
from mixlora.mixlora_core.files.layouts import A1111, DIFFUSERS
from mixlora.mixlora_core.mixing.energy import LayerEnergies
from mixlora.training.describe_cli import as_text, main
from safetensors.torch import save_file

# Layout -> its file name of a module (from its name in diffusers and in ComfyUI), and what the factors are called.
LAYOUTS = {
    "kohya": (lambda theirs, ours: "lora_unet_" + theirs.replace(".", "_"), "lora_up.weight lora_down.weight"),
    "kohya, A/B": (lambda theirs, ours: "lora_unet_" + theirs.replace(".", "_"), "lora_B.weight lora_A.weight"),
    "kohya, LDM": (lambda theirs, ours: "lora_unet_" + ours.replace(".", "_"), "lora_up.weight lora_down.weight"),
    "ComfyUI": (lambda theirs, ours: "diffusion_model." + ours, "lora_up.weight lora_down.weight"),
    "PEFT": (lambda theirs, ours: "unet." + theirs, "lora_B.weight lora_A.weight"),
    "diffusers": (lambda theirs, ours: "unet." + theirs, "lora.up.weight lora.down.weight"),
    "diffusers 2023": (
        lambda theirs, ours: "unet." + theirs.replace(".to_", ".processor.to_").removesuffix(".0") + "_lora",
        "up.weight down.weight",
    ),
    "bare PEFT": (lambda theirs, ours: "base_model.model." + theirs, "lora_B.weight lora_A.weight"),
    "lycoris": (lambda theirs, ours: "lycoris_" + theirs.replace(".", "_"), "lora_up.weight lora_down.weight"),
}


@pytest.fixture(scope="module")
def narrow():
    """Diffusers' UNet of SD v1.5's layout and text width, but narrow; and its attention layers by both names."""
    try:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"diffusers cannot be imported: {error}")
    import comfy.utils

    unet = UNet2DConditionModel(
        block_out_channels=(32, 32, 32, 32), cross_attention_dim=768, attention_head_dim=8, sample_size=8
    )
    names = comfy.utils.unet_to_diffusers(dict(bases.BASES[0].unet))
    pairs = {their.removesuffix(".weight"): our.removesuffix(".weight") for their, our in names.items()}
    return unet, {
        their: our for their, our in pairs.items() if ".attn" in their and ".to_" in their and "bias" not in their
    }


def file_of(narrow, layout, extra=(), rank=3):
    """Two ranks in one file: `rank` for the extra modules, 2 for the attention."""
    unet, names = narrow
    name_of, tails = LAYOUTS[layout]
    tensors = {}
    for theirs, ours in [*names.items(), *extra]:
        weight = unet.get_submodule(theirs).weight
        up, down = (f"{name_of(theirs, ours)}.{tail}" for tail in tails.split())
        r = 2 if theirs in names else rank
        tensors[up] = torch.randn(weight.shape[0], r, *[1] * (weight.dim() - 2))
        tensors[down] = torch.randn(r, *weight.shape[1:])
    return tensors


def read_by_diffusers(unet, tensors):
    """How many modules get the adapter; 0 where diffusers refuses the file."""
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Loader

    try:
        state, alphas = Loader.lora_state_dict(dict(tensors))[:2]
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name="x")
        return sum(hasattr(module, "get_delta_weight") for module in unet.modules())
    except Exception:  # whatever it stumbles over
        return 0
    finally:
        if hasattr(unet, "peft_config"):
            unet.unload_lora()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_who_reads_a_layout_is_what_the_programs_do(narrow, layout, tmp_path):
    pytest.importorskip("peft", exc_type=ImportError)
    tensors = file_of(narrow, layout)
    save_file(tensors, tmp_path / "x.safetensors")
    found = describe(tmp_path / "x.safetensors")
    assert len(found.summary.modules) == 128 and found.summary.base is bases.BASES[0]
    assert (read_by_diffusers(narrow[0], tensors) == 128) == (not found.objections[DIFFUSERS])
    assert (
        (found.matched == 128) == (not found.objections[COMFYUI]) == (layout not in ("PEFT", "diffusers", "bare PEFT"))
    )
    assert (not found.objections[A1111]) == layout.startswith("kohya")


def test_diffusers_reads_feed_forward_and_convolutions_but_no_stray_tensor(narrow, tmp_path):
    pytest.importorskip("peft", exc_type=ImportError)
    extra = [("mid_block.resnets.0.conv1", ""), ("down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", ""),
             ("up_blocks.1.attentions.0.proj_in", ""), ("down_blocks.1.downsamplers.0.conv", "")]  # fmt: skip
    tensors = file_of(narrow, "kohya", extra)
    for stray, modules in (({}, 132), ({"lora_unet_step": torch.ones(1)}, 0)):
        save_file(tensors | stray, tmp_path / f"{modules}.safetensors")
        found = describe(tmp_path / f"{modules}.safetensors")
        assert read_by_diffusers(narrow[0], tensors | stray) == modules
        assert (not found.objections[DIFFUSERS]) == (modules == 132)
        assert found.targets == {"self-attention": 64, "cross-attention": 64, "convolutions": 2, "feed-forward": 1,
                                 "transformer projections": 1}  # fmt: skip
    assert found.summary.unread == ("lora_unet_step",) and found.matched == 132


@pytest.mark.parametrize("family", ["LoRA", "LoCon mid", "LoHa", "LoHa Tucker", "LoKr", "full diff", "DoRA", "OFT"])
def test_families_and_their_norms(family, models, sd15, loras):
    path = loras.folder / loras.save("x", family, text=False)
    found = describe(path)
    assert {a.family for a in found.summary.modules.values()} <= {family.split()[0], "LoCon", "LoRA", "full diff"}
    assert (not found.objections[DIFFUSERS]) == (family == "LoRA")
    adapter = match(lora_file.read(path), execution.unet_target(sd15), None)
    real = LayerEnergies([adapter.model_patches], *execution.base_weights(sd15)).norms.norm().item()
    if family in ("DoRA", "OFT"):
        assert not found.changes and len(found.unmeasured) == 2
    else:
        assert found.change == pytest.approx(real, rel=1e-5) and not found.unmeasured


def test_what_is_wrong_is_said(models, loras, capsys):
    tensors = models.lora_tensors("LoRA")
    about = with_hashes(tensors, {"ss_steps": "7", "modelspec.trigger_phrase": "in old oils"})
    good = loras.folder / loras.save("good", tensors, about)
    assert describe(good).hashes == {"sshs_model_hash": True, "sshs_legacy_hash": True, "modelspec.hash_sha256": True}

    up = f"{models.SQUARE}.lora_up.weight"
    tensors |= {up: tensors[up] * 0, f"{models.TEXT}.lora_down.weight": torch.full((4, 64), torch.nan),
                "lora_unet_nowhere.lora_up.weight": torch.ones(4, 2), "step": torch.ones(1),
                "lora_unet_nowhere.lora_down.weight": torch.ones(2, 4)}  # fmt: skip
    bad = describe(loras.folder / loras.save("bad", tensors, about))
    assert bad.hashes["sshs_model_hash"] is False and bad.hashes["modelspec.hash_sha256"] is False
    assert bad.zero == (up,) and bad.not_finite == {f"{models.TEXT}.lora_down.weight": 256}
    assert bad.summary.unread == ("step",) and bad.matched == 3
    text = as_text(bad)
    for part in ("WRONG", "1 tensors are zero", "NaN", "step", "lora_unet_nowhere", "in part (3 of 4 modules)",
                 "in old oils", "steps           7", "text encoder 1"):  # fmt: skip
        assert part in text
    assert max(len(line) for line in text.splitlines()[1:]) <= 80  # the first is the path


def test_the_command_line_goes_on_after_a_bad_file(loras, capsys):
    good = str(loras.folder / loras.save("good", metadata={"ss_seed": "3"}))
    bad = loras.folder / "bad.safetensors"
    bad.write_bytes(b"<html>")
    checkpoint = str(loras.folder / loras.save("vae", {"decoder.conv_in.weight": torch.zeros(4, 4)}))
    files = [str(bad), good, str(loras.folder / "no.safetensors"), checkpoint, str(loras.folder)]
    assert main(files) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(good) and printed.err.count("error: ") == 4
    assert "a web page" in printed.err and "holds no LoRA" in printed.err

    assert main(["--json", *files]) == 2
    results = json.loads(capsys.readouterr().out)
    assert ["error" in result for result in results] == [True, False, True, True, True]
    assert results[1]["metadata"] == {"ss_seed": "3"} and results[1]["ranks"] == [4]
    assert results[1]["read_by"] == {"ComfyUI": True, "A1111, Forge": True, "diffusers": True}
    assert main([good]) == 0


def test_sdxl_is_recognised_by_both_text_encoders(models, loras):
    tensors = {key.replace("lora_te_", "lora_te2_"): value for key, value in models.lora_tensors("LoRA").items()}
    tensors = {key: value for key, value in tensors.items() if key.startswith("lora_te2_")}
    found = describe(loras.folder / loras.save("xl", tensors))
    assert found.summary.base is not None and found.summary.base.kind == "sdxl" and found.matched == 1


def test_a_torn_file_is_an_error(models, loras):
    tensors = models.lora_tensors("LoRA")
    del tensors[f"{models.SQUARE}.lora_down.weight"]
    with pytest.raises(AdapterError, match="is missing"):
        describe(loras.folder / loras.save("torn", tensors))
