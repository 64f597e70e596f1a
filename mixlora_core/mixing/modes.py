"""Strengths that were asked for -> coefficients that are applied. Pure: numbers and tensors in, coefficients out.

K adapters meet in L layers. A layer's weight becomes W + sum_i c_i dW_i; the modes differ only in how the
coefficients c come from the strengths lambda. All that a mode ever needs to know about a layer is ||W|| and the
Gram matrix G of its adapters, G_ij = <dW_i, dW_j> (Frobenius): ||dW_i|| = sqrt(G_ii), ||sum c_i dW_i||^2 = c^T G c.
Coefficients are float64, so a strength that no rule changes comes out with the bits it went in with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SUM, TO_TOTAL, ROOT_N, EQUAL_ENERGY = "sum", "sum to total", "1/sqrt(N)", "equal energy"
MODES = (SUM, TO_TOTAL, ROOT_N, EQUAL_ENERGY)

SILENCE = 1e-3
"""An adapter this much quieter than the loudest one of a layer (-60 dB) does not count there: what it has is noise."""


def shared(mode: str, lam: Sequence[float], total: float) -> list[float]:
    """What a mode makes of the strengths before any layer is looked at: the coefficients that all layers share."""
    if mode == TO_TOTAL:
        return to_total(lam, total)
    return root_n(lam) if mode == ROOT_N else list(lam)


def to_total(lam: Sequence[float], total: float) -> list[float]:
    """c_i = lambda_i / sum_j |lambda_j| * total: the shares stay, their sum becomes `total`.

    With absolute values below the line, a negative strength keeps its sign and its share, and two strengths that
    cancel (1 and -1) do not divide by zero. All-zero strengths stay zero.
    """
    whole = sum(abs(value) for value in lam)
    return [value / whole * total if whole else 0.0 for value in lam]


def root_n(lam: Sequence[float]) -> list[float]:
    """c_i = lambda_i / sqrt(N), N counting the strengths that are not zero.

    Adapters trained apart are nearly orthogonal, and the norm of a sum of N orthogonal changes of equal norm is
    sqrt(N) times theirs: so the mix changes the model as much as one of them does.
    """
    n = sum(value != 0 for value in lam)
    return [value / math.sqrt(n) if n else 0.0 for value in lam]


def equal_energy(lam: Tensor, norms: Tensor) -> Tensor:
    """c_li = lambda_i * target_l / ||dW_li||, target_l the geometric mean of the norms that meet in layer l.

    The geometric mean is the level at which the gains of a layer multiply to 1: nobody gets louder on balance, the
    sum of squared gains in decibels is least, and one file of tenfold norm moves the level of three by 10^(1/3)
    where a root mean square would be dragged by 5.8. A layer that one adapter touches alone is left as it is.

    `lam` (K,), `norms` (L, K) with 0 where an adapter does not touch a layer. Returns (L, K). Adapters with strength
    0, and those below SILENCE times the loudest of the layer, neither count nor change.
    """
    heard = (norms > SILENCE * norms.amax(dim=1, keepdim=True)) & (lam != 0)
    logs = torch.where(heard, norms, 1.0).log()
    target = (logs.sum(dim=1, keepdim=True) / heard.sum(dim=1, keepdim=True).clamp(min=1)).exp()
    return lam * torch.where(heard & (heard.sum(dim=1, keepdim=True) > 1), target / norms, 1.0)


def ratios(coefficients: Tensor, gram: Tensor, weight_norms: Tensor) -> Tensor:
    """||sum_i c_i dW_i|| / ||W|| for every layer, and 0 where ||W|| is 0, because nothing can be compared there.

    `coefficients` (L, K), `gram` (L, K, K), `weight_norms` (L,). Returns (L,).
    """
    energy = torch.einsum("lk,lkj,lj->l", coefficients, gram, coefficients).clamp(min=0)  # rounding may go below 0
    return torch.where(weight_norms > 0, energy.sqrt() / torch.where(weight_norms > 0, weight_norms, 1.0), 0.0)


def limited(coefficients: Tensor, layer_ratios: Tensor, limit: float) -> Tensor:
    """Coefficients (L, K) with every layer whose ratio (L,) exceeds `limit` scaled down to it by one common factor.

    One factor for a layer keeps the blend as it was asked for. Layers within the limit keep their bits.
    """
    over = layer_ratios > limit
    factor = torch.where(over, limit / torch.where(over, layer_ratios, 1.0), 1.0)
    return coefficients * factor[:, None]
