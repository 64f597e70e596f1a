"""Policies of the base model, of merges, and of arXiv 2402.16843."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...mixlora_core import composition
from ...mixlora_core.mixing import modes
from ...mixlora_core.stack import StyleStack
from ..jobs import EvaluationError
from .base import Composed, Encode, Plain, Policy, scaled

MEAN = "mean"
MODES = {
    "sum": modes.SUM,
    MEAN: modes.SUM,
    "root": modes.ROOT_N,
    "energy": modes.EQUAL_ENERGY,
    "total": modes.TO_TOTAL,
}
"""Modes of a merge as plans call them. "mean" is λ/N, to first order what Switch and Composite are."""


@dataclass(frozen=True)
class NoAdapter(Policy):
    """The base model reads the prompt; no adapter speaks."""

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model as it is."""
        return model, Plain(clip)


@dataclass(frozen=True)
class Merge(Policy):
    """All adapters at once as weights, as the node MixLoRAWeights."""

    mode: str = "sum"
    total: float = 1.0
    limit: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise EvaluationError(f"mode is {self.mode!r}; expected one of {', '.join(MODES)}.")
        if not math.isfinite(self.total):
            raise EvaluationError(f"total is {self.total}; expected a finite number.")
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise EvaluationError(f"limit is {self.limit}; expected a finite number, 0 or more (0 is no limit).")

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """Weights of the UNet and of the text encoder with the mix in them."""
        from ...mixlora_core.mixing.weighted_mix import MixSettings, mix

        if self.mode == MEAN:
            stack = scaled(stack, 1 / len(stack.entries))
        mixed = mix(model, clip, stack, MixSettings(MODES[self.mode], self.total, self.limit))
        return mixed.model, Plain(mixed.clip)


@dataclass(frozen=True)
class Switch(Composed):
    """LoRA Switch: turns of `every` steps (τ), 0 is automatic."""

    every: int = 5

    def composition(self, adapters: int) -> composition.Switch:
        """Turns in the order of the stack."""
        return composition.Switch(adapters, self.every)


@dataclass(frozen=True)
class Composite(Composed):
    """LoRA Composite: each adapter predicts alone, predictions are averaged."""

    def evaluations(self, adapters: int, steps: int, guidance: float) -> float:
        """One for each adapter."""
        return adapters

    def composition(self, adapters: int) -> composition.Composite:
        """All adapters count the same."""
        return composition.Composite(adapters)
