"""A composition by share of the run: each adapter speaks as loudly as the window says in which a step lies.

Pure: no torch, no ComfyUI. Prompt editing and LoRA schedules in A1111 and its followers count steps like this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import CompositionError
from . import Branch
from .schedule import steps_within


@dataclass(frozen=True)
class Window:
    """From when to when (shares of the run, 0 to 1) an adapter speaks, and how loudly."""

    start: float
    end: float
    coefficient: float = 1.0
    """A multiple of the adapter's strength in the stack; may be negative."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise CompositionError(
                f"A window from {self.start:.4g} to {self.end:.4g} of the run; expected 0 <= start < end <= 1."
            )
        if not math.isfinite(self.coefficient):
            raise CompositionError(f"A window's coefficient is {self.coefficient}; expected a finite number.")

    def steps(self, steps: int) -> range:
        """Its steps in a run of `steps`: windows that touch share no step and leave none out, whatever the number."""
        return steps_within(self.start, self.end, steps)


@dataclass(frozen=True)
class Scheduled:
    """One branch a step: adapter i at the coefficient of the window of `windows[i]` that the step lies in, else silent.

    Step k of n belongs to a window if its middle, (k + 1/2) / n, lies in it; one on a border belongs to the earlier
    window. So 0 to 40 % of 30 steps are the first 12.
    Raises CompositionError where there is no adapter, or windows of one adapter overlap.
    """

    windows: tuple[tuple[Window, ...], ...]
    depends_on_step = True
    fusion = None

    def __post_init__(self) -> None:
        if not self.windows:
            raise CompositionError("There is no LoRA to schedule. Connect a stack, or name a LoRA in the prompt.")
        for number, own in enumerate(self.windows, start=1):
            ordered = sorted(own, key=lambda window: window.start)
            for one, other in pairwise(ordered):
                if other.start < one.end:
                    raise CompositionError(
                        f"LoRA {number} has two windows at once: {one.start:.4g} to {one.end:.4g} and "
                        f"{other.start:.4g} to {other.end:.4g} of the run. Let one end where the other begins."
                    )

    @property
    def adapters(self) -> int:
        """How many adapters it composes."""
        return len(self.windows)

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch, in which everyone speaks whose window it is; where there is nobody, the base model does."""
        return (Branch(tuple(_coefficient(own, step, steps) for own in self.windows)),)

    def check(self, steps: int) -> None:
        """Raises CompositionError where a window is too short to hold one of `steps`: its adapter would be silent."""
        for number, own in enumerate(self.windows, start=1):
            for window in own:
                if not window.steps(steps):
                    raise CompositionError(
                        f"LoRA {number} would never speak: {100 * window.start:.4g} to {100 * window.end:.4g} % of "
                        f"{steps} steps is no whole step. Widen the window, or use more steps."
                    )


def _coefficient(own: Sequence[Window], step: int, steps: int) -> float:
    return next((window.coefficient for window in own if step in window.steps(steps)), 0.0)
