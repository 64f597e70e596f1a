"""Deliberate damage to pictures, in a strength from 0 (none) to 1 (destroyed): what the quality number is held against.

Each kind is one that composed LoRAs bring about: noise, softness, garish colours, torn structure, blotches, ghosts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from .workshop import to_tensor

Damage = Callable[[Tensor, float, torch.Generator], Tensor]


def noisy(clean: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Gaussian noise of deviation 0.35 * strength."""
    return clean + 0.35 * strength * torch.randn(clean.shape, generator=random)


def blurred(clean: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Averaged over squares of up to 25 pixels."""
    radius = round(12 * strength)
    return F.avg_pool2d(clean, 2 * radius + 1, 1, radius, count_include_pad=False)


def garish(clean: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Saturation and contrast up to five times, as too strong a merge burns them."""
    grey = clean.mean(1, keepdim=True)
    return 0.5 + (1 + 2 * strength) * (grey + (1 + 4 * strength) * (clean - grey) - 0.5)


def torn(clean: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """A share of the 64 tiles of 16 pixels changes places."""
    tiles = F.unfold(clean, 16, stride=16)
    moved = torch.randperm(tiles.shape[2], generator=random)[: round(tiles.shape[2] * strength)]
    tiles = tiles.clone()
    tiles[..., moved] = tiles[..., moved.roll(1)]
    return F.fold(tiles, clean.shape[-2:], 16, stride=16)


def blotched(clean: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Soft clouds of wrong colour over it."""
    clouds = torch.rand(len(clean), 3, 6, 6, generator=random)
    clouds = F.interpolate(clouds, size=clean.shape[-2:], mode="bicubic", align_corners=False)
    return clean.lerp(clouds, 0.9 * strength)


def ghosted(clean: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Half transparent over another picture of the batch, turned upside down."""
    return clean.lerp(clean.roll(1, 0).flip(2), 0.5 * strength)


KINDS: dict[str, Damage] = {
    "noise": noisy, "blur": blurred, "garish colours": garish, "torn tiles": torn, "blotches": blotched,
    "ghosts": ghosted,
}  # fmt: skip
"""Name -> damage to floats (n, 3, h, w) in 0..1; what comes out may leave that range."""


def damaged(clean: np.ndarray, kind: str, strength: float, seed: int = 0) -> np.ndarray:
    """uint8 pictures (n, h, w, 3), damaged and rounded to uint8 again; the same for the same seed."""
    spoilt = KINDS[kind](to_tensor(clean), strength, torch.Generator().manual_seed(seed))
    return spoilt.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
