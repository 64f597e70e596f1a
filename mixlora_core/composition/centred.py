"""LoRA Composite at full strength: what each adapter changes alone, added to the base model's prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CompositionError
from .base import BOTH, NEGATIVE, POSITIVE, Branch
from .paper import Composite

if TYPE_CHECKING:  # a composition is imported without torch
    from torch import Tensor

    from .fusion import Fusion, Moment

MERGED, BASE, EACH = "merged", "base", "each"
"""What predicts: one merge of all adapters, the base model, each adapter alone."""


@dataclass(frozen=True)
class Centred:
    """e = e_base + Σ w_i (e_i - e_base), w_i = strength x weights_i: full strength for any N and any guidance scale.

    To first order this is the merge of all adapters at w_i, without the terms in which they meet inside the network.
    Strength 1/N is LoRA Composite (arXiv 2402.16843); with w_i that sum to 1 the base model is not run. Empty `weights`
    are 1 each, one of weight 0 is left out.

    `unconditional` is the side without the prompt. MERGED, one evaluation: the merge at w_i. It has the prompt-free
    part of every adapter at the same strength as the other side, so guidance neither adds to that part nor takes from
    it. BASE, one evaluation: guidance multiplies that part by its scale s, too much unless `strength` is lowered.
    EACH, as many evaluations as with the prompt: the formula itself, to tell what is lost by the merge.

    Raises CompositionError for weights that Composite refuses and a strength that is not finite and above 0.
    """

    adapters: int
    strength: float = 1.0
    weights: tuple[float, ...] = ()
    unconditional: str = MERGED
    depends_on_step = False

    def __post_init__(self) -> None:
        Composite(self.adapters, self.weights)
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise CompositionError(f"strength is {self.strength}; expected a finite number above 0, such as 1.0.")
        if self.unconditional not in (MERGED, BASE, EACH):
            raise CompositionError(
                f"unconditional is {self.unconditional!r}; expected one of {MERGED}, {BASE}, {EACH}."
            )

    @property
    def fusion(self) -> Fusion:
        """`around_base`."""
        return around_base

    @property
    def shares(self) -> tuple[float, ...]:
        """The w_i, also the coefficients of the merge that this is to first order."""
        return tuple(self.strength * weight for weight in self.weights or (1.0,) * self.adapters)

    @property
    def side(self) -> str:
        """The side that the formula is for."""
        return BOTH if self.unconditional == EACH else POSITIVE

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """The base model and one branch for each adapter that counts; for the side without the prompt one more."""
        own = Composite(self.adapters, self.shares).branches(step, steps)
        told = [Branch(one.coefficients, one.weight, one.text, self.side) for one in own]
        silent = (0.0,) * self.adapters
        if not math.isclose(sum(self.shares), 1.0):
            told.insert(0, Branch(silent, side=self.side))
        if self.unconditional != EACH:
            told.append(Branch(self.shares if self.unconditional == MERGED else silent, side=NEGATIVE))
        return tuple(told)

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""


def around_base(predictions: Sequence[Tensor], branches: Sequence[Branch], moment: Moment) -> Tensor:
    """Σ w_i e_i + (1 - Σ w_i) e_base, w_i the branches' weights; a prediction that stands alone is the answer.

    A branch that is no adapter's own (`text` is None) is the base model's, the first one where there are several.
    """
    if len(predictions) == 1:
        return predictions[0]
    told = list(zip(branches, predictions, strict=True))
    own = [(branch.weight, one) for branch, one in told if branch.text is not None]
    shared = [(1 - sum(weight for weight, _ in own), one) for branch, one in told if branch.text is None]
    (weight, one), *others = (*own, *shared[:1])
    total = one * weight
    for weight, one in others:
        total.add_(one, alpha=weight)
    return total
