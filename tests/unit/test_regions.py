"""Masks on any grid, masks from maps of attention, words in a prompt, and what is refused."""

import math

import pytest
import torch
from mixlora.mixlora_core.composition import Branch, Regional
from mixlora.mixlora_core.errors import CompositionError
from mixlora.mixlora_core.regions.attention_masks import FromAttention, blurred
from mixlora.mixlora_core.regions.masks import SHARE, Regions, averages
from mixlora.mixlora_core.regions.words import naming


@pytest.mark.parametrize(("size", "cells"), [(8, 4), (8, 8), (4, 8), (9, 5), (5, 9), (64, 7), (1, 3)])
def test_averages_are_the_integral_over_each_cell(size, cells):
    """Against a sum over fine slices, for sizes that divide and those that do not."""
    fine = 2520
    slices = torch.arange(size * fine) // fine  # the sample that each slice lies in
    expected = torch.zeros(cells, size, dtype=torch.float64)
    for place, sample in enumerate(slices.tolist()):
        expected[place * cells // len(slices), sample] += cells / len(slices)
    assert torch.allclose(averages(size, cells), expected, atol=2e-3)
    assert torch.allclose(averages(size, cells).sum(1), torch.ones(cells, dtype=torch.float64))


def test_masks_of_different_sizes_on_one_grid():
    left = torch.zeros(6, 4)
    left[:, :2] = 1
    right = torch.zeros(50, 30)
    right[:, 15:] = 0.5
    placed = Regions((left, None, right)).at((3, 8))
    assert placed.shape == (1, 3, 3, 8)
    for row in range(3):
        assert placed[0, 0, row].tolist() == [1.0] * 4 + [0.0] * 4
        assert placed[0, 1, row].tolist() == [1.0] * 8
        assert placed[0, 2, row].tolist() == pytest.approx([0.0] * 4 + [0.5] * 4)


def test_a_window_shows_its_part_of_the_mask():
    mask = torch.arange(16.0).view(4, 4) / 16
    assert torch.allclose(Regions((mask,)).at((2, 1), (0.5, 0.75, 1.0, 1.0))[0, 0], mask[2:, 3:])


def test_the_mean_of_a_mask_is_what_one_cell_gets():
    mask = torch.rand(5, 7)
    assert torch.allclose(Regions((mask,)).at((1, 1))[0, 0, 0, 0], mask.mean())


def test_overlaps_add_up_or_are_shared():
    one, two = torch.full((2, 2), 0.9), torch.tensor([[0.9, 0.05], [0.0, 0.3]])
    assert torch.allclose(Regions((one, two, None)).at((2, 2))[0, :2], torch.stack([one, two]))
    shared = Regions((one, two, None), SHARE).at((2, 2))[0]
    expected = torch.tensor([[0.5, 0.9], [0.9, 0.75]]), torch.tensor([[0.5, 0.05], [0.0, 0.25]]), torch.ones(2, 2)
    assert torch.allclose(shared, torch.stack(expected))


def test_a_mask_for_each_picture():
    many = torch.rand(3, 4, 4)
    placed = Regions((many, torch.ones(2, 2))).at((4, 4))
    assert torch.allclose(placed[:, 0], many) and placed[:, 1].eq(1).all() and len(placed) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Regions((torch.ones(2, 2, 2, 2),)), r"mask of LoRA 1 is \(2, 2, 2, 2\); expected a tensor"),
        (lambda: Regions((None, torch.ones(0, 3))), r"mask of LoRA 2 is \(0, 3\)"),
        (
            lambda: Regions(([[1.0]],)),  # type: ignore[arg-type]
            "mask of LoRA 1 is list",
        ),
        (lambda: Regions((torch.tensor([[math.nan, 1.0]]),)), "values from nan to nan; expected 0 to 1"),
        (lambda: Regions((torch.tensor([[0.0, 255.0]]),)), "values from 0 to 255"),
        (lambda: Regions((torch.tensor([[-1.0, 1.0]]),)), "values from -1 to 1"),
        (lambda: Regions((None, torch.zeros(4, 4))), "mask of LoRA 2 is 0 everywhere"),
        (lambda: Regions((torch.ones(2, 4, 4), torch.ones(3, 4, 4))), "for 2 and 3 pictures"),
        (lambda: Regions((None,), "mean"), "overlap is 'mean'"),
        (lambda: Regional(3, Regions((None, None))), "2 masks for 3 LoRAs"),
        (lambda: Regional(0, FromAttention()), "stack is empty"),
        (lambda: FromAttention(listen=0), "listen is 0"),
        (lambda: FromAttention(listen=math.nan), "listen is nan"),
        (lambda: FromAttention(temperature=0), "temperature is 0"),
        (lambda: FromAttention(smooth=-1), "smooth is -1"),
        (lambda: FromAttention().regions({}, ()), "No cross-attention was heard"),
    ],
)
def test_what_is_no_region_is_refused(make, message):
    with pytest.raises(CompositionError, match=message):
        make()


def test_rounding_beyond_the_range_is_cut():
    placed = Regions((torch.tensor([[1.0004, -0.0004]]),)).at((1, 2))
    assert placed[0, 0].tolist() == [[1.0, 0.0]]


def test_regions_are_equal_to_themselves_only():
    mask = torch.ones(2, 2)
    one, two = Regions((mask,)), Regions((mask,))
    assert Branch((1.0,), regions=one) == Branch((1.0,), regions=one) != Branch((1.0,), regions=two)
    assert len({one, two}) == 2


def test_everyone_speaks_in_one_branch():
    regions = Regions((torch.ones(2, 2), None))
    by_hand, found = Regional(2, regions), Regional(2, FromAttention(listen=0.25))
    assert not by_hand.depends_on_step and found.depends_on_step
    assert by_hand.branches(3, 8) == (Branch((1.0, 1.0), regions=regions),)
    told = [found.branches(step, 8)[0] for step in range(8)]
    assert [branch.coefficients[0] for branch in told] == [0.5] * 2 + [1.0] * 6
    assert all(branch.regions == FromAttention(listen=0.25) for branch in told)
    assert FromAttention(listen=0.01).listens(0, 8) and not FromAttention(listen=0.01).listens(1, 8)


def maps(seed=0, size=16):
    """Attention of two adapters: the first looks at the left, the second at the right, with other scales and noise."""
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 0.01
    noise[:, 0, :, : size // 2] += 0.02
    noise[:, 1, :, size // 2 :] += 0.05
    noise[:, 1] *= 7
    return noise


def test_masks_are_where_words_are_seen_whatever_their_scale():
    found = FromAttention().regions({(16, 16): maps(), (8, 8): maps(1, 8)}, (True, True, False))
    left, right, other = found.masks
    assert other is None and left is not None and right is not None
    assert torch.allclose(left + right, torch.ones(2, 16, 16, dtype=torch.float64))
    assert left[:, :, :6].min() > 0.9 and left[:, :, 10:].max() < 0.1
    softer = FromAttention(temperature=5.0).regions({(16, 16): maps()}, (True, True, False)).masks[0]
    assert softer is not None and 0.5 < softer[:, :, :6].mean() < left[:, :, :6].mean()


def test_grids_that_tell_little_do_not_count():
    """Of four grids of a 512 pixel picture the maps at 16 and 32 count."""
    good = {(32, 32): maps(2, 32), (16, 16): maps()}
    bad = {(64, 64): torch.rand(2, 3, 64, 64), (8, 8): torch.rand(2, 3, 8, 8)}
    one, two = (FromAttention().regions(some, (True,) * 3).at((32, 32)) for some in (good, bad | good))
    assert torch.equal(one, two)


def test_one_named_adapter_speaks_everywhere_and_flat_maps_are_shared_evenly():
    assert FromAttention().regions({(16, 16): maps()}, (False, True, False)).masks == (None, None, None)
    flat = FromAttention().regions({(4, 4): torch.full((1, 2, 4, 4), 0.3)}, (True, True)).masks
    assert all(mask is not None and torch.allclose(mask, torch.full((1, 4, 4), 0.5).double()) for mask in flat)


def test_a_blur_keeps_the_mean_of_the_middle_and_the_edges():
    point = torch.zeros(1, 1, 15, 15)
    point[..., 7, 7] = 1
    soft = blurred(point, 1.0)
    assert soft.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (soft[0, 0, 7, 8] / soft[0, 0, 7, 7]).item() == pytest.approx(math.exp(-0.5), rel=1e-5)
    assert torch.allclose(blurred(torch.ones(2, 3, 4, 5), 2.0), torch.ones(2, 3, 4, 5))
    assert blurred(point, 0) is point


def tokenize(text):
    """A tokenizer of whole words in batches of six: start, four words, end or padding."""
    words = text.replace(",", " ,").split()
    ids = [sum(ord(letter) * 7**place for place, letter in enumerate(word)) + 10 for word in words]
    batches = [ids[start : start + 4] for start in range(0, len(ids), 4)] or [[]]
    return {"l": [[(1, 1.0), *((token, 1.0) for token in batch), *[(2, 1.0)] * (5 - len(batch))] for batch in batches]}


def test_words_are_found_where_they_stand():
    prompt = "a hill in monet style , with a red kite , a kite"
    #         1 2    3  4     7     8 9    10 13  14 15 16 19: the tokenizer breaks after four words
    named = [
        ("monet.safetensors", ("monet style",)),
        ("toys/red_kite.safetensors", ()),
        ("k.safetensors", ("a kite",)),
        ("gogh.safetensors", ("van gogh style, gogh",)),
        ("hill-world.safetensors", ("rolling hill",)),
        ("style.safetensors", ("style",)),
    ]
    assert naming(tokenize, prompt, named) == ((4,), (13, 14), (19,), (), (2,), ())


def test_nothing_is_found_in_an_empty_prompt():
    assert naming(tokenize, "", [("monet.safetensors", ("monet style",))]) == ((),)
