"""Several predictions become one. Pure torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


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
