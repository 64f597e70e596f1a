"""Means of predictions."""

import torch
from mixlora.mixlora_core.composition import fusion


def test_one_prediction_stays_as_it_is():
    one = torch.randn(3)
    assert fusion.mean([one], [0.3]) is one


def test_a_mean_of_means_is_the_mean_of_all():
    parts, weights = list(torch.randn(5, 4, dtype=torch.float64)), [1.0, 2.0, 0.5, 3.0, 1.5]
    whole = torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(0) / sum(weights)
    first, rest = fusion.mean(parts[:2], weights[:2]), fusion.mean(parts[2:], weights[2:])
    assert torch.allclose(fusion.mean(parts, weights), whole)
    assert torch.allclose(fusion.mean([first, rest], [sum(weights[:2]), sum(weights[2:])]), whole)


def test_inputs_are_left_alone():
    parts = [torch.ones(2), torch.zeros(2)]
    fusion.mean(parts, [1.0, 1.0])
    assert parts[0].tolist() == [1.0, 1.0]
