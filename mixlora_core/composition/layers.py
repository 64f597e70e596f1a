"""Content early, style late, layer by layer: the timetable of K-LoRA (arXiv 2502.18461), for N adapters at once.

Its adapters are parts of adapters (`splitting`), so that a coefficient is one for an adapter, a layer and a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import CompositionError
from .base import Branch, some


@dataclass(frozen=True)
class Contest:
    """How much concepts and styles change a layer, or a group of layers, that both of them touch; 0 or more."""

    concept: float
    """Sum of the K largest entries of the concepts' |dW|, all concepts together."""
    style: float


@dataclass(frozen=True)
class Rise:
    """The factor that styles are multiplied by at share x of the run: `slope` x + `start`; K-LoRA's alpha x + beta.

    Raises CompositionError for a slope that is not above 0, or a start below 0.
    """

    slope: float = 1.5
    start: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.start) and self.start >= 0):
            raise CompositionError(
                f"The factor of the styles is {self.slope:g} x + {self.start:g}; expected a slope above 0 and a start "
                "of 0 or more, as K-LoRA's 1.5 x + 0.5."
            )

    def reaches(self, value: float) -> float:
        """The share of the run, 0 to 1, from which on the factor is above `value`; 1 where it never is."""
        return min(max((value - self.start) / self.slope, 0.0), 1.0)


def switch_share(contest: Contest, balance: float, rise: Rise) -> float:
    """The share of the run at which a layer turns from concepts to styles.

    Concepts speak while S_concept >= balance * S_style * factor(x) (K-LoRA's rule); so the turn is where the factor
    reaches S_concept / (balance * S_style). 0: styles all along, as where concepts change nothing; 1: concepts.
    """
    against = balance * contest.style
    if against <= 0:
        return 1.0
    return rise.reaches(contest.concept / against)


def balanced(concept: float, style: float) -> float:
    """Gamma, what styles are multiplied by so that both weigh the same on the whole: sum |dW_concept| / sum |dW_style|.

    The sums are over all entries of all layers that both touch. 1 where styles change nothing.
    """
    return concept / style if style > 0 else 1.0


@dataclass(frozen=True)
class Span:
    """From when to when (shares of the run) a part speaks; an empty span never does."""

    start: float = 0.0
    end: float = 1.0

    def holds(self, step: int, steps: int) -> bool:
        """Whether the middle of the step, (k + 1/2) / n, lies in it. A middle on a border belongs to what follows."""
        return self.start <= (step + 0.5) / steps < self.end


@dataclass(frozen=True)
class LayerTimetable:
    """One branch a step, in which every part speaks in its span. For any number of steps and any sampler.

    Raises CompositionError where there is no part, or a span does not lie in 0 to 1.
    """

    spans: tuple[Span, ...]
    """One for each part of the split stack, in its order."""
    fusion = None

    def __post_init__(self) -> None:
        some(len(self.spans))
        for number, span in enumerate(self.spans, start=1):
            if not 0 <= span.start <= 1 or not 0 <= span.end <= 1:
                raise CompositionError(
                    f"Part {number} speaks from {span.start:g} to {span.end:g} of the run; expected 0 to 1."
                )

    @property
    def adapters(self) -> int:
        """How many parts it composes."""
        return len(self.spans)

    @property
    def depends_on_step(self) -> bool:
        """Whether any part begins or ends within the run."""
        return any(0 < border < 1 for span in self.spans for border in (span.start, span.end))

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch; where no part speaks, the base model does."""
        return (Branch(tuple(float(span.holds(step, steps)) for span in self.spans)),)

    def check(self, steps: int) -> None:
        """Possible for any number of steps: a span that holds none of them is a layer that does not turn."""
