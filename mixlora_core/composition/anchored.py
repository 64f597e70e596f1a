"""LoRA Composite with one cheap unconditional side, drawn towards the base model so that strength does not fade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import CompositionError
from .base import NEGATIVE, POSITIVE, Branch
from .paper import Composite


def lasting(adapters: int, guidance: float) -> float:
    """The anchor λ* = min(1, (N - 1) / (s - 1)) that keeps a style's strength, 0 to 1; 0 where guidance s is 1 or less.

    Composite is to first order a merge at 1/N, so it dilutes by N what an adapter does whatever the prompt. Guidance
    u + s (c - u) multiplies what the unconditional side lacks of it: in all it has the strength
    g = [1 + λ (s - 1)] / N, which λ* makes 1. Where s < N even the base model alone, λ = 1, leaves it at s / N.
    """
    return min(1.0, (adapters - 1) / (guidance - 1)) if guidance > 1 else 0.0


@dataclass(frozen=True)
class Anchored:
    """LoRA Composite with the prompt, (1 - λ) merge at w/N + λ base without it.

    N + 1 evaluations a step (N + 2 for 0 < λ < 1) in place of 2 N: the merge stands for the mean of N unconditional
    predictions, from which it differs to second order. `anchor` is λ, None is λ* of `lasting`; 1 is the unconditional
    side of AutoLoRA (arXiv 2410.03941) and CRAFT-LoRA (2602.18936). `weights` as in Composite. Raises CompositionError
    for weights that Composite refuses and an anchor out of 0 to 1.
    """

    adapters: int
    anchor: float | None = None
    weights: tuple[float, ...] = ()
    depends_on_step = False
    fusion = None

    def __post_init__(self) -> None:
        Composite(self.adapters, self.weights)
        if self.anchor is not None and not 0 <= self.anchor <= 1:
            raise CompositionError(f"anchor is {self.anchor}; expected 0 (merge) to 1 (base model), or automatic.")

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch for each adapter with the prompt; the merge and the base, where they count, without."""
        own = [replace(one, side=POSITIVE) for one in Composite(self.adapters, self.weights).branches(step, steps)]
        share = lasting(len(own), guidance) if self.anchor is None else self.anchor
        weights = self.weights or (1.0,) * self.adapters
        merge = tuple(weight / sum(weights) for weight in weights)
        unconditional = (
            Branch(merge, 1 - share, side=NEGATIVE),
            Branch((0.0,) * self.adapters, share, side=NEGATIVE),
        )
        return (*own, *(one for one in unconditional if one.weight))

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""
