"""The oracle: a small classifier that reads a picture of the stand-in's world - land, time, objects, manner.

It is trained on the renderer's own labels, on renders and on what the autoencoder makes of them, and measures what the
stand-in paints. Ghibli pictures have a cloud whether asked for or not, so their "clouds" label says nothing and is
left out of training and of every count.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from safetensors.torch import load_file
from torch import Tensor, nn

from .scenes import LANDS, OBJECTS, SIZE, TIMES
from .styles import STYLES
from .workshop import save_tensors, to_tensor

WEIGHTS = Path(__file__).parent / "weights" / "oracle.safetensors"
MANNERS = ("plain", "painting", *STYLES)
"""What a picture is: a plain drawing, an unnamed painting, or one of the named styles."""

TRAINING_SEED, HELD_OUT_SEED = 4, 1001
"""Seeds of `pictures`: what the oracle learns from, and what no part of the stand-in has seen."""

HEADS = (len(LANDS), len(TIMES), len(OBJECTS), len(MANNERS))
"""How many numbers the network gives for each question."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the oracle saw in n pictures: probabilities, float64, in the order of LANDS, TIMES, OBJECTS and MANNERS."""

    lands: np.ndarray
    """(n, 4), rows add up to 1."""
    times: np.ndarray
    """(n, 3), rows add up to 1."""
    things: np.ndarray
    """(n, 5), each object for itself."""
    manners: np.ndarray
    """(n, 5), rows add up to 1."""

    @property
    def land(self) -> list[str]:
        """The most probable land form of each picture."""
        return [LANDS[index] for index in self.lands.argmax(1)]

    @property
    def time(self) -> list[str]:
        """The most probable time of day of each picture."""
        return [TIMES[index] for index in self.times.argmax(1)]

    @property
    def style(self) -> list[str]:
        """The most probable of MANNERS for each picture."""
        return [MANNERS[index] for index in self.manners.argmax(1)]

    @property
    def objects(self) -> list[frozenset[str]]:
        """The objects more probably there than not. "clouds" means nothing in a Ghibli picture."""
        return [frozenset(np.array(OBJECTS)[row > 0.5].tolist()) for row in self.things]

    def style_share(self, a: str, b: str) -> np.ndarray:
        """How much of the probability of styles `a` and `b` is `b`'s: (n,), in 0..1."""
        first, second = (self.manners[:, MANNERS.index(style)] for style in (a, b))
        return second / (first + second)


@dataclass(frozen=True, eq=False)
class Oracle:
    """A trained classifier, ready to read."""

    network: nn.Module

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Oracle:
        """Loads weights. Raises FileNotFoundError where there are none, RuntimeError where they do not fit."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the oracle's weights are missing. Check them out, or run `make standin`.")
        network = new_network()
        network.load_state_dict(load_file(path))
        return cls(network.eval())

    def save(self, path: Path) -> None:
        """Writes the weights as fp16 safetensors."""
        state = self.network.state_dict()
        save_tensors(path, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})

    @torch.no_grad()
    def read(self, seen: Tensor | np.ndarray) -> Reading:
        """Reads pictures: float tensor (n, 3, 128, 128) in 0..1, or uint8 array (n, 128, 128, 3).

        Raises ValueError for any other shape or type.
        """
        batch = as_batch(seen)
        parts = [self.network(batch[start : start + 64]) for start in range(0, len(batch), 64)]
        outputs = torch.cat(parts) if parts else torch.zeros(0, sum(HEADS))
        land, hour, things, manner = outputs.double().split(HEADS, 1)
        softmax = [head.softmax(1).numpy() for head in (land, hour, manner)]
        return Reading(softmax[0], softmax[1], things.sigmoid().numpy(), softmax[2])


def as_batch(seen: Tensor | np.ndarray) -> Tensor:
    """Pictures of either kind as float32 (n, 3, 128, 128) on the CPU. Raises ValueError for what is neither."""
    if isinstance(seen, np.ndarray) and seen.dtype == np.uint8 and seen.shape[1:] == (SIZE, SIZE, 3):
        return to_tensor(seen)
    if isinstance(seen, Tensor) and seen.is_floating_point() and seen.shape[1:] == (3, SIZE, SIZE):
        return seen.detach().to("cpu", torch.float32).clamp(0, 1)
    raise ValueError(
        f"The oracle reads float tensors (n, 3, {SIZE}, {SIZE}) in 0..1 or uint8 arrays (n, {SIZE}, {SIZE}, 3); "
        f"found {seen.dtype} of shape {tuple(seen.shape)}. Resize and convert the pictures first."
    )


class Residual(nn.Module):
    """x + conv(x), normalised: two thirds of the network's work, at its two lowest resolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        return x + F.relu(self.norm(self.conv(x)))


class Network(nn.Module):
    """Pictures (n, 3, 128, 128) in 0..1 -> logits (n, outputs); 19 M multiplications a picture."""

    def __init__(self, outputs: int = sum(HEADS)) -> None:
        super().__init__()
        widths = (12, 24, 48, 96)  # 12: each 2 x 2 block of pixels becomes one place with 12 channels
        stages = []
        for narrow, wide in pairwise(widths):
            conv = nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False)
            stages += [conv, nn.BatchNorm2d(wide), nn.ReLU(), *([Residual(wide)] if wide > 24 else [])]
        self.body = nn.Sequential(*stages)
        self.heads = nn.Linear(2 * widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, outputs)."""
        features = self.body(self.unfolded(x))
        # The mean knows land and light, the maximum finds a boat wherever it is.
        return self.heads(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))

    def early(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the first two stages give: (n, 24, 32, 32) and (n, 48, 16, 16)."""
        first = self.body[:3](self.unfolded(x))  # up to the ReLU
        return first, self.body[3:7](first)  # up to the second stage's residual

    @staticmethod
    def unfolded(x: Tensor) -> Tensor:
        """The input of `body`: (n, 12, 64, 64)."""
        return F.pixel_unshuffle(x * 2 - 1, 2).contiguous(memory_format=torch.channels_last)


def new_network(outputs: int = sum(HEADS)) -> Network:
    """A network with fresh weights."""
    return Network(outputs).to(memory_format=torch.channels_last)
