"""All adapters at once, each in its own region of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Branch, some

if TYPE_CHECKING:
    from ..regions.attention_masks import FromAttention
    from ..regions.masks import Regions


@dataclass(frozen=True)
class Regional:
    """One branch in which adapter i speaks with strength_i * mask_i(p) at place p.

    Steps that only listen for the masks let everyone speak everywhere with a share of 1/N.
    """

    adapters: int
    regions: Regions | FromAttention
    regional = True
    fusion = None

    def __post_init__(self) -> None:
        some(self.adapters)
        self.regions.fits(self.adapters)

    @property
    def depends_on_step(self) -> bool:
        """Only where the masks come from the run itself."""
        return self.regions.listens(0, 1)

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch in which everyone speaks."""
        share = 1 / self.adapters if self.regions.listens(step, steps) else 1.0
        return (Branch((share,) * self.adapters, regions=self.regions),)

    def check(self, steps: int) -> None:
        """Possible for any number of steps; a run of one step only listens."""
