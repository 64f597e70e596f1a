"""The weighted mix: a stack and a mode -> coefficients for every layer -> a patched MODEL and CLIP, and an account."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import execution
from ..adapter import Adapter, Patch, PatchKey, match
from ..errors import StrengthError
from ..stack import StyleStack
from . import modes
from .energy import LayerEnergies

ROUNDS = 8
"""How often the limit looks again. One round is exact for all families that are proportional to their strength."""


@dataclass(frozen=True)
class MixSettings:
    """How strengths become coefficients. Raises StrengthError for what is no mode or no finite number."""

    mode: str = modes.SUM
    total: float = 1.0
    """For "sum to total": what the absolute strengths add up to."""
    limit: float = 0.0
    """Largest allowed ||change|| / ||W|| in a layer; 0 is no limit."""

    def __post_init__(self) -> None:
        if self.mode not in modes.MODES:
            raise StrengthError(f"Mode {self.mode!r} is unknown; expected one of {', '.join(modes.MODES)}.")
        if not math.isfinite(self.total):
            raise StrengthError(f"total is {self.total}; expected a finite number.")
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise StrengthError(f"limit is {self.limit}; expected a finite number, 0 or more (0 is no limit).")


@dataclass(frozen=True, eq=False)
class HalfResult:
    """What was done to the UNet, or to the text encoders."""

    strengths: tuple[float, ...]
    """As asked for, one for each entry of the stack."""
    applied: tuple[Mapping[PatchKey, float], ...]
    """Coefficient of each entry on each weight that it touches; empty where its strength is 0."""
    layers: int
    limited: int
    """In how many layers the limit bit."""
    largest: float | None
    """The largest ||change|| / ||W|| before the limit; None where it was not measured."""


@dataclass(frozen=True, eq=False)
class MixPlan:
    """What will be applied. `clip_half` is None where no CLIP came in."""

    adapters: tuple[Adapter, ...]
    model_half: HalfResult
    clip_half: HalfResult | None


@dataclass(frozen=True, eq=False)
class MixResult(MixPlan):
    """The patched model and CLIP (None where none came in), and what was done."""

    model: Any
    clip: Any


def mix(model: Any, clip: Any, stack: StyleStack, settings: MixSettings) -> MixResult:
    """Applies the stack to clones of a MODEL and, if there is one, a CLIP; all or nothing. Raises AdapterError."""
    return apply(model, clip, plan(model, clip, stack, settings))


def apply(model: Any, clip: Any, found: MixPlan) -> MixResult:
    """What was planned, on clones of a MODEL and, if there is one, a CLIP."""
    mixed = _patched(model, [a.model_patches for a in found.adapters], found.model_half)
    mixed_clip = clip
    if found.clip_half is not None:
        mixed_clip = _patched(clip, [a.clip_patches for a in found.adapters], found.clip_half)
    return MixResult(found.adapters, found.model_half, found.clip_half, mixed, mixed_clip)


def plan(model: Any, clip: Any, stack: StyleStack, settings: MixSettings) -> MixPlan:
    """The stack matched to a MODEL and, if there is one, a CLIP, and all coefficients. Raises AdapterError."""
    unet, text = execution.unet_target(model), execution.clip_target(clip) if clip is not None else None
    adapters = tuple(match(entry.file, unet, text) for entry in stack.entries)
    for adapter in adapters:
        if adapter.left_out:
            logging.warning(
                "MixLoRA: %s is applied in part: %d of its %d tensors have no place in this model (for example %s).",
                *(adapter.file.name, len(adapter.left_out), len(adapter.file.tensors), adapter.left_out[0]),
            )
    model_half = _coefficients(
        model, [a.model_patches for a in adapters], [entry.strength_model for entry in stack.entries], settings
    )
    if clip is None:
        return MixPlan(adapters, model_half, None)
    clip_half = _coefficients(
        clip, [a.clip_patches for a in adapters], [entry.strength_clip for entry in stack.entries], settings
    )
    return MixPlan(adapters, model_half, clip_half)


def _coefficients(
    owner: Any, patches: Sequence[Mapping[PatchKey, Patch]], strengths: Sequence[float], settings: MixSettings
) -> HalfResult:
    # An adapter without weights on this half does not count on it, nor does one of strength 0.
    speaking = [index for index, strength in enumerate(strengths) if strength != 0 and patches[index]]
    asked = [strengths[index] for index in speaking]
    coefficients = torch.tensor(modes.shared(settings.mode, asked, settings.total), dtype=torch.float64)

    layers = list(dict.fromkeys(key for index in speaking for key in patches[index]))
    table, before = coefficients.expand(len(layers), -1), None
    if layers and (settings.mode == modes.EQUAL_ENERGY or settings.limit > 0):
        energies = LayerEnergies([patches[index] for index in speaking], *execution.base_weights(owner))
        if settings.mode == modes.EQUAL_ENERGY:
            table = modes.equal_energy(coefficients, energies.norms)
        if settings.limit > 0:
            table, before = _within_limit(table, energies, settings.limit)

    rows = {key: row for row, key in enumerate(layers)}
    values = table.tolist()
    applied: list[dict[PatchKey, float]] = [{} for _ in strengths]
    for column, index in enumerate(speaking):
        applied[index] = {key: values[rows[key]][column] for key in patches[index]}
    limited = int((before > settings.limit).sum()) if before is not None else 0
    largest = before.max().item() if before is not None else None
    return HalfResult(tuple(strengths), tuple(applied), len(layers), limited, largest)


def _patched(owner: Any, patches: Sequence[Mapping[PatchKey, Patch]], half: HalfResult) -> Any:
    sets = [(mapping, _uniform(applied)) for mapping, applied in zip(patches, half.applied, strict=True) if applied]
    return execution.patched(owner, sets)


def _within_limit(coefficients: Tensor, energies: LayerEnergies, limit: float) -> tuple[Tensor, Tensor]:
    """Coefficients whose change of every weight is within the limit, and the ratios (L,) before."""
    before = now = energies.ratios(coefficients)
    for _ in range(ROUNDS):
        if not (now > limit * (1 + 1e-6)).any():
            break
        coefficients = modes.limited(coefficients, now, limit)
        now = energies.ratios(coefficients)
    return coefficients, before


def _uniform(strengths: Mapping[PatchKey, float]) -> float | Mapping[PatchKey, float]:
    values = set(strengths.values())
    return values.pop() if len(values) == 1 else strengths
