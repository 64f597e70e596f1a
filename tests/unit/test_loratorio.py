"""LoRAtorio: who counts where, against the formula written with loops; its branches, limits and bad input."""

import math
from itertools import permutations, product

import pytest
import torch
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.methods import method, policy
from mixlora.mixlora_core.composition import NEGATIVE, POSITIVE
from mixlora.mixlora_core.composition.fusion import Moment
from mixlora.mixlora_core.composition.loratorio import LoRAtorio, departure, shares, smooth
from mixlora.mixlora_core.errors import CompositionError

LARGE, SMALL = 1e6, 1e-6


def pictures(count, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def fused(composition, predictions, noisy, side=POSITIVE):
    """The fusion of a side; predictions are those of its branches, sorted as adapters and then the base."""
    branches = [branch for branch in composition.branches(0, 1) if branch.side == side]
    places = [composition.adapters if branch.text is None else branch.text for branch in branches]
    return composition.fusion([predictions[place] for place in places], branches, Moment(0, 1, noisy))


def by_loops(predictions, noisy, patch, temperature, relative, compared):
    """The positive side by its definition: one patch, one adapter, one pixel at a time, in double precision."""
    *voices, base = [made.double() for made in predictions]
    rows, _, height, width = base.shape
    down, across = math.ceil(height / patch), math.ceil(width / patch)
    result = torch.zeros_like(base)
    for row in range(rows):
        departed = torch.zeros(len(voices), down, across, dtype=torch.float64)
        for i, y, x in product(range(len(voices)), range(down), range(across)):
            window = slice(y * patch, (y + 1) * patch), slice(x * patch, (x + 1) * patch)
            one, other = (
                (noisy.double() - made if compared == "noise" else made)[(row, slice(None), *window)].flatten()
                for made in (voices[i], base)
            )
            departed[i, y, x] = 1 - one @ other / (one @ one).sqrt() / (other @ other).sqrt()
        weights = (departed / temperature / (departed.mean() if relative else 1)).exp()
        weights /= weights.sum(0)
        for y, x in product(range(height), range(width)):
            v, h = ((at + 0.5) / patch - 0.5 for at in (y, x))
            v, h = min(max(v, 0), down - 1), min(max(h, 0), across - 1)
            top, left = min(int(v), max(down - 2, 0)), min(int(h), max(across - 2, 0))
            for i, one in enumerate(voices):
                weight = sum(
                    (1 - abs(v - at)) * (1 - abs(h - beside)) * weights[i, at, beside]
                    for at in {top, min(top + 1, down - 1)}
                    for beside in {left, min(left + 1, across - 1)}
                )
                result[row, :, y, x] += weight * one[row, :, y, x]
    return result.float()


@pytest.mark.parametrize("patch", [1, 2, 3, 50])
@pytest.mark.parametrize(("relative", "temperature"), [(True, 0.7), (False, 0.3)])
@pytest.mark.parametrize("compared", ["noise", "clean"])
def test_the_positive_side_is_the_formula(patch, relative, temperature, compared):
    *predictions, noisy = pictures(5, 2, 4, 7, 5)
    composition = LoRAtorio(3, patch, temperature, relative, compared=compared)
    expected = by_loops(predictions, noisy, min(patch, 7), temperature, relative, compared)
    assert torch.allclose(fused(composition, predictions, noisy), expected, atol=2e-5)


def test_patches_are_an_eighth_of_the_shorter_side():
    for height, width, patch in ((16, 16, 2), (64, 64, 8), (40, 24, 3), (5, 9, 1)):
        *predictions, noisy = pictures(4, 1, 4, height, width)
        given = [fused(LoRAtorio(2, size, 0.3), predictions, noisy) for size in (0, patch, patch + 1)]
        assert torch.equal(given[0], given[1]) and not torch.equal(given[0], given[2])


@pytest.mark.parametrize("top", [0, 1, 2])
def test_weights_sum_to_one_in_patches_and_pixels(top):
    base, *voices = pictures(5, 3, 4, 9, 14)
    departed = torch.stack([departure(base, one, 4) for one in voices], 1)
    assert departed.shape == (3, 4, 3, 4)
    weights = shares(departed, 0.4, top=top)
    pixels = smooth(weights, 4, 9, 14)
    assert pixels.shape == (3, 4, 9, 14) and pixels.min() >= 0
    assert torch.allclose(weights.sum(1), torch.ones(3, 3, 4)) and torch.allclose(pixels.sum(1), torch.ones(3, 9, 14))
    for position in product(range(3), range(3), range(4)):
        row, y, x = position
        ranked = departed[row, :, y, x].argsort(descending=True)
        assert (weights[row, ranked, y, x].diff() <= 0).all()
        assert ((weights[row, ranked, y, x] > 0).sum() == top) or not top


def test_adapters_that_tie_for_the_last_place_all_count():
    departed = torch.tensor([0.2, 0.5, 0.5, 0.1]).view(1, 4, 1, 1)
    assert shares(departed, 1.0, top=1).flatten().tolist() == [0.0, 0.5, 0.5, 0.0]
    assert torch.equal(shares(departed, 1.0, top=4), shares(departed, 1.0)) and shares(departed, 1.0, top=9).min() > 0


def test_an_adapter_that_predicts_what_the_base_does_counts_least():
    base, first, second = pictures(3, 1, 4, 8, 8)
    departed = torch.stack([departure(base, one, 2) for one in (first, base.clone(), second)], 1)
    assert (departed[:, 1] == 0).all()
    weights = shares(departed, 1.0)
    assert (weights.argmin(1) == 1).all()


def test_departure_resolves_what_a_cosine_in_single_precision_does_not():
    base, change = pictures(2, 1, 4, 8, 8)
    near = base + 1e-5 * change
    a, b = base.double().flatten(), near.double().flatten()
    expected = 0.5 * ((a / a.norm() - b / b.norm()) ** 2).sum()
    assert departure(base, near, 8).item() == pytest.approx(expected.item(), rel=1e-2)
    assert 1 - torch.cosine_similarity(base.flatten(), near.flatten(), 0) != pytest.approx(expected.item(), rel=0.5)


@pytest.mark.parametrize("relative", [True, False])
def test_limits_of_the_temperature(relative):
    *predictions, noisy = pictures(5, 1, 4, 8, 8)
    warm = fused(LoRAtorio(3, 2, LARGE, relative), predictions, noisy)
    assert torch.allclose(warm, torch.stack(predictions[:3]).mean(0), atol=1e-5)
    noises = [noisy - one for one in predictions]
    departed = torch.stack([departure(noises[3], one, 8) for one in noises[:3]])
    cold = fused(LoRAtorio(3, 8, SMALL, relative), predictions, noisy)
    assert torch.equal(cold, predictions[departed.flatten().argmax()])
    finite = fused(LoRAtorio(3, 2, 1e-300, relative), predictions, noisy)
    assert finite.isfinite().all()


def test_a_relative_temperature_means_the_same_at_any_strength():
    base, *changes = pictures(4, 1, 4, 8, 8)
    weights = []
    for strength in (1e-2, 1e-3):
        departed = torch.stack(
            [departure(base, base + strength * size * one, 2) for size, one in enumerate(changes)], 1
        )
        weights.append(shares(departed, 1.0))
    assert torch.allclose(*weights, atol=0.02) and weights[0].std() > 0.1


def test_one_adapter_is_its_own_prediction():
    alone, base, noisy = pictures(3, 1, 4, 8, 8)
    composition = LoRAtorio(1, anchor=0.25)
    assert fused(composition, [alone], noisy) is alone
    assert torch.allclose(fused(composition, [alone, base], noisy, NEGATIVE), 0.25 * base + 0.75 * alone)


def test_the_negative_side_is_anchored_in_the_base():
    *predictions, noisy = pictures(4, 2, 4, 8, 8)
    positive = fused(LoRAtorio(2, 2), predictions, noisy)
    for anchor in (0.0, 0.3, 0.5):
        negative = fused(LoRAtorio(2, 2, anchor=anchor), predictions, noisy, NEGATIVE)
        assert torch.allclose(negative, anchor * predictions[-1] + (1 - anchor) * positive, atol=1e-6)


def test_pictures_of_a_batch_know_nothing_of_each_other():
    *predictions, noisy = pictures(4, 2, 4, 8, 8)
    predictions[0][1] *= 30  # departs far more in the second picture
    both = fused(LoRAtorio(2), predictions, noisy)
    for row in range(2):
        alone = fused(LoRAtorio(2), [one[row : row + 1] for one in predictions], noisy[row : row + 1])
        assert torch.allclose(both[row : row + 1], alone, atol=1e-5)


def test_the_order_of_the_adapters_does_not_matter():
    *voices, base, noisy = pictures(5, 1, 4, 7, 8)
    given = [fused(LoRAtorio(3, 2, top=2), [*order, base], noisy) for order in permutations(voices)]
    assert all(torch.allclose(one, given[0], atol=1e-6) for one in given)


def test_frames_are_weighed_one_by_one():
    *predictions, noisy = pictures(4, 1, 4, 3, 6, 6)
    film = fused(LoRAtorio(2, 2, 0.1, relative=False), predictions, noisy)
    for frame in range(3):
        still = fused(
            LoRAtorio(2, 2, 0.1, relative=False), [one[:, :, frame] for one in predictions], noisy[:, :, frame]
        )
        assert torch.allclose(film[:, :, frame], still, atol=1e-6)


def test_where_a_cosine_is_undefined():
    zero, one, noisy = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    assert (departure(zero, zero, 2) == 0).all() and (departure(zero, one, 2) == 0.5).all()
    assert torch.equal(fused(LoRAtorio(2), [zero, zero, zero], noisy), zero)
    departed = torch.zeros(1, 3, 2, 2)
    assert torch.equal(shares(departed, 1.0), torch.full_like(departed, 1 / 3))
    assert torch.equal(fused(LoRAtorio(2, temperature=SMALL), [one, zero, zero], noisy), one)
    same = fused(LoRAtorio(2), [one, one, one], noisy)  # no adapter departs anywhere
    assert torch.allclose(same, one)


def test_half_precision_stays_and_is_weighed_in_single():
    *predictions, noisy = [one.half() for one in pictures(4, 1, 4, 8, 8)]
    ours = fused(LoRAtorio(2), predictions, noisy)
    assert ours.dtype == torch.half
    single = fused(LoRAtorio(2), [one.float() for one in predictions], noisy.float())
    assert torch.allclose(ours.float(), single, atol=2e-3)


def test_inputs_are_left_alone():
    *predictions, noisy = pictures(4, 1, 4, 8, 8)
    before = [one.clone() for one in (*predictions, noisy)]
    for side in (POSITIVE, NEGATIVE):
        fused(LoRAtorio(2), predictions, noisy, side)
    assert all(torch.equal(one, other) for one, other in zip(before, (*predictions, noisy), strict=True))


def test_branches():
    def sides(composition):
        told = composition.branches(3, 10, 7.0)
        return [
            {(branch.coefficients, branch.text) for branch in told if branch.side == side}
            for side in (POSITIVE, NEGATIVE)
        ]

    alone = {((1.0, 0.0), 0), ((0.0, 1.0), 1)}
    base = {((0.0, 0.0), None)}
    assert sides(LoRAtorio(2)) == [alone | base, alone | base]
    assert sides(LoRAtorio(2, anchor=0.0)) == [alone | base, alone | base]  # the weights need it
    assert sides(LoRAtorio(2, anchor=1.0)) == [alone | base, base]
    assert sides(LoRAtorio(2, anchor=0.5, merged=True)) == [alone | base, {((0.25, 0.25), None)}]
    assert sides(LoRAtorio(1)) == [{((1.0,), 0)}, {((1.0,), 0), ((0.0,), None)}]
    assert sides(LoRAtorio(1, anchor=0.0)) == [{((1.0,), 0)}, {((1.0,), 0)}]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"adapters": 0}, "stack is empty"),
        ({"patch": -1}, "patch is -1; expected 1 latent pixel or more"),
        ({"temperature": 0.0}, r"temperature is 0.0; expected a finite number above 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top": -2}, "top is -2"),
        ({"compared": "pixels"}, "compared is 'pixels'; expected 'noise' or 'clean'"),
        ({"anchor": 1.5}, "anchor is 1.5; expected a share from 0 to 1"),
        ({"anchor": math.nan}, "anchor is nan"),
    ],
)
def test_what_cannot_be_composed_is_refused(parameters, message):
    with pytest.raises(CompositionError, match=message):
        LoRAtorio(**{"adapters": 2, **parameters})


def test_latents_without_places_are_refused():
    *predictions, noisy = pictures(4, 1, 64, 100)
    with pytest.raises(CompositionError, match=r"shape \(1, 64, 100\), expected \(rows, channels"):
        fused(LoRAtorio(2), predictions, noisy)


def test_the_testbed_counts_evaluations_and_checks_parameters():
    def cost(adapters, guidance=7.0, **parameters):
        return policy(method("loratorio", parameters, 0.8)).evaluations(adapters, 50, guidance)

    assert cost(3) == 4 and cost(3, merged=True) == 2.5 and cost(3, anchor=1) == 2.5  # pairs of 2N + 2 and N + 2
    assert cost(3, guidance=1.0) == 4 and cost(1) == 1.5 and cost(1, guidance=1.0) == 1
    with pytest.raises(EvaluationError, match=r"temperature is -1\.0"):
        method("loratorio", {"temperature": -1}, 0.8)
