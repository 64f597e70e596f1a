"""Tiny factors for tests of merges."""

from __future__ import annotations

import torch

OUT, INTO = 9, 14


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def change(rank, seed, into=INTO):
    return rand(OUT, rank, seed=seed), rand(rank, into, seed=seed + 50)


def dense(factors):
    return factors[0] @ factors[1]


def plain(changes):
    return torch.stack([dense(one) for one in changes]).sum(0)
