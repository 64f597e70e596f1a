"""SSR-Merge on tiny factors, against dense matrices and least squares."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from mixlora.mixlora_core.merging import ssr
from mixlora.mixlora_core.merging.ssr import SILENT, SUM, Convolution, SSRSettings, Statistics

from .merging_factors import INTO, change, dense, plain, rand

EXACT = SSRSettings(1e-13)


def heard(changes, inputs):
    """The statistics of runs whose inputs are the rows of `inputs`."""
    down = torch.cat([down for _, down in changes])
    statistics = Statistics([len(down) for _, down in changes])
    for index, x in enumerate(inputs):
        z = x @ down.T
        statistics.add(index, z.T @ z / len(z))
    return statistics


def merged(changes, matrix):
    ups = ssr.routed([up for up, _ in changes], matrix)
    return plain([(up, down) for up, (_, down) in zip(ups, changes, strict=True)])


def apart(ranks=(2, 3)):
    """Adapters, and inputs of each in a subspace of its own; all these subspaces are orthogonal."""
    basis = torch.linalg.qr(rand(INTO, INTO, seed=9))[0]
    parts = basis[:, : sum(ranks)].split(list(ranks), 1)
    inputs = [rand(40, rank, seed=20 + at) @ part.T for at, (rank, part) in enumerate(zip(ranks, parts, strict=True))]
    return [change(rank, at) for at, rank in enumerate(ranks)], inputs


def test_inputs_apart_meet_their_own_adapter_only():
    changes, inputs = apart((2, 3, 1))
    statistics = heard(changes, inputs)
    matrix = ssr.router(statistics, EXACT)
    whole, added = merged(changes, matrix), plain(changes)
    for own, x in zip(changes, inputs, strict=True):
        alone = x @ dense(own).T
        assert (x @ whole.T - alone).norm() <= 1e-6 * alone.norm()
        assert (x @ added.T - alone).norm() > 0.5 * alone.norm()
    assert ssr.misses(changes, statistics, matrix) <= 1e-5
    assert ssr.misses(changes, statistics, 1.0) > 0.5


def test_the_router_is_the_least_squares_solution():
    changes = [change(2, 0), change(3, 1)]
    inputs = [rand(30, INTO, seed=2), rand(30, INTO, seed=3) + 1]  # the same number: all inputs count alike
    down = torch.cat([down for _, down in changes])
    signals = [x @ down.T for x in inputs]
    wanted = [torch.zeros_like(z) for z in signals]
    wanted[0][:, :2], wanted[1][:, 2:] = signals[0][:, :2], signals[1][:, 2:]
    reference = torch.linalg.lstsq(torch.cat(signals), torch.cat(wanted)).solution.T
    torch.testing.assert_close(ssr.router(heard(changes, inputs), EXACT), reference, rtol=1e-7, atol=1e-8)


def test_shared_inputs_get_the_mean_of_the_adapters():
    changes, x = [change(2, 0), change(3, 1)], rand(60, INTO, seed=2)
    whole = merged(changes, ssr.router(heard(changes, [x, x]), EXACT))
    torch.testing.assert_close(whole, plain(changes) / 2)


@pytest.mark.parametrize("unseen, limit", [(SILENT, 0.0), (SUM, 1.0)])
def test_a_large_ridge_has_seen_nothing(unseen, limit):
    changes, inputs = apart()
    matrix = ssr.router(heard(changes, inputs), SSRSettings(1e9, unseen))
    torch.testing.assert_close(matrix, limit * torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-7)


def test_what_no_run_has_shown_is_silent_or_summed():
    changes, inputs = [change(3, 0), change(3, 1)], [rand(1, INTO, seed=2), rand(1, INTO, seed=3)]  # G has rank 2 of 6
    statistics = heard(changes, inputs)
    size = statistics.gram.diagonal().reshape(2, 3).mean(1).sqrt().repeat_interleave(3)[:, None]
    shown = torch.linalg.qr(torch.cat([down for _, down in changes]) @ torch.cat(inputs).T / size)[0]
    z = rand(6, 1, seed=4)
    z = (z - shown @ (shown.T @ z)) * size  # orthogonal to all that was shown, where blocks have one size
    assert (ssr.router(statistics, SSRSettings(1e-6, SILENT)) @ z).norm() <= 1e-5 * z.norm()
    torch.testing.assert_close(ssr.router(statistics, SSRSettings(1e-6, SUM)) @ z, z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unseen", [SILENT, SUM])
def test_neither_order_nor_the_split_of_a_files_size_matters(unseen):
    settings = SSRSettings(0.05, unseen)
    changes = [change(2, 0), change(3, 1), change(1, 2)]
    inputs = [rand(20 + 10 * at, INTO, seed=30 + at) for at in range(3)]
    whole = merged(changes, ssr.router(heard(changes, inputs), settings))
    order = [2, 0, 1]
    other, moved = [changes[at] for at in order], [inputs[at] for at in order]
    torch.testing.assert_close(merged(other, ssr.router(heard(other, moved), settings)), whole)
    split = [(up * size, down / size) for (up, down), size in zip(changes, (1e-3, 1.0, 50.0), strict=True)]
    torch.testing.assert_close(merged(split, ssr.router(heard(split, inputs), settings)), whole)


def test_an_adapter_that_hears_nothing_disturbs_nobody():
    changes, inputs = apart()
    changes[1], inputs[1] = (changes[1][0], torch.zeros_like(changes[1][1])), torch.zeros_like(inputs[1])
    whole = merged(changes, ssr.router(heard(changes, inputs), EXACT))
    torch.testing.assert_close(inputs[0] @ whole.T, inputs[0] @ dense(changes[0]).T)


def test_misses_are_those_of_dense_matrices():
    changes, inputs = [change(2, 0), change(3, 1)], [rand(25, INTO, seed=2), rand(25, INTO, seed=3)]
    statistics = heard(changes, inputs)
    matrix = ssr.router(statistics, SSRSettings(0.1))
    for route in (1.0, 0.5, matrix):
        whole = merged(changes, route) if isinstance(route, torch.Tensor) else plain(changes) * route
        pairs = list(zip(changes, inputs, strict=True))
        off = torch.cat([x @ (whole - dense(own)).T for own, x in pairs]).norm()
        alone = torch.cat([x @ dense(own).T for own, x in pairs]).norm()
        assert ssr.misses(changes, statistics, route) == pytest.approx((off / alone).item(), rel=1e-8)
    nobody = [(torch.zeros_like(up), down) for up, down in changes]
    assert ssr.misses(nobody, statistics, 1.0) == 0


@pytest.mark.parametrize("stride, padding, dilation, kernel", [(1, 1, 1, 3), (2, 1, 1, 3), (1, 2, 2, 3), (1, 0, 1, 1)])
def test_signals_of_a_convolution_are_those_of_unfolded_patches(stride, padding, dilation, kernel):
    x, down = rand(2, 5, 8, 6).float(), rand(4, 5 * kernel * kernel, seed=1).float()
    how = Convolution((kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2)
    found = ssr.signals(x, down, how)
    patches = F.unfold(x, kernel, dilation, padding, stride)  # (2, in * kernel, places)
    torch.testing.assert_close(found, (down @ patches).movedim(1, 2).reshape(-1, 4), rtol=1e-5, atol=1e-5)


def test_signals_of_a_linear_layer_keep_their_digits_in_half_precision():
    x, down = rand(2, 7, INTO).half(), rand(3, INTO, seed=1).half()
    with torch.autocast("cpu", torch.bfloat16):
        found = ssr.signals(x, down, None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x.reshape(-1, INTO).float() @ down.float().T)
