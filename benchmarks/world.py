"""What the sampling benchmark runs: a model of SD v1.5's shapes, LoRAs for it, and ComfyUI's own ways to use them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.ops
import comfy.sample
import comfy.sd
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file

from ..mixlora_core.bases import BASES
from ..mixlora_core.files import lora_file
from ..mixlora_core.stack import StackEntry, StyleStack

RANK = 16


def full_unet(dtype: torch.dtype, levels: int = 4) -> Any:
    """A MODEL with SD v1.5's 860 M parameters, random and of sane size, as ComfyUI itself detects and builds it.

    With 2 `levels` it has the stand-in's layout, for tests.
    """
    layout = UNetModel(
        **BASES[{4: 0, 2: 1}[levels]].unet, device="meta", dtype=dtype, operations=comfy.ops.disable_weight_init
    )
    generator, state = torch.Generator().manual_seed(0), {}
    for name, like in layout.state_dict().items():
        noise = torch.randn(like.shape, generator=generator)
        fan_in = like[0].numel() if like.dim() > 1 else 1
        state[name] = (noise / fan_in**0.5 if like.dim() > 1 else noise * 0.05 + name.endswith("weight")).to(dtype)
    return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})


@contextmanager
def stack_of(model: Any, count: int, dtype: torch.dtype, strength: float = 1.0) -> Iterator[StyleStack]:
    """`count` LoRA files of rank 16 on all attention projections, as kohya's trainer names them."""
    names: dict[str, str] = {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if name.startswith("lora_unet_") and isinstance(key, str) and ("attn1" in key or "attn2" in key):
            names.setdefault(key, name)
    shapes = {key: model.model.get_parameter(key).shape for key in names if key.endswith(".weight")}
    with TemporaryDirectory() as folder:
        entries = []
        for number in range(count):
            generator, tensors = torch.Generator().manual_seed(number), {}
            for key, (out, into) in shapes.items():
                up, down = (torch.randn(shape, generator=generator) * 0.02 for shape in ((out, RANK), (RANK, into)))
                tensors[f"{names[key]}.lora_up.weight"] = up.to(dtype)
                tensors[f"{names[key]}.lora_down.weight"] = down.to(dtype)
                tensors[f"{names[key]}.alpha"] = torch.tensor(float(RANK))
            path = Path(folder) / f"{number}.safetensors"
            save_file(tensors, path)
            entries.append(StackEntry(path.name, lora_file.read(path), strength, 0.0))
        yield StyleStack(tuple(entries))


def chained(model: Any, stack: StyleStack, share: float = 1.0) -> Any:
    """The floor: all LoRAs merged by ComfyUI's own loader."""
    for entry in stack.entries:
        tensors = dict(entry.file.tensors)
        model, _ = comfy.sd.load_lora_for_models(model, None, tensors, entry.strength_model * share, 0.0)
    return model


def hooked_switch(stack: StyleStack, conditioning: Sequence, steps: int, every: int) -> list:
    """ComfyUI's own graph for Switch: one hook a LoRA, with keyframes that turn it on and off."""
    hooks = []
    for index, entry in enumerate(stack.entries):
        hook = comfy.hooks.create_hook_lora(dict(entry.file.tensors), entry.strength_model, 0.0)
        frames = comfy.hooks.HookKeyframeGroup()
        on = [(step // every) % len(stack.entries) == index for step in range(steps)]
        for step, (before, now) in enumerate(itertools.pairwise([not on[0], *on])):
            if before != now:
                frames.add(comfy.hooks.HookKeyframe(strength=float(now), start_percent=step / steps))
        hook.set_keyframes_on_hooks(frames)
        hooks.append(hook)
    return comfy.hooks.set_hooks_for_conditioning(conditioning, comfy.hooks.HookGroup.combine_all_hooks(hooks))


def hooked_composite(stack: StyleStack, *conditionings: Sequence) -> list[list]:
    """ComfyUI's own graph for Composite: every conditioning once for each LoRA, each with its hook."""
    results: list[list] = [[] for _ in conditionings]
    for entry in stack.entries:
        hook = comfy.hooks.create_hook_lora(dict(entry.file.tensors), entry.strength_model, 0.0)
        for result, conditioning in zip(results, conditionings, strict=True):
            result += comfy.hooks.set_hooks_for_conditioning(conditioning, hook)
    return results


def sample(model: Any, positive: Sequence, negative: Sequence, side: int, steps: int, batch: int = 1) -> torch.Tensor:
    """Latents of side x side by ComfyUI's own sampling: Euler, guidance 7."""
    noise = torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(1))
    settings = (steps, 7.0, "euler", "normal", positive, negative, torch.zeros_like(noise))
    return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=1)


def text(seed: int) -> list:
    """A CONDITIONING of random numbers, as wide as SD v1.5's text encoder."""
    return [[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed)), {}]]
