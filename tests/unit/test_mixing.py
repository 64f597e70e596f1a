"""Properties of the modes, and the Gram arithmetic against dense matrices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixlora.mixlora_core.mixing import modes

strengths = st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=6)
norms = st.lists(st.floats(0.05, 5.0), min_size=2, max_size=5)  # "public LoRAs differ tenfold", and more


@given(strengths)
def test_sum_gives_back_the_very_numbers(lam):
    assert modes.shared("sum", lam, 7.0) == lam
    assert torch.tensor(lam, dtype=torch.float64).tolist() == lam


@given(strengths, st.floats(0, 10))
def test_to_total_adds_up_and_keeps_shares_and_signs(lam, total):
    mixed = modes.to_total(lam, total)
    whole = sum(map(abs, lam))
    assert sum(map(abs, mixed)) == pytest.approx(total if whole else 0.0, rel=1e-6, abs=1e-300)
    for before, after in zip(lam, mixed, strict=True):
        assert before * after >= 0
        if whole:
            assert abs(after) == pytest.approx(abs(before) / whole * total, rel=1e-6, abs=1e-290)


@given(strengths)
def test_root_n_counts_only_who_speaks(lam):
    mixed = modes.root_n([*lam, 0.0])
    n = sum(value != 0 for value in lam)
    assert mixed == [value / math.sqrt(n) if n else 0.0 for value in [*lam, 0.0]]


@given(norms)
def test_equal_energy_makes_sizes_equal_and_gains_multiply_to_one(sizes):
    lam, table = torch.ones(len(sizes), dtype=torch.float64), torch.tensor([sizes], dtype=torch.float64)
    gains = modes.equal_energy(lam, table)
    heard = gains * table
    assert torch.allclose(heard, heard[:, :1].expand_as(heard))
    assert gains.log().sum().item() == pytest.approx(0, abs=1e-9)


@given(norms, st.floats(0.1, 10.0))
def test_equal_energy_does_not_care_how_loud_one_file_was_saved(sizes, scale):
    """Scaling one file moves the common level by scale^(1/K), and nothing else: the balance stays."""
    lam, table = torch.ones(len(sizes), dtype=torch.float64), torch.tensor([sizes], dtype=torch.float64)
    louder = table.clone()
    louder[0, 0] *= scale
    before, after = modes.equal_energy(lam, table) * table, modes.equal_energy(lam, louder) * louder
    assert torch.allclose(after, before * scale ** (1 / len(sizes)))


def test_equal_energy_leaves_single_silent_and_noisy_adapters_alone():
    lam = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    table = torch.tensor([[3.0, 0, 0], [0, 0, 0], [4.0, 1.0, 9.0], [4.0, 1e-9, 0]], dtype=torch.float64)
    expected = [[0.5, -2, 0], [0.5, -2, 0], [0.25, -4.0, 0], [0.5, -2, 0]]
    assert torch.allclose(modes.equal_energy(lam, table), torch.tensor(expected, dtype=torch.float64))


@given(st.integers(0, 10_000))
def test_equal_energy_follows_a_permutation(seed):
    generator = torch.Generator().manual_seed(seed)
    lam = torch.randn(4, generator=generator, dtype=torch.float64)
    table = torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.1
    order = torch.randperm(4, generator=generator)
    assert torch.allclose(modes.equal_energy(lam[order], table[:, order]), modes.equal_energy(lam, table)[:, order])


def test_ratios_and_limit_against_dense_matrices():
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(5, 3, 7, 6, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 7, 6, generator=generator, dtype=torch.float64)
    weights[4] = 0
    coefficients = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    flat = deltas.flatten(2)
    gram, weight_norms = flat @ flat.transpose(1, 2), weights.flatten(1).norm(dim=1)

    ratios = modes.ratios(coefficients, gram, weight_norms)
    dense = torch.einsum("lk,lkoi->loi", coefficients, deltas).flatten(1).norm(dim=1) / weight_norms
    assert torch.allclose(ratios[:4], dense[:4])
    assert ratios[4] == 0  # nothing to compare with

    limit = ratios[:4].median().item()
    held = modes.limited(coefficients, ratios, limit)
    after = modes.ratios(held, gram, weight_norms)
    assert torch.allclose(after, ratios.clamp(max=limit))
    within = ratios <= limit
    assert torch.equal(held[within], coefficients[within])
    assert torch.allclose(held / held[:, :1], coefficients / coefficients[:, :1])  # the blend stays the blend
