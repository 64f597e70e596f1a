"""Policies of LoRA Composite at full strength or at a fraction of its cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...mixlora_core import composition
from ...mixlora_core.composition.scheduled import Scheduled, Window
from ...mixlora_core.stack import CONCEPT, StyleStack
from ..jobs import EvaluationError
from .base import Counted, Encode, Plain, Policy

STRENGTHS = {"sum": 0.0, "root": -0.5, "mean": -1.0}
"""How strong each adapter is, called as a merge's modes: λ times N to this power."""

AUTOMATIC = -1.0
"""As an anchor: λ* of the number of adapters and the guidance scale."""


@dataclass(frozen=True)
class Anchored(Counted):
    """Composite with one merge and the base as its unconditional side; `anchor` 0 to 1 is the base's share, -1 λ*."""

    anchor: float = AUTOMATIC

    def composition(self, adapters: int) -> composition.Anchored:
        """All adapters count the same."""
        return composition.Anchored(adapters, None if self.anchor == AUTOMATIC else self.anchor)


@dataclass(frozen=True)
class Centred(Counted):
    """What each adapter changes alone, added to the base; `mode` is the strength, `unconditional` the other side."""

    mode: str = "sum"
    unconditional: str = "merged"

    def composition(self, adapters: int) -> composition.Centred:
        """All adapters count the same."""
        return composition.Centred(adapters, strength(self.mode, adapters), unconditional=self.unconditional)


@dataclass(frozen=True)
class Reused(Centred):
    """Centred in each `every`-th step; between them its difference from one branch, `around`, is kept."""

    every: int = 4
    around: str = "merged"

    def composition(self, adapters: int) -> composition.Reused:
        """All adapters count the same."""
        return composition.Reused(super().composition(adapters), self.every, self.around)


@dataclass(frozen=True)
class Layered(Policy):
    """Things over scenery: concepts are added one by one to the merge of all others, at `scenery` of their strength."""

    scenery: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scenery) and self.scenery >= 0):
            raise EvaluationError(f"scenery is {self.scenery}; expected a finite number, 0 or more.")

    def evaluations(self, adapters: int, steps: int, guidance: float) -> float:
        """At most, if all are things: one for each, the scenery, and the side without the prompt."""
        return 1 if adapters < 2 else (adapters + 1 if math.isclose(guidance, 1.0) else (adapters + 2) / 2)

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the composition of this stack's roles attached; in the text all speak."""
        from ...mixlora_core.layered import layered

        things = [place for place, entry in enumerate(stack.entries) if entry.role == CONCEPT]
        made, text = layered(model, clip, stack, things, self.scenery)
        return made, Plain(text)


INSIDE = {"composite": composition.Composite, "anchored": composition.Anchored, "centred": composition.Centred}
OUTSIDE = "merge", "switch"


@dataclass(frozen=True)
class Windowed(Counted):
    """`inside` from `start` to `end` of the run; outside a merge at the strength of `mode`, or turns of `every`."""

    inside: str = "composite"
    outside: str = "merge"
    start: float = 0.0
    end: float = 0.4
    mode: str = "mean"
    every: int = 0

    def composition(self, adapters: int) -> composition.Windowed:
        """Raises EvaluationError for an unknown composition."""
        if self.inside not in INSIDE:
            raise EvaluationError(f"inside is {self.inside!r}; expected one of {', '.join(INSIDE)}.")
        if self.outside not in OUTSIDE:
            raise EvaluationError(f"outside is {self.outside!r}; expected one of {', '.join(OUTSIDE)}.")
        merge = Scheduled(((Window(0, 1, strength(self.mode, adapters)),),) * adapters)  # Merge knows no other strength
        outside = composition.Switch(adapters, self.every) if self.outside == "switch" else merge
        return composition.Windowed(INSIDE[self.inside](adapters), outside, self.start, self.end)


def strength(mode: str, adapters: int) -> float:
    """What each adapter's λ is multiplied by. Raises EvaluationError for an unknown mode."""
    if mode not in STRENGTHS:
        raise EvaluationError(f"mode is {mode!r}; expected one of {', '.join(STRENGTHS)}.")
    return adapters ** STRENGTHS[mode]
