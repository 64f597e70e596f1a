"""The testbed's oracle: which of the twenty-two elements a picture shows, and how sound the picture is.

Sound is what is drawn and what single adapters paint (`quality`), and what too much adaptation has not broken to pieces
(`overload`). Networks see things in broken pictures that nobody would find there, so nothing counts as there in them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .elements import ELEMENTS
from .oracle import Network, as_batch, new_network
from .soundness import Overload, Quality
from .workshop import save_tensors

WEIGHTS = Path(__file__).parent / "weights" / "elements.safetensors"
_QUALITY = ("quality.mean", "quality.whitening", "quality.ends")
_OVERLOAD = ("overload.weights", "overload.bias")


@dataclass(frozen=True, eq=False)
class ElementReading:
    """What the oracle saw in n pictures; float64."""

    recognised: np.ndarray
    """(n, 22): for each of ELEMENTS in their order, the probability that it is there, each for itself."""
    quality: np.ndarray
    """(n,) in 0..1: 1 is as sound as the typical picture of one adapter alone, 0 as bad as a destroyed one."""
    overloaded: np.ndarray
    """(n,) in 0..1: above 0.5 adapters broke the picture to pieces."""

    @property
    def present(self) -> np.ndarray:
        """(n, 22): `recognised`, but never more than 1 - overloaded: nothing is there in an overloaded picture."""
        return np.minimum(self.recognised, 1 - self.overloaded[:, None])

    def shows(self, name: str) -> np.ndarray:
        """(n,): the probability of one element. Raises KeyError for a name that is none."""
        return self.present[:, _PLACE[name]]

    @property
    def elements(self) -> list[frozenset[str]]:
        """The elements of each picture that are more probably there than not."""
        return [frozenset(name for name, p in zip(ELEMENTS, row, strict=True) if p > 0.5) for row in self.present]


_PLACE = {name: place for place, name in enumerate(ELEMENTS)}


@dataclass(frozen=True, eq=False)
class ElementOracle:
    """A trained network with its measures of soundness, ready to read."""

    network: Network
    quality: Quality
    overload: Overload

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> ElementOracle:
        """Loads weights. Raises FileNotFoundError where there are none, RuntimeError where they do not fit."""
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the weights of the testbed's oracle are missing. Check them out, or run `make standin`."
            )
        state = {key: value.float() for key, value in load_file(path).items()}
        if missing := {*_QUALITY, *_OVERLOAD} - state.keys():
            raise RuntimeError(f"{path} is no oracle of the testbed: it holds no {', no '.join(sorted(missing))}.")
        quality = Quality(*(state.pop(key) for key in _QUALITY))
        overload = Overload(*(state.pop(key) for key in _OVERLOAD))
        network = new_network(len(ELEMENTS))
        network.load_state_dict(state)
        return cls(network.eval(), quality, overload)

    @staticmethod
    def version() -> str:
        """What tells the weights of this checkout from others: scores of two versions cannot be compared."""
        return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes safetensors, the network's weights as fp16."""
        state = self.network.state_dict()
        halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        quality = (self.quality.mean, self.quality.whitening, self.quality.ends)
        overload = (self.overload.weights, self.overload.bias)
        sound = dict(zip((*_QUALITY, *_OVERLOAD), (*quality, *overload), strict=True))
        save_tensors(path, halves | sound)

    @torch.no_grad()
    def read(self, seen: Tensor | np.ndarray) -> ElementReading:
        """Reads pictures: float tensor (n, 3, 128, 128) in 0..1, or uint8 array (n, 128, 128, 3).

        Raises ValueError for any other shape or type.
        """
        batch = as_batch(seen)
        recognised, quality, overloaded = [torch.zeros(0, len(ELEMENTS))], [torch.zeros(0)], [torch.zeros(0)]
        for part in batch.split(32) if len(batch) else ():
            broken = self.overload(self.network, part)
            recognised.append(self.network(part).sigmoid())
            quality.append(self.quality(self.network, part) * (1 - broken))
            overloaded.append(broken)
        return ElementReading(*(torch.cat(one).double().numpy() for one in (recognised, quality, overloaded)))
