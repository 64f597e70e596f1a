"""Masks without hands: the cross-attention of the words that name each adapter, as regions. Pure torch.

The idea is that of FreeFuse (arXiv 2510.23515): where the words are seen, the adapter speaks. Maps are means over heads
and layers as in DAAM (arXiv 2210.04885).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ..errors import CompositionError
from .masks import Regions

Grid = tuple[int, int]

_TELLING = 24
"""Cells of the longer side near which grids tell best where things are: 16 and 32, as in SD v1.5 at 512 pixels."""


@dataclass(frozen=True)
class FromAttention:
    """The wish for masks from a run's own cross-attention: listen in its first steps, then keep what was heard.

    `listen`: share of the steps, above 0 and below 1, at least one step. `temperature`: above 0; how softly adapters
    share a cell, in standard deviations of a map. `smooth`: standard deviation of the blur in cells of the finer grid,
    0 or more. Raises CompositionError.
    """

    listen: float = 0.2
    temperature: float = 0.5
    smooth: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.listen < 1:
            raise CompositionError(f"listen is {self.listen}; expected a share of the steps, above 0 and below 1.")
        if not 0 < self.temperature < math.inf:
            raise CompositionError(f"temperature is {self.temperature}; expected a finite number above 0.")
        if not 0 <= self.smooth < math.inf:
            raise CompositionError(f"smooth is {self.smooth}; expected a finite number, 0 or more.")

    def listens(self, step: int, steps: int) -> bool:
        """Whether this step still finds out where the masks are."""
        return step < max(1, round(self.listen * steps))

    def fits(self, adapters: int) -> None:
        """Possible for any number of adapters."""

    def regions(self, maps: Mapping[Grid, Tensor], named: Sequence[bool]) -> Regions:
        """Masks that sum to 1 over the adapters that words of the prompt name; the others speak everywhere.

        `maps`: for each grid (h, w) the mean attention to each adapter's words, (pictures, adapters, h, w). Per map
        and picture the mean is subtracted and divided by the standard deviation, so that words of few or many tokens
        count alike; then a softmax over the adapters in every cell. Raises CompositionError where nothing was heard.
        """
        if not maps:
            raise CompositionError(
                "No cross-attention was heard in the first steps, so there are no masks. Another node may replace it "
                "(such as an IPAdapter), or the prompt counts only later in the run or in an area. Give masks by hand."
            )
        who = [index for index, one in enumerate(named) if one]
        masks: list[Tensor | None] = [None] * len(named)
        if len(who) > 1:
            heard = _together({grid: maps[grid][:, who].float() for grid in _telling(maps)})
            shares = (_standard(blurred(heard, self.smooth)) / self.temperature).softmax(1)
            for place, index in enumerate(who):
                masks[index] = shares[:, place]
        return Regions(tuple(masks))


def blurred(maps: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur of (n, channels, h, w); what lies outside repeats the edge."""
    if deviation == 0:
        return maps
    reach = math.ceil(3 * deviation)
    offsets = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel /= kernel.sum()
    flat = F.pad(maps.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).view(maps.shape)


def _telling(grids: Mapping[Grid, Tensor]) -> list[Grid]:
    """The two grids that tell best where things are."""
    return sorted(grids, key=lambda grid: abs(math.log2(max(grid) / _TELLING)))[:2]


def _together(maps: Mapping[Grid, Tensor]) -> Tensor:
    """Maps of several grids as one on the finest."""
    finest = max(maps)
    brought = [F.interpolate(_standard(one), finest, mode="bilinear") for one in maps.values()]
    return torch.stack(brought).mean(0)


def _standard(maps: Tensor) -> Tensor:
    """Every map with mean 0 and deviation 1; one that is the same everywhere becomes 0."""
    centred = maps - maps.mean((2, 3), keepdim=True)
    deviation = centred.square().mean((2, 3), keepdim=True).sqrt()
    return torch.where(deviation > 1e-9, centred / deviation.clamp(min=1e-9), 0.0)
