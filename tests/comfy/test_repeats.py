"""Chunks that repeat one another are computed once, and nobody can tell from what comes out."""

from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture
def repeats() -> Any:
    """The module; its package needs ComfyUI."""
    from mixlora.mixlora_core.execution import repeats

    return repeats


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def batch(order: str) -> torch.Tensor:
    """Two rows for each letter, alike for the same letter."""
    rows = {letter: torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(ord(letter))) for letter in order}
    return torch.cat([rows[letter] for letter in order])


def computed(repeats, layer, compositions: int, x: torch.Tensor, chunks: int) -> tuple[torch.Tensor, int, list]:
    """A layer's output within so many compositions, how many rows it computed, and what each chunk had given."""
    rows, given = [], []

    def undo(module, inputs, output):
        rows.append(len(output))
        given[:], output = repeats.for_each_chunk(inputs[0], output, chunks)
        return output

    for _ in range(compositions):
        layer.register_forward_pre_hook(repeats.each_once(chunks))
    for _ in range(compositions):
        layer.register_forward_hook(undo)
    return layer(x), rows[0], given


@pytest.mark.parametrize("compositions", [1, 2])
@pytest.mark.parametrize(("order", "distinct"), [("AAB", 2), ("ABA", 2), ("AAA", 1), ("ABC", 3)])
def test_repeated_chunks_are_computed_once(repeats, layer, order, distinct, compositions):
    x = batch(order)
    expected = layer(x)
    output, rows, given = computed(repeats, layer, compositions, x, len(order))
    assert rows == 2 * distinct
    torch.testing.assert_close(output, expected)
    assert all(torch.equal(own, chunk) for own, chunk in zip(given, x.chunk(len(order)), strict=True))


def test_chunks_that_differ_in_one_number_are_not_the_same(repeats, layer):
    x = batch("AA")
    x[-1, -1, -1] += 1e-6
    assert computed(repeats, layer, 1, x, 2)[1] == 4


def test_who_knows_nothing_of_chunks_gets_all_rows_back(repeats, layer):
    x = batch("ABAB")
    (kept,) = repeats.each_once(4)(layer, (x,))
    assert len(kept) == 4
    torch.testing.assert_close(repeats.restored(kept, layer(kept)), layer(x))
    assert repeats.restored(x, x) is x, "what left nothing out is as it was"
