"""What engine and executors say to each other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

AUTOMATIC, SWAP, ROWS = "automatic", "swap", "rows"


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
        self, model: torch.nn.Module, coefficients: Sequence[tuple[float, ...]], each: int
    ) -> AbstractContextManager[None]:
        """Around one forward whose batch has a chunk of `each` rows for each of `coefficients`."""
        ...

    def close(self, model: torch.nn.Module) -> None:
        """Called at the end of the run, come what may: the model is as it was before."""
        ...


class BranchId(uuid.UUID):
    """Names a branch's copy of a conditioning, the same in every step, and says what is spoken in its rows.

    ComfyUI tells a forward whose rows it has only by these names.
    """

    coefficients: Mapping[str, tuple[float, ...]]
    """Engine -> coefficients: compositions can stand around each other."""

    def __init__(self, parent: uuid.UUID, engine: str, coefficients: tuple[float, ...]) -> None:
        super().__init__(int=uuid.uuid5(parent, f"{engine} {coefficients}").int)
        spoken = {**getattr(parent, "coefficients", {}), engine: coefficients}
        object.__setattr__(self, "coefficients", spoken)  # a UUID forbids the ordinary way
