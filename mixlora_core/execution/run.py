"""What one sampling run knows."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..composition import Branch
from ..errors import CompositionError
from ..regions.attention_masks import FromAttention
from ..regions.masks import Regions
from . import conditioning
from .executor import Executor, Origin, Speech
from .overhearing import Heard


@dataclass(eq=False)
class Run:
    """What one sampling run knows: the noise levels of its steps, the executor's state, how much fits in a batch."""

    sigmas: Sequence[float]
    executor: Executor
    at_once: int | None
    guider: Any
    memory: dict[Hashable, dict[str, Any]] = field(default_factory=dict)
    """What the fusion keeps between calls, for each list of conditionings and way of asking for it."""
    heard: Heard = field(default_factory=Heard)
    """The cross-attention of steps that listen."""
    found: dict[FromAttention, Regions] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    """That of the latents of the call that runs now."""

    @property
    def steps(self) -> int:
        """How many steps it has; 1 where nobody says."""
        return max(len(self.sigmas) - 1, 1)

    @property
    def guidance(self) -> float:
        """The CFG scale; 1 where the guider has none."""
        return float(getattr(self.guider, "cfg", 1.0))

    def memories(
        self, conds: Sequence[conditioning.Entries | None], origins: Sequence[Origin], x: Tensor, options: Mapping
    ) -> list[dict[str, Any]]:
        """What the fusion keeps for each list of a call with these transformer options.

        Other guidances (PAG, SAG) and windows of frames call the model besides the sampler; each call finds its own.
        """
        about = (tuple(x.shape), conditioning.manner(options))
        asked = zip(origins, map(conditioning.uuids, conds), strict=True)
        return [self.memory.setdefault((*one, *about), {}) for one in asked]

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

    def check(self, batch: Tensor, chunks: int, speeches: Sequence[Speech]) -> None:
        """Raises CompositionError for a batch whose rows or size are not those that the sampler's latents make."""
        rows, (height, width) = chunks * self.shape[0], self.shape[-2:]
        if len(speeches) != chunks or len(batch) != rows:
            raise CompositionError(
                f"A batch of {len(batch)} rows came for {chunks} conditionings of a LoRA composition, expected {rows}. "
                "Another node splits or joins batches between the sampler and the model, as tiled diffusion does; "
                "remove it from this graph."
            )
        for top, left, bottom, right in (one.window for one in speeches if one.regions is not None):
            size = (round((bottom - top) * height), round((right - left) * width))
            if size != tuple(batch.shape[-2:]):
                raise CompositionError(
                    f"A part of {tuple(batch.shape[-2:])} of the latent came where masks are for all of its {size}. "
                    "Another node cuts the picture into tiles between the sampler and the model; remove it from this "
                    "graph, or the masks."
                )

    @property
    def known(self) -> Mapping[str, conditioning.Entries] | None:
        """The guider's conditionings by name."""
        return getattr(self.guider, "conds", None)
