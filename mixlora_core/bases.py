"""Base models that can be recognised without being loaded, and the names that their LoRAs use.

The names come from ComfyUI's own key maps, run on the model built on torch's meta device: all names, no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import comfy.lora
import comfy.ops
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from .files.families import Anatomy
from .files.metadata import base_hint

# Only the fields that decide which weights exist; the rest of a model's configuration is beside the point here.
_COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
}
_FOUR_LEVELS = {
    **_COMMON,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
}


@dataclass(frozen=True, eq=False)
class Base:
    """A base model: how it is called, how wide its text conditioning is, what it is built of."""

    kind: str
    label: str
    width: int
    """Width of the text embedding that cross-attention reads: what tells the families apart in a LoRA's shapes."""
    unet: Mapping[str, Any]
    text_encoder: tuple[str, str]
    """Module and class of ComfyUI's text encoder."""


BASES = (
    Base(
        "sd1",
        "Stable Diffusion 1.x",
        768,
        {**_FOUR_LEVELS, "context_dim": 768, "num_heads": 8},
        ("comfy.sd1_clip", "SD1ClipModel"),
    ),
    Base(
        "sd1",
        "Stable Diffusion 1.x layout with two levels (this pack's stand-in)",
        768,
        {
            **_COMMON,
            "context_dim": 768,
            "num_heads": 8,
            "channel_mult": [1, 1],
            "num_res_blocks": [1, 1],
            "transformer_depth": [1, 1],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * 4,
        },
        ("comfy.sd1_clip", "SD1ClipModel"),
    ),
    Base(
        "sd2",
        "Stable Diffusion 2.x",
        1024,
        {**_FOUR_LEVELS, "context_dim": 1024, "num_head_channels": 64, "use_linear_in_transformer": True},
        ("comfy.text_encoders.sd2_clip", "SD2ClipModel"),
    ),
    Base(
        "sdxl",
        "Stable Diffusion XL",
        2048,
        {
            **_COMMON,
            "context_dim": 2048,
            "num_head_channels": 64,
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
            "channel_mult": [1, 2, 4],
            "num_res_blocks": [2, 2, 2],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        },
        ("comfy.sdxl_clip", "SDXLClipModel"),
    ),
)

CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")


@lru_cache(maxsize=len(BASES))
def lora_names(base: Base) -> frozenset[str]:
    """Every module name that ComfyUI knows in LoRA files for `base`, for its UNet and its text encoders."""
    skeleton = torch.nn.Module()
    skeleton.diffusion_model = UNetModel(
        **base.unet, device="meta", dtype=torch.float16, operations=comfy.ops.disable_weight_init
    )
    skeleton.model_config = _Config(dict(base.unet))  # type: ignore[assignment]
    module, name = base.text_encoder
    text_encoder = getattr(import_module(module), name)(device="meta", dtype=torch.float16)
    unet = comfy.lora.model_lora_keys_unet(skeleton, {})
    return frozenset({**unet, **comfy.lora.model_lora_keys_clip(text_encoder, {})})


def peft_names(unet_config: Mapping[str, Any]) -> dict[str, str]:
    """Names of a UNet's modules in files of diffusers and PEFT -> their weights.

    ComfyUI's key map has them, too, but for attention layers, whose names it knows as diffusers wrote them in 2023.
    """
    return {
        prefix + theirs.removesuffix(".weight"): f"diffusion_model.{ours}"
        for theirs, ours in comfy.utils.unet_to_diffusers(dict(unet_config)).items()
        if theirs.endswith(".weight")
        for prefix in ("unet.", "base_model.model.")
    }


def guess(modules: Mapping[str, Anatomy], metadata: Mapping[str, str]) -> tuple[Base, str] | None:
    """The base model that a file was most likely trained for, and the evidence; None where nothing tells.

    `modules` maps the file's module names to their anatomy. Shapes go before metadata: they cannot lie. Where several
    bases have the width, the one that knows most of the file's names is taken.
    """
    width, evidence, kind = _width(modules), "", None
    if width is not None:
        evidence = f"cross-attention reads {width} channels"
        candidates = [base for base in BASES if base.width == width]
    else:
        if any(name.startswith("lora_te2_") for name in modules):
            kind, evidence = "sdxl", "it has a second text encoder"
        else:
            kind, evidence = base_hint(metadata) or (None, "")
        candidates = [base for base in BASES if base.kind == kind]
    return (max(candidates, key=lambda base: known(base, modules)), evidence) if candidates else None


def of_config(unet_config: Mapping[str, Any]) -> Base | None:
    """The first base whose text conditioning is as wide as that of a model with this configuration."""
    return next((base for base in BASES if base.width == unet_config.get("context_dim")), None)


def known(base: Base, modules: Iterable[str]) -> int:
    """How many of the module names exist in `base`."""
    names = lora_names(base)
    return sum(name in names for name in modules)


def _width(modules: Mapping[str, Anatomy]) -> int | None:
    found = (anatomy.columns for name, anatomy in modules.items() if CROSS_ATTENTION.search(name))
    return next((columns for columns in found if columns), None)


@dataclass(frozen=True)
class _Config:
    unet_config: dict[str, Any]
