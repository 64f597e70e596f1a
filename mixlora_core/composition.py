"""What a composition is, and the two of arXiv 2402.16843: which adapters speak in a step, in which branches.

Pure: no torch, no ComfyUI. A method is a small policy here; `execution` runs any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from .errors import CompositionError
from .schedule import block_length, timetable

if TYPE_CHECKING:
    from .fusion import Fusion

BOTH, POSITIVE, NEGATIVE = "both", "positive", "negative"
"""The sides of classifier-free guidance: predictions with the prompt, and with what shall not be shown."""


@dataclass(frozen=True)
class Branch:
    """One way of running the model in a step."""

    coefficients: tuple[float, ...]
    """How strongly each adapter speaks, as a multiple of its strength in the stack."""
    weight: float = 1.0
    """How much the branch counts in the mean of the predictions; more than 0."""
    text: int | None = None
    """The adapter whose own conditioning is used, where there is one; None uses only what is meant for all."""
    side: str = BOTH
    """The predictions that the branch is for: BOTH, POSITIVE or NEGATIVE."""


class Composition(Protocol):
    """A policy: how many adapters it is for, and the branches of a step."""

    @property
    def adapters(self) -> int:
        """How many adapters it composes."""
        ...

    @property
    def depends_on_step(self) -> bool:
        """Whether steps differ; where not, the step need not be known."""
        ...

    @property
    def fusion(self) -> Fusion | None:
        """How the predictions of a side become one; None: their mean, weighted by the branches."""
        ...

    def branches(self, step: int, steps: int, guidance: float) -> Sequence[Branch]:
        """The branches of step `step` (from 0) of `steps` at a CFG scale; at least one for each side."""
        ...

    def check(self, steps: int) -> None:
        """Raises CompositionError where a run of this many steps is impossible."""
        ...


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
        _some(self.adapters)
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
        return (Branch(_only(speaker, self.adapters), text=speaker),)

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
        _some(self.adapters)
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
            Branch(_only(index, self.adapters), weight, text=index) for index, weight in enumerate(weights) if weight
        )

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""


@lru_cache(maxsize=64)
def _timetable(order: tuple[int, ...], every: int, steps: int) -> tuple[int, ...]:
    return timetable(order, every, steps)


def _only(index: int, adapters: int) -> tuple[float, ...]:
    return tuple(float(other == index) for other in range(adapters))


def _some(adapters: int) -> None:
    if adapters < 1:
        raise CompositionError("The stack is empty: there is nothing to compose. Connect a Load style LoRA node.")


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
