"""Where each adapter speaks: a mask for each, brought to any grid of cells. Pure torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import CompositionError

SUM, SHARE = "sum", "share"
OVERLAPS = (SUM, SHARE)
"""Where masks overlap: everyone speaks as his mask says, or they share what is more than 1 in all."""

Window: TypeAlias = tuple[float, float, float, float]
"""A part of the picture: top, left, bottom, right as shares of its height and width."""
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)

_SLACK = 1e-3
"""How far beyond 0 and 1 a mask may be by rounding."""


@dataclass(frozen=True, eq=False)
class Regions:
    """A mask for each adapter, by which its coefficient is multiplied; equal only to itself.

    `masks`: (h, w) or (pictures, h, w) of any size each, 0 to 1, or None for who speaks everywhere. With SHARE masks
    are divided by their sum where that is above 1; who speaks everywhere does not count there. Raises CompositionError
    for what is no mask, is 0 everywhere, or is for another number of pictures than the others.
    """

    masks: tuple[Tensor | None, ...]
    overlap: str = SUM

    def __post_init__(self) -> None:
        if self.overlap not in OVERLAPS:
            raise CompositionError(f"overlap is {self.overlap!r}; expected one of {', '.join(OVERLAPS)}.")
        numbered = enumerate(self.masks, start=1)
        masks = tuple(None if mask is None else _checked(mask, number) for number, mask in numbered)
        counts = sorted({len(mask) for mask in masks if mask is not None} - {1})
        if len(counts) > 1:
            raise CompositionError(
                f"The masks are for {' and '.join(map(str, counts))} pictures; expected one mask for each LoRA, or one "
                "for each picture of the batch."
            )
        object.__setattr__(self, "masks", masks)

    def listens(self, step: int, steps: int) -> bool:
        """Whether this step still finds out where the masks are: never, they are known."""
        return False

    def fits(self, adapters: int) -> None:
        """Raises CompositionError where there is not one mask, or None, for each adapter."""
        if len(self.masks) != adapters:
            raise CompositionError(
                f"There are {len(self.masks)} masks for {adapters} LoRAs. Give one for each LoRA, or none for who "
                "speaks everywhere."
            )

    def at(self, grid: Sequence[int], window: Window = WHOLE) -> Tensor:
        """The masks' means over the cells of a grid (h, w) on a window of the picture: (pictures, adapters, h, w)."""
        top, left, bottom, right = window
        known = [mask for mask in self.masks if mask is not None]
        pictures = max(map(len, known), default=1)
        placed = torch.ones(pictures, len(self.masks), *grid, dtype=torch.float64)
        for index, mask in enumerate(self.masks):
            if mask is not None:
                rows = averages(mask.shape[-2], grid[0], top, bottom)
                columns = averages(mask.shape[-1], grid[1], left, right)
                placed[:, index] = rows @ mask @ columns.t()
        if self.overlap == SHARE and known:
            masked = [index for index, mask in enumerate(self.masks) if mask is not None]
            placed[:, masked] /= placed[:, masked].sum(1, keepdim=True).clamp_(min=1.0)
        return placed.float()


def averages(size: int, cells: int, start: float = 0.0, end: float = 1.0) -> Tensor:
    """The matrix (cells, size) that averages `size` samples over equal cells of start .. end, shares of their extent.

    Each sample counts by how much of the cell it covers, so sizes need not divide, and cells may be the smaller ones.
    """
    edges = torch.linspace(start * size, end * size, cells + 1, dtype=torch.float64)
    low, high = edges[:-1, None], edges[1:, None]
    sample = torch.arange(size, dtype=torch.float64)
    covered = (torch.minimum(high, sample + 1) - torch.maximum(low, sample)).clamp_(min=0.0)
    return covered / covered.sum(1, keepdim=True)


def _checked(mask: Tensor, number: int) -> Tensor:
    """The mask as (pictures, h, w) in double precision on the CPU."""
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 3) or not mask.numel():
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise CompositionError(
            f"The mask of LoRA {number} is {found}; expected a tensor (height, width) or (pictures, height, width)."
        )
    mask = mask.detach().cpu().double()
    low, high = mask.min().item(), mask.max().item()
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN is neither
        raise CompositionError(
            f"The mask of LoRA {number} has values from {low:g} to {high:g}; expected 0 to 1, all finite."
        )
    if high <= 0:
        raise CompositionError(
            f"The mask of LoRA {number} is 0 everywhere, so it would never speak. Paint its region, or take the LoRA "
            "out of the stack."
        )
    mask = mask.clamp(0.0, 1.0)
    return mask if mask.dim() == 3 else mask[None]
