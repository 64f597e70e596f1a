"""Chunks of a batch that repeat one another: a layer computes each once, and everybody gets what is his.

Branches of a composition read the same text, so that most of what its layers compute is the same product several times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def each_once(chunks: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
    """A hook that leaves out the chunks of a layer's input that repeat another one, number for number.

    All branches of a composition read the same text, unless it was encoded for each adapter. The remaining input says
    in its attribute `place_of` where each chunk is found now, for `for_each_chunk` of every composition around.
    """

    def leave_out(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if hasattr(inputs[0], "place_of"):
            return None
        kept: list[Tensor] = []
        places = []
        for chunk in inputs[0].chunk(chunks):
            same = (place for place, other in enumerate(kept) if torch.equal(chunk, other))
            places.append(next(same, len(kept)))
            if places[-1] == len(kept):
                kept.append(chunk)
        if len(kept) == chunks:
            return None
        distinct: Any = torch.cat(kept)
        distinct.place_of = places
        return (distinct, *inputs[1:])

    return leave_out


def for_each_chunk(x: Tensor, output: Tensor, chunks: int) -> tuple[Sequence[Tensor], Tensor]:
    """What each chunk of the batch gave a layer, and the layer's output for all of them; undoes `each_once`."""
    places: list[int] | None = getattr(x, "place_of", None)
    if places is None:
        return x.chunk(chunks), output
    kept = max(places) + 1
    if len(output) == len(x):  # a composition around this one may have undone it already
        output = restored(x, output)
    given = x.chunk(kept)
    return [given[place] for place in places], output


def restored(x: Tensor, output: Tensor) -> Tensor:
    """What a layer made of `x`, for every chunk of the batch; undoes `each_once` of a composition around."""
    places: list[int] | None = getattr(x, "place_of", None)
    if places is None:
        return output
    parts = output.chunk(max(places) + 1)
    return torch.cat([parts[place] for place in places])
