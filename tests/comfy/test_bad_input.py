"""Every kind of bad file, name and number: a clear error before sampling, or a counted warning."""

import logging

import pytest
import torch
from mixlora.mixlora_core import errors, execution
from mixlora.mixlora_core.adapter import Target, match
from mixlora.mixlora_core.compose import matched
from mixlora.mixlora_core.files import lora_file
from mixlora.mixlora_core.stack import StyleStack
from mixlora.nodes.style_lora import LoadStyleLoRA

MODULE = "lora_unet_up_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q"


def load(name, **inputs):
    return LoadStyleLoRA.execute(name, 1.0, 1.0, **inputs).result


OUTSIDE = ["../a.safetensors", "sub/../../a.safetensors", "/etc/a.safetensors"]
OUTSIDE += ["C:\\a.safetensors", "..\\a.safetensors", "\\\\host\\share\\a.safetensors"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder(name, loras):
    with pytest.raises(errors.LoraNameError, match="leaves ComfyUI's loras folders"):
        load(name)
    with pytest.raises(errors.LoraNameError, match="leaves ComfyUI's loras folders"):
        load(loras.save("good"), lora_stack=[(name, 1.0, 1.0)])


def test_unknown_name_suggests_a_near_one(loras):
    loras.save("monet_style")
    with pytest.raises(errors.LoraNameError, match=r"Did you mean 'monet_style.safetensors'"):
        load("monet_stile.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "strong", None])
def test_strengths_that_are_no_number(value, loras):
    name = loras.save("good")
    with pytest.raises(errors.StrengthError, match="finite"):
        LoadStyleLoRA.execute(name, value, 1.0)
    with pytest.raises(errors.StrengthError, match="finite"):
        load(name, lora_stack=[(name, 1.0, value)])


@pytest.mark.parametrize(
    "setting", [{"total": float("nan")}, {"limit": float("inf")}, {"limit": -1.0}, {"mode": "max"}]
)
def test_settings_that_make_no_sense(setting, sd15, loras, mixed):
    with pytest.raises(errors.StrengthError):
        mixed(sd15, None, [(loras.save("a"), 1.0, 1.0)], **setting)


def test_nothing_connected(sd15):
    from mixlora.nodes.mix_weights import MixLoRAWeights

    with pytest.raises(errors.AdapterError, match="connect"):
        MixLoRAWeights.execute(sd15, "sum", 1.0, 0.0)


def test_a_file_of_another_kind(loras):
    with pytest.raises(errors.UnreadableFileError, match="holds no LoRA"):
        load(loras.save("vae", {"decoder.conv_in.weight": torch.zeros(4, 4), "quant_conv.bias": torch.zeros(4)}))


def test_missing_partner(loras):
    tensors = {f"{MODULE}.lora_up.weight": torch.ones(320, 4)}
    with pytest.raises(errors.TensorError, match=r"lora_down\.weight is missing"):
        load(loras.save("half", tensors))


def test_factors_that_do_not_multiply(loras):
    tensors = {f"{MODULE}.lora_up.weight": torch.ones(320, 4), f"{MODULE}.lora_down.weight": torch.ones(8, 320)}
    with pytest.raises(errors.TensorError, match=r"attn1_to_q: lora_up 320x4 and lora_down 8x320 do not multiply"):
        load(loras.save("torn", tensors))


def test_alpha_that_is_no_scalar(loras, models):
    tensors = models.lora_tensors("LoRA") | {f"{MODULE}.alpha": torch.ones(3)}
    with pytest.raises(errors.TensorError, match="cannot read its tensors"):
        load(loras.save("alpha", tensors))


def test_sdxl_lora_on_sd15(sd15, loras, mixed):
    name = loras.save("xl", width=2048)
    with pytest.raises(errors.TensorError, match=r"attn2_to_k: its change is 320x2048.*Stable Diffusion XL"):
        mixed(sd15, None, [(name, 1.0, 1.0)])


def test_dora_scale_of_the_wrong_shape(sd15, loras, models, mixed):
    tensors = models.lora_tensors("DoRA", text=False)
    tensors[f"{MODULE}.dora_scale"] = torch.ones(7, 1)
    with pytest.raises(errors.TensorError, match="dora_scale has the shape 7x1"):
        mixed(sd15, None, [(loras.save("dora", tensors), 1.0, 0.0)])


def test_a_file_that_matches_nothing(sd15, loras, mixed):
    tensors = {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(9, 4),
               "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(4, 3)}  # fmt: skip
    with pytest.raises(errors.NoMatchError, match="none of its 2 tensors belongs to the connected model"):
        mixed(sd15, None, [(loras.save("flux", tensors), 1.0, 1.0)])


def test_text_encoder_file_without_clip(sd15, clip, loras, models, mixed):
    tensors = {key: value for key, value in models.lora_tensors("LoRA").items() if key.startswith("lora_te")}
    name = loras.save("text", tensors)
    with pytest.raises(errors.NoMatchError, match="connect CLIP"):
        mixed(sd15, None, [(name, 1.0, 1.0)])
    assert mixed(sd15, clip, [(name, 1.0, 1.0)])[0] is sd15


def test_a_lora_for_the_text_encoder_alone_can_be_composed(sd15, loras, models, compose, methods):
    """In its turn the base model speaks, with the text that it reads; a stack of nothing else is an error."""
    tensors = {key: value for key, value in models.lora_tensors("LoRA").items() if key.startswith("lora_te")}
    own, text = loras.save("own", size=0.1), loras.save("text", tensors)
    made, silent = (
        compose(StyleStack().plus([(own, 1.0, 1.0), row]), methods.Switch(2, 1))
        for row in ((text, 1.0, 1.0), (own, 0.0, 1.0))
    )
    assert models.same_bits(models.sample(made, steps=2), models.sample(silent, steps=2))
    with pytest.raises(errors.NoMatchError, match="No LoRA of the stack has a part for the diffusion model"):
        compose(StyleStack().plus([(text, 1.0, 1.0)]), methods.Switch(1))
    with pytest.raises(errors.NoMatchError, match="Encode Text per LoRA"):
        matched(sd15, StyleStack().plus([(text, 1.0, 1.0)]).entries[0].file)


@pytest.mark.parametrize("node", ["ApplyLoRALayered", "ApplyLoRARegions"])
def test_nodes_with_a_clip_take_a_lora_for_the_text_encoder_alone(node, sd15, clip, loras, models):
    import mixlora.nodes

    tensors = {key: value for key, value in models.lora_tensors("LoRA").items() if key.startswith("lora_te")}
    names = [loras.save("text", tensors), *(loras.save(f"n{seed}", seed=seed, size=0.1) for seed in range(2))]
    stack = StyleStack().plus([(name, 1.0, 1.0) for name in names])
    told = {"things": "1, 2, 3"} if "Layered" in node else {"overlap": "sum", "mask_2": torch.ones(8, 8)}
    execute = getattr(mixlora.nodes, node).execute
    model, text, *_ = execute(sd15, clip=clip, stack=stack, **told).args
    assert torch.isfinite(models.sample(model, steps=1)).all() and text.patcher.patches
    with pytest.raises(errors.NoMatchError, match=r"text\.safetensors: all its tensors are for the text encoder"):
        execute(sd15, stack=stack, **told)


def test_the_input_convolution_may_take_other_channels(sd15, loras, models):
    """As that of an inpainting model, which a LoRA of the plain one fits everywhere else."""
    target, own = execution.unet_target(sd15), "diffusion_model.input_blocks.0.0.weight"
    inpainting = Target(target.label, target.names, lambda key: (320, 9, 3, 3) if key == own else target.shape_of(key))
    convolution = {
        "lora_unet_conv_in.lora_up.weight": torch.ones(320, 4, 1, 1),
        "lora_unet_conv_in.lora_down.weight": torch.ones(4, 4, 3, 3),
    }
    both = loras.save("both", models.lora_tensors("LoRA", text=False) | convolution)
    read = [lora_file.read(loras.folder / name) for name in (both, loras.save("alone", convolution))]
    adapter = match(read[0], inpainting, None)
    assert len(adapter.model_patches) == 2 and own in match(read[0], target, None).model_patches
    assert adapter.left_out == (f"{own} (its change is 320x36, the weight is 320x81 (shape 320x9x3x3))",)
    with pytest.raises(errors.NoMatchError):
        match(read[1], inpainting, None)


def test_a_misfit_is_not_blamed_on_a_base_that_reads_the_same_text(sd15, loras, models, mixed):
    tensors = models.lora_tensors("LoRA", text=False)
    tensors[f"{MODULE}.lora_up.weight"] = torch.ones(640, 4)
    with pytest.raises(errors.TensorError, match=r"attn1_to_q: its change is 640x320.*Use a LoRA made") as raised:
        mixed(sd15, None, [(loras.save("wide", tensors), 1.0, 1.0)])
    assert "looks made for" not in str(raised.value)


def test_a_partly_matching_file_works_and_is_counted(sd15, loras, models, mixed, caplog):
    extra = {
        "lora_unet_nowhere.lora_up.weight": torch.ones(8, 4),
        "lora_unet_nowhere.lora_down.weight": torch.ones(4, 8),
    }
    name = loras.save("part", models.lora_tensors("LoRA", text=False) | extra)
    with caplog.at_level(logging.WARNING):
        model, _, report = mixed(sd15, None, [(name, 1.0, 1.0)])
    assert len(model.patches) == 2
    assert "2 of its 8 tensors have no place" in caplog.text
    assert "keys matched: 6 of 8" in report and "lora_unet_nowhere" in report
