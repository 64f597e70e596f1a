"""Two measures of how sound a picture is: how far from sound pictures it is, and whether adapters broke it to pieces.

The distance is as in the Fréchet inception distance (arXiv 1706.08500) but of single pictures: how far what the
network's first layers see of a picture is from what they see of real renders. These layers know strokes, edges and
colours and no things, so that a composition which nobody has drawn yet is no defect.

It is blind to what too much adaptation does: a mosaic of patches without a scene has the strokes of the styles. That
has a measure of its own, which looks at parts of the picture and has been shown such mosaics (`overload`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from .oracle import Network

BANDS = 4
"""Horizontal parts of a picture: sky and ground differ in a scene, and hardly in a mosaic."""


@dataclass(frozen=True, eq=False)
class Quality:
    """What sound pictures look like, and the distances that mean sound and destroyed."""

    mean: Tensor
    """(148,): of `texture` over sound pictures."""
    whitening: Tensor
    """(148, 148): makes the Mahalanobis distance a length."""
    ends: Tensor
    """(2,): the strangeness of the typical sound picture that was held out, and of destroyed ones."""

    def strangeness(self, network: Network, batch: Tensor) -> Tensor:
        """(n,): Mahalanobis distance from sound pictures, divided by the root of the dimension."""
        away = (texture(network, batch) - self.mean) @ self.whitening
        return away.square().mean(1).sqrt()

    def __call__(self, network: Network, batch: Tensor) -> Tensor:
        """(n,) in 0..1, linear between the two ends."""
        sound, destroyed = self.ends
        return ((destroyed - self.strangeness(network, batch)) / (destroyed - sound)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Overload:
    """A logistic regression that tells pictures broken by too strong or too many adapters from sound ones."""

    weights: Tensor
    """(740,): of `textures`."""
    bias: Tensor
    """(1,)"""

    @classmethod
    def unknown(cls) -> Overload:
        """Calls no picture overloaded: what there is before any adapter could overload one."""
        return cls(torch.zeros(148 * (BANDS + 1)), torch.tensor([-100.0]))

    def __call__(self, network: Network, batch: Tensor) -> Tensor:
        """(n,) in 0..1: above 0.5 the picture is overloaded."""
        return (textures(network, batch) @ self.weights + self.bias).sigmoid()


def texture(network: Network, batch: Tensor) -> Tensor:
    """(n, 148): logarithms of mean and deviation of the first two stages' features, and of four octaves of detail."""
    described = []
    for features in network.early(batch):
        described += [features.mean((2, 3)), features.std((2, 3))]
    grey = batch.mean(1, keepdim=True)
    for _ in range(4):
        half = F.avg_pool2d(grey, 2)
        described.append((grey - F.interpolate(half, scale_factor=2)).abs().mean((2, 3)))
        grey = half
    return torch.cat(described, 1).add(1e-3).log()


def textures(network: Network, batch: Tensor) -> Tensor:
    """(n, 740): the texture of each of four horizontal bands, and the least of the four: a calm sky leaves some low."""
    bands = [texture(network, band) for band in batch.chunk(BANDS, 2)]
    return torch.cat([*bands, torch.stack(bands).amin(0)], 1)
