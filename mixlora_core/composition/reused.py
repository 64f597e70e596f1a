"""LoRA Composite at full strength for a fraction of its cost: what changes slowly is taken from an earlier step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CompositionError
from .base import NEGATIVE, Branch
from .centred import BASE, MERGED, Centred, around_base

if TYPE_CHECKING:  # a composition is imported without torch
    from torch import Tensor

    from .fusion import Fusion, Moment


@dataclass(frozen=True)
class Reused:
    """Centred in every `every`-th step; between them one branch, the anchor, plus its last difference from Centred.

    `around` is the anchor. MERGED: the merge at w_i brings all first-order effects fresh in every step, and only what
    adapters do to each other is kept. BASE: all that adapters do is kept. A step costs N + 2 evaluations with the
    prompt (N + 1 around BASE) or 1, plus those without the prompt, which `centred.unconditional` says.

    All differences are renewed in one step. One adapter in turn a step would cost as many evaluations on average, in
    more and smaller batches; it would also need the base model in every step, so it could not go around the merge,
    and it would add differences of N noise levels. In its favour: less memory at once, and no step unlike the next.

    Kept are, for each list of conditionings, one tensor of the latent's shape, whatever N, and a number for each row,
    from one renewal to the next within a run. Whether to renew depends on the step alone, so samplers that call the
    model several times a step (heun, dpm_2) renew in each of those calls, and what the last one found is kept. A call
    for which nothing was kept, as where a node lowers the first noise level, renews as well.

    Raises CompositionError for `every` below 1 and another `around`.
    """

    centred: Centred
    every: int = 4
    around: str = MERGED
    depends_on_step = True

    def __post_init__(self) -> None:
        if self.every < 1:
            raise CompositionError(f"every is {self.every}; expected 1 or more steps.")
        if self.around not in (MERGED, BASE):
            raise CompositionError(f"around is {self.around!r}; expected one of {MERGED}, {BASE}.")

    @property
    def adapters(self) -> int:
        """How many adapters it composes."""
        return self.centred.adapters

    @property
    def fusion(self) -> Fusion:
        """`renewed_or_kept`; where every step is renewed, that of Centred."""
        return around_base if self.every == 1 else renewed_or_kept

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """Those of Centred and the anchor, or the anchor alone."""
        if self.every == 1:
            return self.centred.branches(step, steps, guidance)
        if step % self.every == 0:
            return self.renewed(step, steps, guidance)
        return (self._anchor, *(one for one in self.centred.branches(step, steps, guidance) if one.side == NEGATIVE))

    def renewed(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """Those of Centred and the anchor."""
        whole = tuple(self.centred.branches(step, steps, guidance))
        return whole if self._anchor in whole else (*whole, self._anchor)

    @property
    def _anchor(self) -> Branch:
        merge = self.centred.shares
        return Branch(merge if self.around == MERGED else (0.0,) * len(merge), side=self.centred.side)

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""


def renewed_or_kept(predictions: Sequence[Tensor], branches: Sequence[Branch], moment: Moment) -> Tensor:
    """`around_base` where adapters were run, and its difference from the anchor is kept; else anchor + the kept one.

    The anchor is the last branch that is no adapter's own. A difference is kept in units of v, which has one size at
    all noise levels: between clean latents of variance 1 it shrinks with the noise as r / sqrt(r² + 1) (the c_out of
    Karras et al., arXiv 2206.00364). r is measured, for each row: the root mean square of noisy latent - prediction.
    Raises NothingKept where there is nothing to reuse.
    """
    from .fusion import NothingKept  # torch

    if branches[0].side == NEGATIVE:
        return predictions[0]
    anchor = [one for branch, one in zip(branches, predictions, strict=True) if branch.text is None][-1]
    noise = (moment.noisy - anchor).flatten(1).square().mean(1)
    size = (noise / (noise + 1)).sqrt().clamp(min=1e-6)  # a sampler may look where no noise is left
    size = size.view(-1, *[1] * (anchor.dim() - 1))
    if any(branch.text is not None for branch in branches):
        fresh = around_base(predictions, branches, moment)
        moment.memory.update(difference=fresh - anchor, size=size)
        return fresh
    if not moment.memory:
        raise NothingKept
    return anchor + moment.memory["difference"] * (size / moment.memory["size"])
