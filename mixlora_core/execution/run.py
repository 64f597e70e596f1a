"""What one sampling run knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..composition import Branch
from ..regions.attention_masks import FromAttention
from ..regions.masks import Regions
from . import conditioning
from .executor import Executor
from .overhearing import Heard


@dataclass(eq=False)
class Run:
    """What one sampling run knows: the noise levels of its steps, the executor's state, how much fits in a batch."""

    sigmas: Sequence[float]
    executor: Executor
    at_once: int | None
    guider: Any
    memory: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What the fusion keeps between calls, for each list of conditionings."""
    heard: Heard = field(default_factory=Heard)
    """The cross-attention of steps that listen."""
    found: dict[FromAttention, Regions] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many steps it has; 1 where nobody says."""
        return max(len(self.sigmas) - 1, 1)

    @property
    def guidance(self) -> float:
        """The CFG scale; 1 where the guider has none."""
        return float(getattr(self.guider, "cfg", 1.0))

    def placed(self, branch: Branch, step: int) -> Branch:
        """The branch with the masks that this run has found, once it has listened."""
        wish = branch.regions
        if not isinstance(wish, FromAttention) or wish.listens(step, self.steps):
            return branch
        if wish not in self.found:
            if silent := [str(number) for number, named in enumerate(self.heard.named, start=1) if not named]:
                logging.warning(
                    "MixLoRA: the prompt does not name LoRA %s, which speaks everywhere.", ", ".join(silent)
                )
            self.found[wish] = wish.regions(self.heard.maps, self.heard.named)
        return replace(branch, regions=self.found[wish])

    @property
    def known(self) -> Mapping[str, conditioning.Entries] | None:
        """The guider's conditionings by name."""
        return getattr(self.guider, "conds", None)
