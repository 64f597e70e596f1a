"""What engine and executors say to each other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from ..regions.masks import WHOLE, Regions, Window
from ..regions.words import Positions

AUTOMATIC, SWAP, ROWS = "automatic", "swap", "rows"


@dataclass(frozen=True)
class Speech:
    """What is spoken in the rows of one conditioning."""

    coefficients: tuple[float, ...]
    regions: Regions | None = None
    window: Window = WHOLE
    """The part of the picture that these rows show."""
    words: Positions | None = None
    """Where the text names each adapter, for rows that are listened to."""


class Executor(Protocol):
    """How coefficients reach the UNet during one run."""

    @property
    def together(self) -> int | None:
        """How many branches it can run in one batch; None: any number."""
        ...

    def prepare(self, model: torch.nn.Module, coefficients: Sequence[tuple[float, ...]]) -> None:
        """Called before the predictions of these branches."""
        ...

    def speaking(
        self, model: torch.nn.Module, speeches: Sequence[Speech], batch: torch.Tensor, options: dict[str, Any]
    ) -> AbstractContextManager[None]:
        """Around one forward of a batch with these transformer options; it has a chunk of rows for each speech."""
        ...

    def close(self, model: torch.nn.Module) -> None:
        """Called at the end of the run, come what may: the model is as it was before."""
        ...


class Origin(NamedTuple):
    """Which of the sampler's lists of conditionings something comes from, whatever compositions have made of them."""

    place: int
    """In ComfyUI's own the positive one is 0."""
    lists: int
    """How many there are in that call."""
    side: str
    """Which side of the guidance the list is for; "" where it is missing."""


class BranchId(uuid.UUID):
    """Names a branch's copy of a conditioning, the same in every step, and says what is spoken in its rows.

    ComfyUI tells a forward whose rows it has only by these names.
    """

    spoken: Mapping[str, Speech]
    """Engine -> speech: compositions can stand around each other."""
    origin: Origin

    def __init__(self, parent: uuid.UUID, engine: str, speech: Speech, origin: Origin) -> None:
        where = "" if speech.regions is None else id(speech.regions)
        super().__init__(int=uuid.uuid5(parent, f"{engine} {speech.coefficients} {where}").int)
        spoken = {**getattr(parent, "spoken", {}), engine: speech}
        object.__setattr__(self, "spoken", spoken)  # a UUID forbids the ordinary way
        object.__setattr__(self, "origin", getattr(parent, "origin", origin))
