"""Every kind of bad file, name and number: a clear error before sampling, or a counted warning."""

import logging

import pytest
import torch
from mixlora.mixlora_core import errors
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
