"""Tiny models of true layout with random weights, and LoRA files of every family that fit them."""

from __future__ import annotations

import types
from collections.abc import Iterable

import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

SD15_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "num_heads": 8, "context_dim": 768, "channel_mult": (1, 1), "num_res_blocks": [1, 1], "transformer_depth": [1, 1],
    "transformer_depth_middle": 1, "transformer_depth_output": [1] * 4,
}  # fmt: skip
# What ComfyUI's detection asks of an SDXL (the layout of Segmind Vega), with all levels 320 channels wide.
SDXL_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "num_head_channels": 64, "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 2816,
    "context_dim": 2048, "channel_mult": (1, 1, 1), "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
}  # fmt: skip

FAMILIES = ("LoRA", "LoCon", "LoCon mid", "LoHa", "LoHa Tucker", "LoKr", "LoKr factored", "DoRA", "GLoRA", "OFT",
            "BOFT", "full diff", "set weight", "norm and bias", "lora_A/B")  # fmt: skip

LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"  # 320 x width of the text
SQUARE = "lora_unet_up_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q"  # 320 x 320
CONV = "lora_unet_mid_block_resnets_0_conv1"  # 320 x 320 x 3 x 3
NORM = "lora_unet_mid_block_attentions_0_norm"  # 320
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"  # 64 x 64 in the tiny CLIP


def unet(config: dict, dtype: torch.dtype = torch.float32, seed: int = 0):
    """A MODEL (ModelPatcher) that ComfyUI itself detects and builds from a random state dict of this layout."""
    shapes = UNetModel(**config, device="meta", dtype=dtype, operations=comfy.ops.disable_weight_init).state_dict()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in shapes.items():
        fan_in = like[0].numel() if like.dim() > 1 else 1
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float32)
        state[name] = (noise / fan_in**0.5 if like.dim() > 1 else noise * 0.05 + name.endswith("weight")).to(dtype)
    return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})


class TinyClip(comfy.sd1_clip.SD1ClipModel):
    """ComfyUI's SD1 text encoder with two narrow layers."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        config = {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "hidden_act": "quick_gelu", "max_position_embeddings": 77, "layer_norm_eps": 1e-5, "projection_dim": 64,
            "vocab_size": 49408, "eos_token_id": 49407, "num_channels": 3,
        }  # fmt: skip
        options = {**(model_options or {}), "clip_l_model_config": config}
        super().__init__(device=device, dtype=dtype, model_options=options)


def clip():
    """A CLIP of ComfyUI around the tiny text encoder."""
    target = types.SimpleNamespace(params={}, clip=TinyClip, tokenizer=comfy.sd1_clip.SD1Tokenizer)
    made = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    torch.manual_seed(1)
    for parameter in made.cond_stage_model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.05
    return made


def lora_tensors(family: str, *, seed: int = 0, size: float = 0.02, text: bool = True, width: int = 768) -> dict:
    """Tensors of a file of one family. `width`: of the text embedding that the UNet's cross-attention reads."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * size**0.5

    low_rank = {"lora_up.weight": lambda o, i: rand(o, 4), "lora_down.weight": lambda o, i: rand(4, i)}
    alpha = torch.tensor(2.0)

    def build(module: str, out: int, into: int, makers: dict) -> dict:
        return {f"{module}.{name}": make(out, into) for name, make in makers.items()}

    def linear(module: str, out: int, into: int) -> dict:
        made: dict[str, torch.Tensor] = {f"{module}.alpha": alpha}
        if family in ("LoHa", "LoHa Tucker"):
            made |= {f"{module}.hada_w{n}_a": rand(out, 4) for n in (1, 2)}
            made |= {f"{module}.hada_w{n}_b": rand(4, into) for n in (1, 2)}
        elif family == "LoKr":
            made |= {f"{module}.lokr_w1": rand(4, 4), f"{module}.lokr_w2": rand(out // 4, into // 4)}
        elif family == "LoKr factored":
            made |= {f"{module}.lokr_w1": rand(4, 4)}
            made |= {f"{module}.lokr_w2_a": rand(out // 4, 4), f"{module}.lokr_w2_b": rand(4, into // 4)}
        elif family == "GLoRA":
            made |= {f"{module}.a1.weight": rand(into, 4), f"{module}.a2.weight": rand(4, into)}
            made |= {f"{module}.b1.weight": rand(out, 4), f"{module}.b2.weight": rand(4, into)}
        elif family == "OFT":
            made |= {f"{module}.oft_blocks": rand(out // 8, 8, 8)}
        elif family == "BOFT":
            made |= {f"{module}.oft_blocks": rand(2, out // 8, 8, 8)}
        elif family == "full diff":
            made = {f"{module}.diff": rand(out, into) * size}
        elif family == "set weight":
            made = {f"{module}.set_weight": rand(out, into)}
        elif family == "lora_A/B":
            made = {f"{module}.lora_A.weight": rand(4, into), f"{module}.lora_B.weight": rand(out, 4)}
        else:
            made |= build(module, out, into, low_rank)
            if family == "DoRA":
                made[f"{module}.dora_scale"] = rand(out, 1).abs() + 0.5
        return made

    made = linear(LINEAR, 320, width) | linear(SQUARE, 320, 320)
    if text:
        made |= linear(TEXT, 64, 64)
    if family == "LoCon":
        made |= {f"{CONV}.lora_up.weight": rand(320, 4, 1, 1), f"{CONV}.lora_down.weight": rand(4, 320, 3, 3)}
    elif family == "LoCon mid":
        made |= {f"{CONV}.lora_up.weight": rand(320, 4, 1, 1), f"{CONV}.lora_down.weight": rand(4, 320, 1, 1)}
        made |= {f"{CONV}.lora_mid.weight": rand(4, 4, 3, 3)}
    elif family == "LoHa Tucker":
        made |= {f"{CONV}.hada_t{n}": rand(4, 4, 3, 3) for n in (1, 2)}
        made |= {f"{CONV}.hada_w{n}_{part}": rand(4, 320) for n in (1, 2) for part in "ab"}
    elif family == "LoKr":
        made |= {f"{CONV}.lokr_w1": rand(4, 4), f"{CONV}.lokr_w2": rand(80, 80, 3, 3)}
    elif family == "norm and bias":
        made |= {f"{NORM}.w_norm": rand(320), f"{NORM}.b_norm": rand(320), f"{CONV}.diff_b": rand(320)}
    return made


def patched_weights(owner, keys: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Copies of the weights as ComfyUI would run them: patched in, copied, taken out again."""
    comfy.model_management.unload_all_models()  # a model that ComfyUI holds loaded is not patched anew
    patcher = getattr(owner, "patcher", owner)
    patcher.patch_model(device_to=patcher.load_device)
    state = patcher.model.state_dict()
    copies = {key: state[key].clone() for key in (keys if keys is not None else patcher.patches)}
    patcher.unpatch_model(device_to=patcher.offload_device)
    return copies


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same bytes; also tells -0.0 from 0.0."""
    return a.shape == b.shape and a.dtype == b.dtype and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


def sample(model, positive=None, negative=None, *, steps=4, cfg=2.0, sampler="euler", scheduler="normal", batch=1,
           side=8, latent=None, **options):  # fmt: skip
    """A latent from ComfyUI's own sampling; conditionings default to two different random texts.

    It starts from random noise, or goes on from a `latent`.
    """
    noise = torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(5))
    if latent is not None:
        noise, options["disable_noise"] = torch.zeros_like(latent), True
    latent = torch.zeros_like(noise) if latent is None else latent
    positive, negative = positive or text(6), negative or text(7)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, disable_pbar=True, seed=5, **options
    )


def text(seed: int, width: int = 768, **fields) -> list:
    """A CONDITIONING of random numbers."""
    return [[torch.randn(1, 77, width, generator=torch.Generator().manual_seed(seed)), fields]]


def watched(model, look):
    """A clone whose UNet is replaced: `look(sigma)` is called where it would run, and predicts half the input."""
    clone = model.clone()

    def instead(apply_model, args):
        look(args["timestep"][0].item())
        return args["input"] * 0.5

    clone.set_model_unet_function_wrapper(instead)
    return clone
