"""The testbed's oracle: which of the twenty-two elements a picture shows, and how sound the picture is.

Quality is read locally, as PatchCore finds defects (arXiv 2106.08265): each of 16 x 16 places of a picture is compared
with the nearest of many places in real renders, so that a composition that nobody has drawn yet is no defect.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .elements import ELEMENTS
from .oracle import Network, as_batch, new_network
from .workshop import save_tensors

WEIGHTS = Path(__file__).parent / "weights" / "elements.safetensors"
_BANK, _SCALE, _ENDS = "quality.bank", "quality.scale", "quality.ends"


@dataclass(frozen=True, eq=False)
class ElementReading:
    """What the oracle saw in n pictures; float64."""

    present: np.ndarray
    """(n, 22): for each of ELEMENTS in their order, the probability that it is there, each for itself."""
    quality: np.ndarray
    """(n,) in 0..1: 1 is as sound as the typical render after the autoencoder, 0 as bad as a destroyed one."""

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
    """A bank of what places in real renders look like, and the distances that mean sound and destroyed."""

    bank: Tensor
    """(m, 48): features of places, divided by `scale`."""
    scale: Tensor
    """(48,): each feature's deviation over real renders."""
    ends: Tensor
    """(2,): the strangeness of the typical held-out render, and of destroyed pictures."""

    def strangeness(self, network: Network, batch: Tensor) -> Tensor:
        """(n,): the mean distance from the bank of the stranger half of a picture's places."""
        places = network.patches(batch) / self.scale
        nearest = torch.cdist(places, self.bank[None]).amin(2)
        return nearest.sort(1, descending=True).values[:, : nearest.shape[1] // 2].mean(1)

    def __call__(self, network: Network, batch: Tensor) -> Tensor:
        """(n,) in 0..1, linear between the two ends."""
        sound, destroyed = self.ends
        return ((destroyed - self.strangeness(network, batch)) / (destroyed - sound)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class ElementOracle:
    """A trained network with its bank, ready to read."""

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
        quality = Quality(*(state.pop(key) for key in (_BANK, _SCALE, _ENDS)))
        network = new_network(len(ELEMENTS))
        network.load_state_dict(state)
        return cls(network.eval(), quality)

    def save(self, path: Path) -> None:
        """Writes the weights as fp16 safetensors."""
        state = self.network.state_dict() | {
            _BANK: self.quality.bank, _SCALE: self.quality.scale, _ENDS: self.quality.ends,
        }  # fmt: skip
        save_tensors(path, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})

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
