"""Which style each part of a picture is in: for pictures that should have one style here and another one there.

A linear discriminant on the texture of tiles, as the oracle's first layers see them. It is fitted on drawn pictures of
one style each, after the autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from .oracle import Network, as_batch
from .soundness import texture
from .styles import STYLES

KINDS = ("plain", *STYLES)
"""What a tile may be."""
ROWS, COLUMNS = 4, 2
"""Tiles of a picture; sky and ground fill rows."""
_SHRINKAGE = 0.1


@dataclass(frozen=True, eq=False)
class StyleReader:
    """A fitted discriminant, ready to read."""

    network: Network
    weights: np.ndarray
    """(148, 4)"""
    biases: np.ndarray
    """(4,)"""

    @classmethod
    def fitted(cls, network: Network, examples: dict[str, np.ndarray]) -> StyleReader:
        """From uint8 pictures of each of KINDS: equal priors, one covariance of which a tenth is only its diagonal."""
        seen = {kind: _tiles(network, examples[kind]).reshape(-1, 148) for kind in KINDS}
        means = np.stack([seen[kind].mean(0) for kind in KINDS])
        within = np.concatenate([seen[kind] - seen[kind].mean(0) for kind in KINDS])
        covariance = np.cov(within.T)
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.diag(np.diag(covariance))
        weights = np.linalg.solve(covariance, means.T)
        return cls(network, weights, -0.5 * np.einsum("kf,fk->k", means, weights))

    def read(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 pictures -> (n, 8, 4): for each tile, row by row, the probability of each of KINDS."""
        return softmax(_tiles(self.network, pictures) @ self.weights + self.biases, axis=-1)


def shares(reading: np.ndarray, style: str, sure: float = 0.8) -> np.ndarray:
    """(n,): the share of the tiles that are surely in a style."""
    return (reading[..., KINDS.index(style)] > sure).mean(1)


def both(reading: np.ndarray, first: str, second: str) -> np.ndarray:
    """(n,) in 0..1: twice the smaller of two styles' shares: 1 where each surely has half of the picture."""
    return 2 * np.minimum(shares(reading, first), shares(reading, second))


@torch.no_grad()
def _tiles(network: Network, pictures: np.ndarray) -> np.ndarray:
    """(n, 8, 148)."""
    return torch.cat([_described(network, part) for part in as_batch(pictures).split(64)]).double().numpy()


def _described(network: Network, batch: Tensor) -> Tensor:
    parts = [tile for band in batch.chunk(ROWS, 2) for tile in band.chunk(COLUMNS, 3)]
    return torch.stack([texture(network, part) for part in parts], 1)
