"""One composition for a part of the run, another one outside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CompositionError
from .base import Branch, Composition
from .schedule import steps_within

if TYPE_CHECKING:  # a composition is imported without torch
    from torch import Tensor

    from .fusion import Fusion, Moment


class _Part(NamedTuple):
    name: str
    composition: Composition
    steps: range


@dataclass(frozen=True)
class Windowed:
    """`inside` from `start` to `end`, shares of the run from 0 to 1, and `outside` before and after.

    A step belongs to the window where its middle does, as in Scheduled; start = end leaves it empty. Each part is a run
    of its own: its composition counts that part's steps from 0, and keeps its own memory. Raises CompositionError for
    shares out of order and compositions for different numbers of adapters.
    """

    inside: Composition
    outside: Composition
    start: float = 0.0
    end: float = 0.4
    depends_on_step = True

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise CompositionError(
                f"A window from {self.start:.4g} to {self.end:.4g} of the run; expected 0 <= start <= end <= 1."
            )
        if self.inside.adapters != self.outside.adapters:
            raise CompositionError(
                f"The composition inside the window is for {self.inside.adapters} LoRAs, the one outside for "
                f"{self.outside.adapters}; expected the same stack."
            )

    @property
    def adapters(self) -> int:
        """How many adapters it composes."""
        return self.inside.adapters

    @property
    def fusion(self) -> Fusion | None:
        """The mean where both take it, else each part's own."""
        return None if self.inside.fusion is None and self.outside.fusion is None else self._fuse

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """Those of the composition whose part it is."""
        part = self._part(step, steps)
        return part.composition.branches(step - part.steps.start, len(part.steps), guidance)

    def renewed(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """Those of the part's composition where it finds nothing to reuse."""
        part = self._part(step, steps)
        composition: Any = part.composition
        return composition.renewed(step - part.steps.start, len(part.steps), guidance)

    def check(self, steps: int) -> None:
        """Raises CompositionError where a composition refuses the steps of its part; one that has none is not asked."""
        for part in self._parts(steps):
            if part.steps:
                part.composition.check(len(part.steps))

    def _parts(self, steps: int) -> tuple[_Part, ...]:
        window = steps_within(self.start, self.end, steps) or range(0)  # else an empty one would cut the run in two
        return (
            _Part("before", self.outside, range(window.start)),
            _Part("inside", self.inside, window),
            _Part("after", self.outside, range(window.stop, steps)),
        )

    def _part(self, step: int, steps: int) -> _Part:
        return next(part for part in self._parts(steps) if step in part.steps)

    def _fuse(self, predictions: Sequence[Tensor], branches: Sequence[Branch], moment: Moment) -> Tensor:
        part = self._part(moment.step, moment.steps)
        if part.composition.fusion is None:
            from .fusion import mean  # torch

            return mean(predictions, [branch.weight for branch in branches])
        memory = moment.memory.setdefault(part.name, {})
        own = replace(moment, step=moment.step - part.steps.start, steps=len(part.steps), memory=memory)
        return part.composition.fusion(predictions, branches, own)
