"""The compositions of arXiv 2402.16843: Merge, LoRA Switch and LoRA Composite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..errors import CompositionError
from .base import Branch, only, some
from .schedule import block_length, timetable


@dataclass(frozen=True)
class Merge:
    """All adapters at once in one branch: W + sum of strength * dW, as chained LoRA loaders."""

    adapters: int
    depends_on_step = False
    fusion = None

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch in which everyone speaks."""
        return (Branch((1.0,) * self.adapters),)

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""


@dataclass(frozen=True)
class Switch:
    """LoRA Switch (arXiv 2402.16843): one adapter a step, changing every `every` steps (0: automatic).

    `order` lists adapters from 0, empty means as stacked. Raises CompositionError for what is no order.
    """

    adapters: int
    every: int = 5
    order: tuple[int, ...] = ()
    depends_on_step = True
    fusion = None

    def __post_init__(self) -> None:
        some(self.adapters)
        block_length(self.every, 1, 1)
        if self.order and sorted(self.order) != list(range(self.adapters)):
            named = ", ".join(str(index + 1) for index in self.order)
            raise CompositionError(
                f"order is {named}; expected each number from 1 to {self.adapters} once, such as "
                f"{', '.join(str(number) for number in range(self.adapters, 0, -1))}."
            )

    def timetable(self, steps: int) -> tuple[int, ...]:
        """The adapter of each step. Raises CompositionError where automatic turns do not fit."""
        return _timetable(self.order or tuple(range(self.adapters)), self.every, steps)

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch: the adapter whose turn it is."""
        speaker = self.timetable(steps)[step]
        return (Branch(only(speaker, self.adapters), text=speaker),)

    def check(self, steps: int) -> None:
        """Raises CompositionError where automatic turns do not fit into `steps`."""
        self.timetable(steps)


@dataclass(frozen=True)
class Composite:
    """LoRA Composite (arXiv 2402.16843): each adapter alone in a branch, predictions averaged, cond and uncond apart.

    `weights` says how much each adapter counts in the mean, empty means equally; one of weight 0 is left out. Raises
    CompositionError for weights that are negative, not finite, all 0, or not one for each adapter.
    """

    adapters: int
    weights: tuple[float, ...] = ()
    depends_on_step = False
    fusion = None

    def __post_init__(self) -> None:
        some(self.adapters)
        if self.weights and len(self.weights) != self.adapters:
            raise CompositionError(
                f"There are {len(self.weights)} weights for {self.adapters} LoRAs; expected one for each, or none."
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.weights):
            raise CompositionError(f"weights are {_listed(self.weights)}; expected finite numbers, 0 or more.")
        if self.weights and not any(self.weights):
            raise CompositionError("All weights are 0, so no LoRA would count. Give at least one a weight above 0.")

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch for each adapter that counts."""
        weights = self.weights or (1.0,) * self.adapters
        return tuple(
            Branch(only(index, self.adapters), weight, text=index) for index, weight in enumerate(weights) if weight
        )

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""


@lru_cache(maxsize=64)
def _timetable(order: tuple[int, ...], every: int, steps: int) -> tuple[int, ...]:
    return timetable(order, every, steps)


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
