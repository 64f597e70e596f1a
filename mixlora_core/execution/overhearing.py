"""Overhears the cross-attention of a forward: how much every place looks at the words that name each adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.ldm.modules.attention import CrossAttention
from torch import Tensor, nn

from ..regions.attention_masks import Grid
from ..regions.words import Positions
from .executor import Speech
from .places import Places, override, split


@dataclass(eq=False)
class Heard:
    """What a run has heard so far: sums of maps for each grid, over heads, layers, steps and prompts."""

    named: tuple[bool, ...] = ()
    """Whether any prompt names each adapter."""
    _sums: dict[Grid, tuple[Tensor, int]] = field(default_factory=dict)

    def name(self, words: Positions) -> None:
        """Takes in whom a prompt names."""
        known = self.named or (False,) * len(words)
        self.named = tuple(bool(at) or one for at, one in zip(words, known, strict=True))

    def add(self, grid: Grid, maps: Tensor) -> None:
        """Takes in maps (pictures, adapters, h, w)."""
        total, count = self._sums.get(grid, (torch.zeros_like(maps), 0))
        self._sums[grid] = (total + maps, count + 1)

    @property
    def maps(self) -> dict[Grid, Tensor]:
        """The mean maps."""
        return {grid: total / count for grid, (total, count) in self._sums.items()}


@contextmanager
def overhearing(
    model: nn.Module, speeches: Sequence[Speech], each: int, options: dict[str, Any], heard: Heard
) -> Iterator[None]:
    """Around one forward: notes the attention of the rows whose speech says where the words are."""
    told = [(number, one.words) for number, one in enumerate(speeches) if one.words]
    if not told:
        yield
        return
    for _, words in told:
        heard.name(words)
    places = Places()
    with ExitStack() as handles:
        names = (name for name, module in model.named_modules() if isinstance(module, CrossAttention))
        places.watch(model, [name for name in names if name.endswith(".attn2")], handles)

        def attention(
            compute: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
        ) -> Tensor:
            grid = places.grid
            if places.attention and grid and q.shape[1] == grid[0] * grid[1]:
                for number, words in told:
                    rows = slice(number * each, (number + 1) * each)
                    heard.add(grid, attended(q[rows], k[rows], heads, words).unflatten(-1, grid))
            return compute(q, k, v, heads, *args, **kwargs)

        override(options, attention, handles)
        yield


def attended(q: Tensor, k: Tensor, heads: int, words: Positions) -> Tensor:
    """How much of its attention each place gives to each adapter's words, over heads: (rows, adapters, places)."""
    q, k = split(q, heads), split(k, heads)
    shares = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).float().softmax(-1).mean(1)
    return torch.stack([shares[..., list(at)].sum(-1) for at in words], 1)
