"""What sample number k of a run is. A pure function of the seed and k: resuming needs no state of any generator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """One training sample before the picture and the noise are mixed."""

    picture: int
    timestep: int
    drop_caption: bool
    noise: Tensor
    """fp32 on the CPU, whatever the device: the same run on every machine."""


def draw(
    seed: int, k: int, *, pictures: int, per_step: int, timesteps: int, shape: tuple[int, ...], caption_dropout: float
) -> Draw:
    """Sample number k, counted over the whole run, of `per_step` samples in a step.

    Every `pictures` samples are an epoch in an order of its own. Timesteps are stratified: the schedule is cut into
    `per_step` equal ranges, and each sample of a step falls into one of them, uniform within (as the low-discrepancy
    sampler of Kingma et al., arXiv 2107.00630, but with independent offsets). The loss of a step then varies less.
    """
    epoch, position = divmod(k, pictures)
    source = generator(seed, "sample", k)
    chance = torch.rand(2, generator=source, dtype=torch.float64)
    time = (k % per_step + chance[0].item()) / per_step
    return Draw(
        picture=order(seed, epoch, pictures)[position],
        timestep=min(int(time * timesteps), timesteps - 1),
        drop_caption=chance[1].item() < caption_dropout,
        noise=torch.randn(shape, generator=source),
    )


@lru_cache(maxsize=16)
def order(seed: int, epoch: int, pictures: int) -> tuple[int, ...]:
    """The pictures' order in one epoch."""
    return tuple(torch.randperm(pictures, generator=generator(seed, "order", epoch)).tolist())


def generator(seed: int, stream: str, index: int | str) -> torch.Generator:
    """A CPU generator for one purpose, independent of those for every other seed, stream and index."""
    name = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(name, "little") >> 1)
