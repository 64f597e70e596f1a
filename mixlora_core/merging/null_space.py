"""NP-LoRA (arXiv 2511.11051): content gives way where style listens.

    D = D_s + D_c (I - mu / (1 + mu) V V^T)

V is the right singular basis of the style's change D_s, so content loses its action, all or some of it, on the inputs
that the style reacts to. The product stays as thin as it was: only the `down` of the content changes.

The paper has one style and one content. Here N adapters have an order of priority, and each gives way to all before it;
V is then the basis of what those listen to together. That is this project's extension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import MergeError
from ..low_rank import Factors
from .subspaces import singular, union


@dataclass(frozen=True)
class NullSpaceSettings:
    """How far adapters give way, and to whom. Raises MergeError for impossible values."""

    mu: float = 0.5
    """0 is a plain sum, infinity removes everything on the inputs of those before; the paper's is 0.5."""
    order: tuple[int, ...] = ()
    """Places in the stack, from 0: the first gives way to nobody, the last to all. Empty: as stacked."""

    def __post_init__(self) -> None:
        if not self.mu >= 0:  # not a number is not 0 or more either
            raise MergeError(f"mu is {self.mu}; expected 0 (plain sum) or more, such as the paper's 0.5.")
        if sorted(self.order) != list(range(len(self.order))):
            raise MergeError(f"order is {list(self.order)}; expected each place from 0 to {len(self.order) - 1} once.")

    def ranks(self, adapters: int) -> list[int]:
        """For each place in the stack its place in the order. Raises MergeError where the order is for others."""
        if self.order and len(self.order) != adapters:
            raise MergeError(f"order names {len(self.order)} LoRAs, the stack has {adapters}; name each one once.")
        order = self.order or tuple(range(adapters))
        return [order.index(place) for place in range(adapters)]


def projected(down: Tensor, basis: Tensor, mu: float) -> Tensor:
    """A (I - mu / (1 + mu) V V^T) of a `down` A (r, in), for an orthonormal basis V (in, k)."""
    share = 1.0 if math.isinf(mu) else mu / (1 + mu)
    return down - share * (down @ basis) @ basis.T


def kept_apart(changes: Sequence[Factors], mu: float) -> list[Factors]:
    """The changes of one weight in their order of priority, each off the inputs of all before it.

    Their sum is the merge. The first one comes back as it is.
    """
    kept, listening = [], []
    for up, down in changes:
        own = down if not listening else projected(down, union(listening), mu)
        kept.append((up, own))
        listening.append(singular((up, down))[2])
    return kept
