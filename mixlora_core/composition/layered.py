"""Things over scenery: what covers a picture as one merge, and each thing that stands in it added alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CompositionError
from .base import NEGATIVE, POSITIVE, Branch
from .centred import around_base
from .paper import Composite

if TYPE_CHECKING:  # a composition is imported without torch
    from .fusion import Fusion


@dataclass(frozen=True)
class Layered:
    """e = e_S + Σ (e_{S+i} - e_S) over the things i, S the merge of all others at `scenery` times their strength.

    Styles, weather and ground want to be merged: they change what is there, and meet each other in it. Things want to
    be alone: in one merge they break each other. To first order all of it is the merge of everyone. The side without
    the prompt is that merge, one evaluation. `things` are places in the stack; of one thing or none the sum is a merge,
    at its cost. Raises CompositionError for places that are none or twice there, and a scenery that is not finite or
    below 0.
    """

    adapters: int
    things: tuple[int, ...]
    scenery: float = 1.0
    depends_on_step = False

    def __post_init__(self) -> None:
        Composite(self.adapters)
        if sorted(set(self.things)) != sorted(self.things) or not set(self.things) <= set(range(self.adapters)):
            raise CompositionError(
                f"things are {', '.join(str(one + 1) for one in self.things)}; expected different places in a stack "
                f"of {self.adapters}, from 1 to {self.adapters}."
            )
        if not (math.isfinite(self.scenery) and self.scenery >= 0):
            raise CompositionError(f"scenery is {self.scenery}; expected a finite number, 0 or more.")

    @property
    def fusion(self) -> Fusion:
        """`around_base`, the scenery being the base."""
        return around_base

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """The scenery, and over it each thing; for the side without the prompt everyone at once."""
        everyone = self._with(self.things)
        if len(self.things) < 2:
            return (Branch(everyone),)
        told = [Branch(self._with(()), side=POSITIVE)]
        told += [Branch(self._with((thing,)), text=thing, side=POSITIVE) for thing in self.things]
        return (*told, Branch(everyone, side=NEGATIVE))

    def _with(self, things: Sequence[int]) -> tuple[float, ...]:
        own = {place: float(place in things) for place in self.things}
        return tuple(own.get(place, self.scenery) for place in range(self.adapters))

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""
