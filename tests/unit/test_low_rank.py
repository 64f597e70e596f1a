"""Sums of low-rank changes: exact side by side, the best possible at a lower rank, errors as they are."""

import pytest
import torch
from mixlora.mixlora_core import low_rank


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(rank, seed, out=40, into=30):
    return rand(out, rank, seed=seed), rand(rank, into, seed=seed + 100)


def best(matrix, rank):
    """||matrix - nearest matrix of that rank||, by Eckart and Young."""
    return torch.linalg.svdvals(matrix.double())[rank:].norm().item()


def test_side_by_side_is_the_signed_sum():
    parts = [(*pair(2, 0), 0.5), (*pair(3, 1), -1.25), (*pair(4, 2), 0.0)]
    up, down = low_rank.concatenated([(u.float(), d.float(), c) for u, d, c in parts])
    assert up.shape == (40, 9) and down.shape == (9, 30)
    torch.testing.assert_close(up @ down, sum(c * u @ d for u, d, c in parts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 5, 12, 40])
@pytest.mark.parametrize("total", [12, 50])  # more than the matrix is wide, too
def test_shortened_is_the_nearest_of_its_rank(rank, total):
    factors = pair(total, 7)
    short = low_rank.shortened(factors, rank)
    matrix = factors[0] @ factors[1]
    assert short[0].shape[1] == min(rank, 30, total)
    error = (matrix - short[0] @ short[1]).norm().item()
    assert error == pytest.approx(best(matrix, rank), abs=1e-9 * matrix.norm().item())
    assert low_rank.distance(factors, short) == pytest.approx(error, abs=1e-7 * matrix.norm().item())


@pytest.mark.parametrize("fall", [0.0, 0.5, 1.0, 3.0])
def test_a_full_matrix_comes_within_a_thousandth_of_the_best(fall):
    """Singular values k^-fall: from white noise to a nearly low-rank change."""
    q, _ = torch.linalg.qr(rand(200, 160))
    p, _ = torch.linalg.qr(rand(160, 160, seed=1))
    matrix = (q * torch.arange(1, 161).double() ** -fall @ p.T).float()
    for rank in (4, 16, 64):  # the last takes the whole SVD
        up, down = low_rank.factored(matrix, rank)
        error = (matrix.double() - up @ down).norm().item()
        assert best(matrix, rank) * (1 - 1e-5) <= error <= best(matrix, rank) * 1.001 + 1e-6
        assert torch.equal(up, low_rank.factored(matrix, rank)[0])


def test_factoring_leaves_everybody_elses_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    low_rank.factored(rand(200, 160), 4)
    assert torch.equal(torch.rand(2), expected)


def test_balancing_moves_size_but_no_digit():
    up, down = pair(4, 3)
    up, down = (up * torch.tensor([1e-6, 1, 1e6, 0])).float().double(), down.float().double()
    even = low_rank.balanced((up, down))
    assert torch.equal(even[0] @ even[1], up @ down)
    long, wide = even[0].norm(dim=0)[:3], even[1].norm(dim=1)[:3]
    assert ((long / wide).log2().abs() <= 1).all() and torch.isfinite(even[0]).all() and torch.isfinite(even[1]).all()
    assert torch.equal(even[0].float().double(), even[0])


def test_norms_and_distances():
    one, other = pair(3, 5), pair(6, 6)
    assert low_rank.norm(one) == pytest.approx((one[0] @ one[1]).norm().item())
    assert low_rank.distance(one, other) == pytest.approx((one[0] @ one[1] - other[0] @ other[1]).norm().item())
    assert low_rank.distance(one, one) <= 1e-7 * low_rank.norm(one)
