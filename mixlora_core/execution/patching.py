"""Coefficients that hold for a whole run: ComfyUI's own patches on a clone of a MODEL or CLIP.

Unloading, low VRAM, fp8 and every family stay ComfyUI's business; the connected model and its other clones never see
anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..adapter import Patch, PatchKey, Target
from ..bases import peft_names
from ..mixing.energy import WeightOf

Strengths = float | Mapping[PatchKey, float]
"""One strength for all weights of an adapter, or one for each."""


def unet_target(model: Any) -> Target:
    """What a LoRA file is matched against in a MODEL: ComfyUI's key map, and PEFT's names where it lacks them."""
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    for name, key in peft_names(model.model.model_config.unet_config).items():
        names.setdefault(name, key)
    return Target("the connected model", names, _shapes(model.model))


def clip_target(clip: Any) -> Target:
    """What a LoRA file is matched against in a CLIP."""
    module = clip.cond_stage_model
    return Target("the connected CLIP", comfy.lora.model_lora_keys_clip(module, {}), _shapes(module))


def patched(owner: Any, patch_sets: Sequence[tuple[Mapping[PatchKey, Patch], Strengths]]) -> Any:
    """A clone of a MODEL or CLIP with the patches added in order; `owner` itself where there are none.

    With one strength for each set this makes the calls of chained LoraLoaders, hence the same bits.
    """
    if not patch_sets:
        return owner
    clone = owner.clone()
    for patches, strengths in patch_sets:
        if isinstance(strengths, Mapping):
            clone.add_patches(patches, 1.0)
            _set_strengths(_patcher(clone).patches, strengths)
        else:
            clone.add_patches(patches, strengths)
    return clone


def base_weights(owner: Any) -> tuple[WeightOf, torch.device]:
    """Reads the model's own weights, without any patch, also while a patched clone of it is loaded.

    Returns the reader, which gives a fresh fp32 copy (only the patch's part of a fused weight), and its device.
    """
    patcher = _patcher(owner)
    device = patcher.load_device
    entries = patcher.get_key_patches()

    def weight_of(key: PatchKey) -> Tensor:
        stored, convert = entries[key if isinstance(key, str) else key[0]][0]
        weight = comfy.model_management.cast_to_device(stored, device, torch.float32, copy=True)
        weight = convert(weight, inplace=True)  # some quantised layers keep their weight in another form
        return weight if isinstance(key, str) else weight.narrow(*key[1]).clone()

    return weight_of, device


def _set_strengths(patches: Mapping[str, list[tuple]], strengths: Mapping[PatchKey, float]) -> None:
    """Gives the patches that were added last their own strengths.

    `add_patches` takes one strength and walks the whole state dict at every call; one call for each of the 722
    weights that an SDXL LoRA touches takes many seconds.
    """
    for key, strength in strengths.items():
        name, offset = (key, None) if isinstance(key, str) else (key[0], key[1])
        entries = patches[name]
        last = max(index for index, entry in enumerate(entries) if entry[3] == offset)
        entries[last] = (strength, *entries[last][1:])


def _shapes(module: torch.nn.Module):
    names = frozenset(module.state_dict())

    def shape_of(name: str) -> Sequence[int] | None:
        # The attribute, not the state dict's entry: a quantised layer may save packed data of another shape.
        weight: Any = comfy.utils.get_attr(module, name) if name in names else None
        return None if weight is None else tuple(weight.shape)

    return shape_of


def _patcher(owner: Any) -> Any:
    return getattr(owner, "patcher", owner)  # a CLIP holds its ModelPatcher, a MODEL is one
