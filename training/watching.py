"""How a run is looked at from outside: what the loop shows between two steps, and to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from .base import Base
from .draw import Draw
from .lora import LoRA
from .samples import Samples
from .settings import TrainSettings


class Running(Protocol):
    """A run between two steps, its adapter attached to the base."""

    base: Base
    settings: TrainSettings
    lora: LoRA
    losses: list[float]

    @property
    def step(self) -> int:
        """Updates so far."""
        ...

    @property
    def result(self) -> Tensor:
        """What the adapter would be if the run ended now, as its flat vector."""
        ...

    def losses_of(self, samples: Samples, drawn: Sequence[Draw]) -> Tensor:
        """The weighted loss of each draw from `samples`, which lie where the base does."""
        ...


class Watch(Protocol):
    """Called before the first step and after every step, and again for a step from which a run is resumed.

    It must leave the run as it was: weights, gradients, torch's global random state.
    """

    def __call__(self, run: Running) -> None:
        """Looks at the run."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """What is saved with the run's state (fp32, fp16, bf16 or int64)."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `tensors` gave, from among the state's."""
        ...
