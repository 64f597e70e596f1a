"""Changes of weight as two thin factors, dW = up @ down: adding them exactly, shortening them, measuring them.

Pure torch. Factors are float64 on the CPU where they are computed with: they are small, and errors far below those of
a 16-bit file must be told from zero. A full matrix is only ever made of changes that came as one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""up (out, r), down (r, in)."""

OVERSAMPLE, ITERATIONS = 16, 8
"""Of the randomised SVD: columns beyond the rank, power iterations. Its result is within 0.1 % of the best one even
where the singular values fall slowly; see the unit test."""


def concatenated(parts: Sequence[tuple[Tensor, Tensor, float]]) -> Factors:
    """The sum of c * up @ down over the parts, exactly: the ranks add up. c, with its sign, goes into `up`."""
    up = torch.cat([up.double().cpu() * factor for up, _, factor in parts], dim=1)
    return up, torch.cat([down.double().cpu() for _, down, _ in parts])


def shortened(factors: Factors, rank: int) -> Factors:
    """The factors of rank `rank` nearest to up @ down (Frobenius norm), which itself is never formed.

    Both factors are brought to Q R; the SVD is that of the r x r product of the triangles (Eckart and Young).
    """
    q_up, r_up = torch.linalg.qr(factors[0])
    q_down, r_down = torch.linalg.qr(factors[1].T)
    u, s, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    up, down = _halves(u, s, vh, rank)
    return q_up @ up, down @ q_down.T


def factored(change: Tensor, rank: int) -> Factors:
    """Factors of rank `rank` near a full matrix (out, in); on the CPU.

    The nearest ones where the rank is not small against the matrix; else by a randomised SVD (Halko et al., arXiv
    0909.4061), many times faster. The same matrix gives the same factors.
    """
    matrix, wanted = change.float(), rank + OVERSAMPLE
    if 4 * wanted >= min(matrix.shape):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[matrix.device] if matrix.device.type == "cuda" else []):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(matrix, wanted, niter=ITERATIONS)
        vh = v.T
    return _halves(u.cpu().double(), s.cpu().double(), vh.cpu().double(), rank)


def balanced(factors: Factors) -> Factors:
    """The same product with every column of `up` about as long as its row of `down`, so that both fit 16-bit numbers.

    Only powers of two move from one side to the other: no digit is lost.
    """
    up, down = factors
    long, wide = up.norm(dim=0), down.norm(dim=1)
    both = (long > 0) & (wide > 0)
    shift = torch.where(both, (wide / long.clamp(min=1e-300)).clamp(min=1e-300), 1.0).log2().div(2).round().exp2()
    return up * shift, down / shift[:, None]


def norm(factors: Factors) -> float:
    """||up @ down|| (Frobenius)."""
    up, down = factors
    return ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt().item()


def distance(one: Factors, other: Factors) -> float:
    """||one - other|| (Frobenius) of two changes, true down to about 1e-8 of their size."""
    return norm((torch.cat([one[0], -other[0]], dim=1), torch.cat([one[1], other[1]])))


def _halves(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> Factors:
    """The first `rank` triples of an SVD, the root of S on either side."""
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]
