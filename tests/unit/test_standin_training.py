"""What the stand-in's recipe is built of: optimiser, resumable runs, 8-bit weights, the seeded text encoder."""

from __future__ import annotations

import hashlib

import pytest
import torch
from mixlora.standin.base import Plan, alphas_cumprod, loss_weights
from mixlora.standin.muon import Optimiser, orthogonal
from mixlora.standin.text_encoder import LAYERS, PREFIX, text_encoder
from mixlora.standin.weights import dequantise, quantise
from mixlora.standin.workshop import Run


@pytest.mark.parametrize("shape", [(48, 200), (200, 48), (64, 64)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(orthogonal(matrix), full_matrices=False)
    assert values.max() < 1.8  # the polynomials overshoot to 1.6; bfloat16 adds a little
    assert values.median() > 0.5
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.linalg.norm(left @ right - u @ v) / torch.linalg.norm(u @ v) < 0.15


def train(path, steps: int, stop_after: int | None = None) -> torch.nn.Module:
    """A tiny regression through Run; `stop_after` steps it is killed."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.ReLU(), torch.nn.Linear(40, 1))
    optimiser = Optimiser(module, 0.02, 1e-2, steps, warmup=2)
    run = Run(path, steps, 0, optimiser, module.state_dict, module.load_state_dict, every=0)
    for step in run:
        if step == stop_after:
            return module
        x = torch.randn(16, 40, generator=run.generator(step))
        (module(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimiser.step(step)
    return module


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole.safetensors", 12)
    train(tmp_path / "killed.safetensors", 12, stop_after=7)
    resumed = train(tmp_path / "killed.safetensors", 12)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_run_does_nothing_again(tmp_path):
    first = train(tmp_path / "run.safetensors", 5)
    again = train(tmp_path / "run.safetensors", 5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_eight_bits_keep_a_weight_within_half_a_step_of_its_row():
    weights = {"w": torch.randn(8, 3, 3, 3), "bias": torch.randn(8), "zero": torch.zeros(2, 4)}
    packed = quantise(weights)
    assert packed["w"].dtype == torch.int8 and packed["bias"].dtype == torch.float16
    back = dequantise(packed)
    assert set(back) == set(weights)
    largest = weights["w"].flatten(1).abs().amax(1)
    error = (back["w"].float() - weights["w"]).flatten(1).abs().amax(1)
    assert (error <= largest / 127 * 0.52 + 1e-3 * largest).all()
    assert torch.equal(back["zero"], torch.zeros(2, 4, dtype=torch.float16))


def test_loss_weights_follow_min_snr_and_then_also_the_share_of_signal():
    plan = Plan("test", steps=20, matrix_lr=0.01, other_lr=1e-3, balance_from=10, balance_limit=16.0)
    kept = alphas_cumprod()[[20, 400, 999]]
    early, late = loss_weights(plan, 9, kept), loss_weights(plan, 10, kept)
    snr = kept / (1 - kept)
    assert torch.allclose(early, torch.tensor([5 / snr[0].item(), 1.0, 1.0]))
    assert late[1] == pytest.approx(1 / kept[1].item())
    assert late[2] == pytest.approx(plan.balance_limit)


def test_text_encoder_is_whole_and_the_same_for_the_same_seed():
    weights = text_encoder()
    assert len(weights) == 2 + LAYERS * 16 + 2
    embedding = weights[PREFIX + "embeddings.token_embedding.weight"]
    assert embedding.shape == (49408, 768)
    assert hashlib.sha256(embedding[:100].numpy().tobytes()).hexdigest()[:16] == "3abe3b206240381b"
    assert torch.equal(embedding[-1], text_encoder()[PREFIX + "embeddings.token_embedding.weight"][-1])
