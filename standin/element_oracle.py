"""The testbed's oracle: which of the twenty-two elements a picture shows, and how sound the picture is.

Quality is a distance, as in the Fréchet inception distance (arXiv 1706.08500) but of single pictures: how far what the
network's first layers see of a picture is from what they see of real renders. These layers know strokes, edges and
colours and no things, so that a composition which nobody has drawn yet is no defect. Real is what is drawn, and what
single adapters paint (`quality`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from safetensors.torch import load_file
from torch import Tensor

from .elements import ELEMENTS
from .oracle import Network, as_batch, new_network
from .workshop import save_tensors

WEIGHTS = Path(__file__).parent / "weights" / "elements.safetensors"
_MEAN, _WHITENING, _ENDS = "quality.mean", "quality.whitening", "quality.ends"


@dataclass(frozen=True, eq=False)
class ElementReading:
    """What the oracle saw in n pictures; float64."""

    present: np.ndarray
    """(n, 22): for each of ELEMENTS in their order, the probability that it is there, each for itself."""
    quality: np.ndarray
    """(n,) in 0..1: 1 is as sound as the typical picture of one adapter alone, 0 as bad as a destroyed one."""

    def shows(self, name: str) -> np.ndarray:
        """(n,): the probability of one element. Raises KeyError for a name that is none."""
        return self.present[:, _PLACE[name]]

    @property
    def elements(self) -> list[frozenset[str]]:
        """The elements of each picture that are more probably there than not."""
        return [frozenset(name for name, p in zip(ELEMENTS, row, strict=True) if p > 0.5) for row in self.present]


_PLACE = {name: place for place, name in enumerate(ELEMENTS)}


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


@dataclass(frozen=True, eq=False)
class ElementOracle:
    """A trained network with its measure of quality, ready to read."""

    network: Network
    quality: Quality

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> ElementOracle:
        """Loads weights. Raises FileNotFoundError where there are none, RuntimeError where they do not fit."""
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the weights of the testbed's oracle are missing. Check them out, or run `make standin`."
            )
        state = {key: value.float() for key, value in load_file(path).items()}
        if missing := {_MEAN, _WHITENING, _ENDS} - state.keys():
            raise RuntimeError(f"{path} is no oracle of the testbed: it holds no {', no '.join(sorted(missing))}.")
        quality = Quality(*(state.pop(key) for key in (_MEAN, _WHITENING, _ENDS)))
        network = new_network(len(ELEMENTS))
        network.load_state_dict(state)
        return cls(network.eval(), quality)

    @staticmethod
    def version() -> str:
        """What tells the weights of this checkout from others: scores of two versions cannot be compared."""
        return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes safetensors, the network's weights as fp16."""
        state = self.network.state_dict()
        halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        quality = {_MEAN: self.quality.mean, _WHITENING: self.quality.whitening, _ENDS: self.quality.ends}
        save_tensors(path, halves | quality)

    @torch.no_grad()
    def read(self, seen: Tensor | np.ndarray) -> ElementReading:
        """Reads pictures: float tensor (n, 3, 128, 128) in 0..1, or uint8 array (n, 128, 128, 3).

        Raises ValueError for any other shape or type.
        """
        batch = as_batch(seen)
        present, quality = [torch.zeros(0, len(ELEMENTS))], [torch.zeros(0)]
        for part in batch.split(32) if len(batch) else ():
            present.append(self.network(part).sigmoid())
            quality.append(self.quality(self.network, part))
        return ElementReading(torch.cat(present).double().numpy(), torch.cat(quality).double().numpy())
