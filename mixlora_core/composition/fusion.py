"""Several predictions become one. Pure torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from . import Branch


@dataclass(frozen=True, eq=False)
class Moment:
    """What a fusion may know beside the predictions: all of one model call, for one list of conditionings."""

    step: int
    steps: int
    noisy: Tensor
    """The latent that the model saw, (rows, channels, ...); the noise is in proportion to it minus a prediction."""
    memory: dict[str, Any] = field(default_factory=dict)
    """Kept from one call of this list to the next within a run, and empty at its start."""


class NothingKept(Exception):  # noqa: N818 - no error of anyone: the engine then asks for other branches
    """Raised by a fusion that would reuse something where nothing was kept yet, as the sampler left that step out."""


class Fusion(Protocol):
    """Predictions of a side's branches -> the prediction of that side."""

    def __call__(self, predictions: Sequence[Tensor], branches: Sequence[Branch], moment: Moment) -> Tensor:
        """One tensor of the predictions' shape, from the clean latents that these branches predict."""
        ...


def mean(predictions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean, sum of w_i e_i / sum of w_i, of tensors of one shape; weights are positive.

    A mean of means is the mean of all where each part's weight is the sum of its own, so a batch may be run in parts.
    """
    if len(predictions) == 1:
        return predictions[0]
    total = predictions[0] * weights[0]
    for prediction, weight in zip(predictions[1:], weights[1:], strict=True):
        total = total.add_(prediction, alpha=weight)
    return total.div_(sum(weights))
