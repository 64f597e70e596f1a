"""Listening to each adapter of a stack alone, which is what SSR-Merge learns from.

An adapter runs at its strength, reads its own words and paints them in a few steps; meanwhile the layers in which
adapters meet say what they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import execution
from ..adapter import PatchKey
from ..errors import MergeError
from ..mixing.weighted_mix import MixPlan, MixSettings, plan
from ..prompt.names import file_names, words
from ..stack import StackEntry, StyleStack
from .layers import Left, Part, meetings
from .ssr import Statistics

Layers = Mapping[PatchKey, Sequence[Part]]


@dataclass(frozen=True)
class Calibration:
    """How adapters are listened to, one after the other, each alone. Raises MergeError for impossible values."""

    prompts: tuple[str, ...] = ("{}", "a picture, {}")
    """What each reads; {} stands for its trigger words, or its name where its file records none."""
    steps: int = 4
    """Of the short run for every prompt; the UNet is listened to at each of them."""
    size: int = 512
    """Of that run's picture, in pixels a side: as the model paints, a multiple of 64."""
    seed: int = 0
    """Of its noise, which is the same for all adapters and another one for each prompt."""

    def __post_init__(self) -> None:
        if not self.prompts or not all("{}" in prompt for prompt in self.prompts):
            raise MergeError(f"prompts are {list(self.prompts)}; expected some, each with {{}} for the trigger words.")
        if self.steps < 1:
            raise MergeError(f"steps is {self.steps}; expected 1 or more.")
        if self.size < 64 or self.size % 64:
            raise MergeError(f"size is {self.size}; expected a multiple of 64, such as 512.")


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What was heard, and what it was heard with. Good for any number of `merge_ssr` of the same stack and models."""

    plan: MixPlan
    layers: Layers
    left: tuple[Left, ...]
    statistics: Mapping[PatchKey, Statistics]
    prompts: tuple[tuple[str, ...], ...]
    """What each entry of the stack read; empty where it does not speak."""
    how: Calibration


def calibrate(
    model: Any, clip: Any, stack: StyleStack, how: Calibration, spoken: Sequence[str] | None = None
) -> Calibrated:
    """Runs every adapter alone, at its strength, on its own words, and listens to the layers in which adapters meet.

    `spoken`: trigger words for each entry of the stack, "" for those of its file; None for all of theirs.
    Costs one model evaluation for each adapter, prompt and step. The same every time. Raises AdapterError.
    """
    if clip is None:
        raise MergeError("SSR-Merge lets each LoRA read its trigger words: connect CLIP.")
    found = plan(model, clip, stack, MixSettings())
    layers, left = meetings_of(found, stack)
    left += [Left(str(key), why) for key in layers if (why := _deaf(model, clip, found, key))]
    deaf = {one.layer for one in left}
    layers = {key: parts for key, parts in layers.items() if str(key) not in deaf}
    statistics = {key: Statistics([part.rank for part in parts]) for key, parts in layers.items()}
    downs = {key: torch.cat([part.down for part in parts]) for key, parts in layers.items()}
    spoken = spoken or [""] * len(stack.entries)
    read: list[tuple[str, ...]] = []
    unheard: dict[PatchKey, str] = {}
    for index, entry in enumerate(stack.entries):
        own = {key: at for key, parts in layers.items() for at, part in enumerate(parts) if part.adapter == index}
        read.append(prompts_of(entry, how.prompts, spoken[index]) if own else ())
        if own:
            moments = _alone(model, clip, found, index, {str(key): downs[key] for key in own}, read[-1], how)
            unheard.update(dict.fromkeys((key for key in own if str(key) not in moments), entry.lora_name))
            for key, at in own.items():
                if str(key) in moments:
                    statistics[key].add(at, moments[str(key)])
    if layers and len(unheard) == len(layers):
        raise MergeError(
            "Nothing came through the layers of the model while its LoRAs ran, so SSR-Merge cannot learn who is meant "
            "where. Another node replaces the model's forward; connect the model from before that node."
        )
    left += [Left(str(key), f"nothing came through it while {name} ran") for key, name in unheard.items()]
    layers = {key: parts for key, parts in layers.items() if key not in unheard}
    return Calibrated(found, layers, tuple(left), statistics, tuple(read), how)


def meetings_of(found: MixPlan, stack: StyleStack) -> tuple[Layers, list[Left]]:
    """The layers of a plan in which adapters meet, and those of them in which only a plain sum is possible."""
    names = [entry.lora_name for entry in stack.entries]
    layers: dict[PatchKey, Sequence[Part]] = {}
    left: list[Left] = []
    for half in (found.model_half, found.clip_half):
        if half is not None:
            met, other = meetings([adapter.anatomies for adapter in found.adapters], half.applied, names)
            layers.update(met)
            left += other
    return layers, left


def prompts_of(entry: StackEntry, templates: Sequence[str], spoken: str = "") -> tuple[str, ...]:
    """What an adapter reads: the words given, or else its trigger words, or else the words of its file's name."""
    spoken = spoken or ", ".join(entry.words) or " ".join(words(file_names(entry.lora_name)[-1]))
    return tuple(template.replace("{}", spoken) for template in templates)


def _deaf(model: Any, clip: Any, found: MixPlan, key: PatchKey) -> str:
    of_model = any(key in adapter.model_patches for adapter in found.adapters)
    return execution.why_deaf(model.model if of_model else clip.cond_stage_model, key)


def _alone(
    model: Any, clip: Any, found: MixPlan, index: int, downs: Mapping[str, Tensor], prompts: Sequence[str],
    how: Calibration,
) -> dict[str, Tensor]:  # fmt: skip
    """Second moments of the layers while one adapter reads and paints alone."""
    adapter, text = found.adapters[index], found.clip_half
    assert text is not None  # `calibrate` wants a CLIP
    strengths = found.model_half.strengths[index], text.strengths[index]
    sets = zip((adapter.model_patches, adapter.clip_patches), strengths, strict=True)
    own_model, own_clip = (
        execution.patched(owner, [(patches, strength)] if patches and strength else [])
        for owner, (patches, strength) in zip((model, clip), sets, strict=True)
    )
    texts = execution.Ears({name: down for name, down in downs.items() if name in adapter.clip_patches})
    unet = execution.Ears({name: down for name, down in downs.items() if name in adapter.model_patches})
    for number, prompt in enumerate(prompts):
        conditioning = execution.read_listening(own_clip, prompt, texts)
        if unet.downs:
            execution.denoise_listening(own_model, conditioning, unet, how.steps, how.size, how.seed + number)
    moments = {**texts.moments, **unet.moments}
    for name, moment in moments.items():
        if not torch.isfinite(moment).all():
            raise MergeError(
                f"{name}: what came through this layer while {adapter.file.name} ran is not finite. Lower its strength."
            )
    return moments
