"""Rates, noise, targets and weights of the loss, as formulas."""

import itertools
from dataclasses import replace

import pytest
import torch
from mixlora.training.objective import learning_rate, min_snr_weight, noisy_and_target
from mixlora.training.settings import TrainSettings

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


def test_schedules():
    settings = TrainSettings(steps=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and 0 < rates[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert learning_rate(replace(settings, schedule="constant"), 99) == 1.0
    assert learning_rate(replace(settings, schedule="linear"), 55) == pytest.approx(0.5)
    assert learning_rate(replace(settings, schedule="polynomial", power=3.0), 55) == pytest.approx(0.125)
    restarts = replace(settings, schedule="cosine_with_restarts", cycles=3)
    assert [learning_rate(restarts, step) for step in (10, 25, 40)] == pytest.approx([1.0, 0.5, 1.0])
    assert learning_rate(restarts, 39) < 0.01
    assert learning_rate(replace(settings, warmup=0.0), 0) == 1.0


def test_noise_target_and_weights():
    x0, noise, signal_share = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), ALPHAS[[0, 500, 999]]
    a, b = signal_share.sqrt().view(-1, 1, 1, 1), (1 - signal_share).sqrt().view(-1, 1, 1, 1)
    noisy, target = noisy_and_target(x0, noise, signal_share, "epsilon")
    torch.testing.assert_close((noisy - b * target) / a, x0, rtol=1e-3, atol=1e-4)
    noisy, target = noisy_and_target(x0, noise, signal_share, "v_prediction")
    torch.testing.assert_close(a * noisy - b * target, x0, rtol=1e-4, atol=1e-5)
    snr = signal_share / (1 - signal_share)
    weights = min_snr_weight(signal_share, 5.0, "epsilon")
    torch.testing.assert_close(weights, torch.tensor([5 / snr[0], 1.0, 1.0]))
    torch.testing.assert_close(min_snr_weight(signal_share, 5.0, "v_prediction"), snr.clamp(max=5) / (snr + 1))
    assert torch.equal(min_snr_weight(signal_share, 0.0, "epsilon"), torch.ones(3))
