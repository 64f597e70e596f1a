"""Where low-rank changes listen and speak: bases of their inputs and outputs, and how much two of them share.

Pure torch, float64 on the CPU. No full matrix is ever formed: everything is QR and SVD of the thin factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..low_rank import Factors

TOLERANCE = 1e-6
"""Singular values below this share of the largest one are noise of the file's number format, and no direction."""


def singular(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """The singular triples of up @ down that are not zero: left (out, k), values (k,), right (in, k).

    `right` spans the inputs that the change listens to, `left` the outputs that it makes. k is 0 for no change.
    """
    q_up, r_up = torch.linalg.qr(factors[0])
    q_down, r_down = torch.linalg.qr(factors[1].T)
    u, s, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    kept = s > TOLERANCE * s.max()
    return q_up @ u[:, kept], s[kept], q_down @ vh[kept].T


def union(bases: Sequence[Tensor]) -> Tensor:
    """An orthonormal basis (n, k) of what orthonormal bases (n, k_i) span together; there is at least one of them."""
    u, s, _ = torch.linalg.svd(torch.cat(list(bases), dim=1), full_matrices=False)
    return u[:, s > TOLERANCE]


def overlap(one: Tensor, other: Tensor) -> float:
    """The share, 0 to 1, of the smaller subspace that lies in the other: mean cos² of the principal angles.

    Orthonormal bases (n, k) and (n, l). 0 where one is empty. Two random subspaces share max(k, l) / n on average.
    """
    smaller = min(one.shape[1], other.shape[1])
    return (one.T @ other).square().sum().item() / smaller if smaller else 0.0


def nearest(one: Tensor, other: Tensor) -> float:
    """The cosine, 0 to 1, of the smallest principal angle: 1 where the subspaces have a direction in common."""
    if not (one.shape[1] and other.shape[1]):
        return 0.0
    return min(torch.linalg.svdvals(one.T @ other).max().item(), 1.0)


def inner(one: Factors, other: Factors) -> float:
    """<dW, dW'> (Frobenius) of two changes of the same weight, by products of r x r numbers."""
    return ((one[0].T @ other[0]) * (one[1] @ other[1].T)).sum().item()
