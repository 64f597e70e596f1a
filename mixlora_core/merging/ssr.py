"""SSR-Merge (arXiv 2606.10617): a router R between the stacked factors, B R A, sends each input to whom it belongs.

With A = [A_1; ..; A_K], B = [B_1 .. B_K] and z = A x, run k (adapter k alone, reading its own words) wants of the merge
what it has now, B_k z_k. Over the inputs of all runs the least squares solution is

    R = Q G^-1,   G = sum over all runs of z z^T,   rows of block k in Q = sum over run k of z_k z^T

and B R A is an ordinary LoRA of rank sum r_k. Where runs do not share inputs, each adapter acts as if alone; where they
do, the solution is the mean of the adapters, not their sum.

Three things differ from the paper's code, because a UNet's layers see few different inputs (77 tokens of text, 64
places of a latent): the ridge is relative, rho * tr(G_kk) / r_k in block k, so that it neither depends on the size of
the inputs nor on how a file divides its size between A and B; runs count alike however many inputs they had; and
`unseen` says what becomes of inputs that no run has shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ..errors import MergeError
from ..low_rank import Factors

SILENT, SUM = "silent", "sum"
UNSEEN = (SILENT, SUM)


@dataclass(frozen=True)
class SSRSettings:
    """How R is computed. Raises MergeError for impossible values."""

    ridge: float = 1e-4
    """rho, more than 0: below which share of the mean energy a direction counts as not seen."""
    unseen: str = SILENT
    """On inputs that no run has shown nobody acts (SILENT, as in the paper), or all do, as in a plain sum (SUM)."""

    def __post_init__(self) -> None:
        if not 0 < self.ridge < float("inf"):
            raise MergeError(f"ridge is {self.ridge}; expected a number above 0, such as 1e-4.")
        if self.unseen not in UNSEEN:
            raise MergeError(f"unseen is {self.unseen!r}; expected one of {', '.join(UNSEEN)}.")


class Convolution(NamedTuple):
    """How a convolution moves over its input."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def signals(x: Tensor, down: Tensor, convolution: Convolution | None) -> Tensor:
    """What reaches the factors, z = A x, for every input of a layer: (n, R), float32, on x's device.

    `down` (R, in * kernel) is A. x is (..., in), or (rows, in, height, width) of a convolution: there an input is a
    patch of the picture, and A as a convolution gives z of every patch without unfolding any.
    """
    x, down = x.float(), down.to(x.device, torch.float32)
    with torch.autocast(x.device.type, enabled=False):  # sums of squares want all their digits
        if convolution is None:
            return F.linear(x.reshape(-1, x.shape[-1]), down)
        weight = down.reshape(len(down), x.shape[1], *convolution.kernel)
        z = F.conv2d(x, weight, None, convolution.stride, convolution.padding, convolution.dilation)
        return z.movedim(1, -1).reshape(-1, len(down))


class Statistics:
    """G and Q of one layer, float64 on the CPU."""

    def __init__(self, ranks: Sequence[int]) -> None:
        """`ranks`: r_k of the adapters that meet here, in the order in which their factors are stacked."""
        ends = torch.tensor(list(ranks)).cumsum(0).tolist()
        self.blocks = [slice(end - rank, end) for end, rank in zip(ends, ranks, strict=True)]
        self.gram = torch.zeros(ends[-1], ends[-1], dtype=torch.float64)
        self.guide = self.gram.clone()

    def add(self, index: int, moment: Tensor) -> None:
        """Takes run `index`: `moment` (R, R) is the mean of z z^T over its inputs."""
        own, moment = self.blocks[index], moment.double().cpu()
        self.gram += moment
        self.guide[own] += moment[own]


def router(statistics: Statistics, settings: SSRSettings) -> Tensor:
    """R (sum r_k, sum r_k), float64. Blocks are brought to one size first, which makes the ridge that of the module."""
    energy = statistics.gram.diagonal()
    size = torch.empty_like(energy)
    for block in statistics.blocks:
        size[block] = energy[block].mean().sqrt()
    size = torch.where(size > 0, size, 1.0)  # an adapter that hears nothing needs no size
    even = size[:, None] * size
    ridge = settings.ridge * torch.eye(len(size), dtype=torch.float64)
    wanted = statistics.guide / even + (ridge if settings.unseen == SUM else 0)
    found = torch.linalg.solve(statistics.gram / even + ridge, wanted.T).T  # the left matrix is symmetric
    return size[:, None] * found / size


def routed(ups: Sequence[Tensor], matrix: Tensor) -> list[Tensor]:
    """The columns of B R that belong to each adapter's `down`: tensors of the shapes of `ups` (out, r_k)."""
    return list((torch.cat(list(ups), 1) @ matrix).split([up.shape[1] for up in ups], 1))


def misses(changes: Sequence[Factors], statistics: Statistics, matrix: Tensor | float) -> float:
    """How far a merge is from what each adapter does alone on its own inputs, relative, in the root mean square.

    0 is each adapter's own action. `matrix` is R; a number stands for that multiple of the plain sum, so 1 for the sum
    itself. 0 as well where nobody acts.
    """
    gram, guide = statistics.gram, statistics.guide
    route = matrix if isinstance(matrix, Tensor) else matrix * torch.eye(len(gram), dtype=torch.float64)
    alone = torch.zeros_like(gram)
    for block in statistics.blocks:
        alone[block, block] = guide[block, block]
    crossed = route @ guide.T
    inner = torch.cat([up for up, _ in changes], 1)
    inner = inner.T @ inner
    off = (inner * (route @ gram @ route.T - crossed - crossed.T + alone)).sum().clamp(min=0)
    wanted = (inner * alone).sum()
    return (off / wanted).sqrt().item() if wanted > 0 else 0.0
