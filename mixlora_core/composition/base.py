"""What a composition is: which adapters speak in a step, in which branches. Pure: no torch, no ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import CompositionError

if TYPE_CHECKING:
    from ..regions.attention_masks import FromAttention
    from ..regions.masks import Regions
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
    regions: Regions | FromAttention | None = None
    """Where each adapter speaks, or how the run finds that out; None: everywhere."""


class Composition(Protocol):
    """A policy: how many adapters it is for, and the branches of a step.

    One whose branches have regions says so by an attribute `regional`, which is true. One whose fusion reuses what it
    kept has `renewed`, which is asked as `branches` is where that fusion raises NothingKept.
    """

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


def only(index: int, adapters: int) -> tuple[float, ...]:
    """The coefficients with which one adapter speaks alone."""
    return tuple(float(other == index) for other in range(adapters))


def some(adapters: int) -> None:
    """Raises CompositionError where there is no adapter at all."""
    if adapters < 1:
        raise CompositionError("The stack is empty: there is nothing to compose. Connect a Load style LoRA node.")
