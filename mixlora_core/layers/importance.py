"""How much of a change of weight lies in its largest entries: what K-LoRA (arXiv 2502.18461) compares. Pure torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ENTRIES_AT_ONCE = 1 << 22
"""Of the full matrix, which is never whole in memory: 16 MB in fp32."""

LowRank = tuple[Tensor, Tensor, float]
"""up (out, r), down (r, in), factor: the change is factor * up @ down."""


class Magnitude(NamedTuple):
    """Sums of absolute entries of a matrix."""

    largest: float
    total: float


def rank_of(parts: Sequence[LowRank]) -> int:
    """The rank that a sum of low-rank changes has at most: theirs added."""
    return sum(len(down) for _, down, _ in parts)


def magnitude(parts: Sequence[LowRank], count: int, at_once: int = ENTRIES_AT_ONCE) -> Magnitude:
    """Of |sum of factor * up @ down|: the sum of the `count` largest entries, and of all.

    The matrix (out, in) is made once, some rows at a time, in fp32 where the factors lie. `count` above the number of
    entries means all. Returns zeros for no parts.
    """
    if not parts:
        return Magnitude(0.0, 0.0)
    up = torch.cat([up.float() * factor for up, _, factor in parts], 1)
    down = torch.cat([down.float() for _, down, _ in parts])
    rows = max(1, at_once // down.shape[1])
    best, total = up.new_zeros(0), 0.0
    for some in up.split(rows):
        entries = (some @ down).abs_().flatten()
        total += entries.sum(dtype=torch.float64).item()
        candidates = torch.cat([best, entries])
        best = candidates.topk(min(count, len(candidates)), sorted=False).values
    return Magnitude(best.sum(dtype=torch.float64).item(), total)
