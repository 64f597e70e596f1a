"""A stack merged with regard to interference: SSR-Merge, NP-LoRA and the conflict report, for a MODEL and a CLIP.

Both merges come out as the stack's own adapters with other factors, so they can do all that a mix can: patch a model
(`Merged.model`) and become one ordinary LoRA file of rank sum r_k (`save_merge`). Layers in which a file is no low-rank
pair stay a plain sum, and are listed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from comfy.weight_adapter import LoRAAdapter

from .. import execution
from ..adapter import Adapter, PatchKey
from ..files.families import examine
from ..low_rank import Factors
from ..mixing.saving import SavedMix, SaveSettings, save_plan
from ..mixing.weighted_mix import HalfResult, MixPlan, MixSettings, apply, plan
from ..stack import StyleStack
from . import conflicts, ssr
from .calibration import Calibrated, Layers, meetings_of
from .layers import Left
from .null_space import NullSpaceSettings, kept_apart
from .ssr import SSRSettings


@dataclass(frozen=True, eq=False)
class Merged:
    """A merge, ready to use and to save."""

    model: Any
    clip: Any
    """None where none came in."""
    plan: MixPlan
    how: Mapping[str, Any]
    """The method ("mode") and its settings, as they go into a saved file."""
    merged: int
    """In how many layers adapters meet and were merged."""
    left: tuple[Left, ...]
    """Where they meet and are summed as they are."""
    misses: Mapping[PatchKey, tuple[float, float, float]] = field(default_factory=dict)
    """SSR-Merge only, by layer: how far a plain sum, the mean of the K adapters there and this merge are from each
    adapter alone, on what was heard."""


def merge_ssr(model: Any, clip: Any, calibrated: Calibrated, settings: SSRSettings) -> Merged:
    """SSR-Merge (arXiv 2606.10617) of what was calibrated with these MODEL and CLIP."""
    changed: dict[PatchKey, list[Factors]] = {}
    misses = {}
    for key, parts in calibrated.layers.items():
        factors, heard = [part.factors() for part in parts], calibrated.statistics[key]
        matrix = ssr.router(heard, settings)
        ups = ssr.routed([up for up, _ in factors], matrix)
        changed[key] = [(up, down) for up, (_, down) in zip(ups, factors, strict=True)]
        added, mean, routed = (ssr.misses(factors, heard, route) for route in (1.0, 1 / len(parts), matrix))
        misses[key] = (added, mean, routed)
    how = {"mode": "SSR-Merge", **asdict(settings), **asdict(calibrated.how)}
    return _merged(model, clip, calibrated.plan, calibrated.layers, changed, calibrated.left, how, misses)


def merge_null_space(model: Any, clip: Any, stack: StyleStack, settings: NullSpaceSettings) -> Merged:
    """NP-LoRA (arXiv 2511.11051) of a stack, in an order of priority; CLIP may be None. Raises AdapterError."""
    place = settings.ranks(len(stack.entries))
    found = plan(model, clip, stack, MixSettings())
    layers, left = meetings_of(found, stack)
    changed: dict[PatchKey, list[Factors]] = {}
    for key, parts in layers.items():
        order = sorted(range(len(parts)), key=lambda at: place[parts[at].adapter])
        kept = kept_apart([parts[at].factors() for at in order], settings.mu)
        changed[key] = [kept[order.index(at)] for at in range(len(parts))]
    mu = settings.mu if math.isfinite(settings.mu) else "infinite"  # JSON has no infinity
    how = {"mode": "NP-LoRA", "mu": mu, "order": list(settings.order) or list(range(len(place)))}
    return _merged(model, clip, found, layers, changed, tuple(left), how, {})


def find_conflicts(model: Any, clip: Any, stack: StyleStack) -> tuple[list[conflicts.Conflict], list[Left]]:
    """Every pair of the stack's adapters in every layer where they meet, the worst first; and layers left out.

    For `conflicts.describe`, or a picture. CLIP may be None.
    """
    layers, left = meetings_of(plan(model, clip, stack, MixSettings()), stack)
    return conflicts.conflicts(layers), left


def save_merge(
    model: Any, clip: Any, stack: StyleStack, merged: Merged, settings: SaveSettings, prefix: str
) -> SavedMix:
    """Writes a merge as one LoRA file, as `saving.save_mix` does a mix; rank 0 is exact. Raises AdapterError."""
    return save_plan(model, clip, stack, merged.plan, merged.how, settings, prefix)


def describe_merge(stack: StyleStack, merged: Merged, calibrated: Calibrated | None = None) -> str:
    """The report: the method, what was merged, what was read, and what stayed a plain sum."""
    settings = ", ".join(f"{name} {value}" for name, value in merged.how.items() if name not in ("mode", "prompts"))
    lines = [f"{merged.how['mode']} of {len(stack.entries)} LoRAs ({settings})"]
    lines.append(f"- merged: {merged.merged} layers in which LoRAs meet; elsewhere each is as it was")
    if merged.misses:
        added, mean, routed = (median(numbers) for numbers in zip(*merged.misses.values(), strict=True))
        lines.append(
            f"- distance to each LoRA alone, on what it was run with (median of layers): {added:.0%} as a plain sum, "
            f"{mean:.0%} as their mean, {routed:.0%} merged"
        )
    for entry, prompts in zip(stack.entries, calibrated.prompts if calibrated else (), strict=False):
        why = "" if entry.words else " (its file records no trigger words)"
        lines.append(f"- {entry.lora_name} read: {'; '.join(prompts) or 'nothing, it meets no other'}{why}")
    if merged.left:
        lines.append(f"- plain sum in {len(merged.left)} layers:")
        lines += [f"  - {one.layer}: {one.reason}" for one in merged.left]
    return "\n".join(lines)


def _merged(
    model: Any, clip: Any, found: MixPlan, layers: Layers, changed: Mapping[PatchKey, Sequence[Factors]],
    left: tuple[Left, ...], how: Mapping[str, Any], misses: Mapping[PatchKey, tuple[float, float, float]],
) -> Merged:  # fmt: skip
    """The plan with other factors where adapters meet; strengths are in the factors, so the coefficient is 1."""
    adapters = list(found.adapters)
    targets = [execution.unet_target(model)] + ([execution.clip_target(clip)] if clip is not None else [])
    for key, parts in layers.items():
        shape = next(shape for target in targets if (shape := target.shape_at(key)) is not None)
        for part, factors in zip(parts, changed[key], strict=True):
            adapters[part.adapter] = _with(adapters[part.adapter], found.adapters[part.adapter], key, factors, shape)
    halves = [half and _at_one(half, layers) for half in (found.model_half, found.clip_half)]
    assert halves[0] is not None  # a model is always there
    again = MixPlan(tuple(adapters), halves[0], halves[1])
    result = apply(model, clip, again)
    return Merged(result.model, result.clip, again, how, len(layers), left, misses)


def _with(adapter: Adapter, original: Adapter, key: PatchKey, factors: Factors, shape: Sequence[int]) -> Adapter:
    """The adapter with other factors for one weight; the original itself is never written to."""
    if adapter is original:
        adapter = replace(
            original,
            model_patches=dict(original.model_patches),
            clip_patches=dict(original.clip_patches),
            anatomies=dict(original.anatomies),
        )
    up, down = (factor.float() for factor in factors)
    up = up.reshape(*up.shape, *[1] * (len(shape) - 2)).contiguous()
    patch = LoRAAdapter(set(), (up, down.reshape(-1, *shape[1:]).contiguous(), None, None, None, None))
    half: Any = adapter.model_patches if key in original.model_patches else adapter.clip_patches
    anatomies: Any = adapter.anatomies
    half[key], anatomies[key] = patch, examine(patch)
    return adapter


def _at_one(half: HalfResult, layers: Layers) -> HalfResult:
    applied = tuple({key: 1.0 if key in layers else value for key, value in one.items()} for one in half.applied)
    return replace(half, applied=applied)
