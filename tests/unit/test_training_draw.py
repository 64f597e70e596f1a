"""Which samples a run sees: pure functions of seed and number, every picture as often as its repeats say."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from mixlora.training.draw import Draws
from mixlora.training.samples import Samples
from mixlora.training.settings import TrainingError

SQUARE, WIDE = (4, 2, 2), (4, 2, 3)
ONE = Draws(
    seed=7, shapes=[SQUARE] * 5, repeats=[1] * 5, variants=[3] * 5, batch=2, accumulate=2, timesteps=1000,
    caption_dropout=0.5, flips=True,
)  # fmt: skip
MANY = replace(ONE, shapes=[SQUARE, WIDE, WIDE, (4, 3, 2), SQUARE, WIDE, WIDE], repeats=[1, 2, 1, 1, 3, 1, 1],
               variants=[1] * 7, batch=3)  # fmt: skip


def flat(draws, batches):
    return [draw for number in range(batches) for draw in draws.batch_at(number)]


def same(a, b):
    return len(a) == len(b) and all(
        replace(x, noise=torch.zeros(1)).__dict__.keys() == y.__dict__.keys() and torch.equal(x.noise, y.noise)
        and [getattr(x, name) for name in KEYS] == [getattr(y, name) for name in KEYS]
        for x, y in zip(a, b, strict=True)
    )  # fmt: skip


KEYS = ("number", "picture", "timestep", "drop_caption", "variant", "flip")


def test_draws_depend_on_seed_and_number_alone():
    backward = [draw for number in reversed(range(20)) for draw in reversed(replace(MANY).batch_at(number))]
    assert same(flat(MANY, 20), backward[::-1])
    other = flat(replace(MANY, seed=8), 20)
    assert [draw.picture for draw in other] != [draw.picture for draw in flat(MANY, 20)]


def test_all_that_is_random_is_even():
    drawn = flat(ONE, 400)
    assert [draw.number for draw in drawn] == list(range(800))
    assert all({draw.picture for draw in drawn[start : start + 5]} == set(range(5)) for start in range(0, 800, 5))
    assert [draw.picture for draw in drawn[:5]] != [draw.picture for draw in drawn[5:10]]
    assert all(250 * (k % 4) <= draw.timestep < 250 * (k % 4 + 1) for k, draw in enumerate(drawn))
    noise = torch.stack([draw.noise for draw in drawn])
    assert noise.mean().abs() < 0.03 and abs(noise.std() - 1) < 0.03
    assert abs(sum(draw.drop_caption for draw in drawn) - 400) < 50
    assert abs(sum(draw.flip for draw in drawn) - 400) < 50
    assert all(abs(count - 267) < 50 for count in Counter(draw.variant for draw in drawn).values())
    assert len(Counter((draw.drop_caption, draw.flip, draw.variant) for draw in drawn)) == 12
    assert not any(draw.flip for draw in flat(replace(ONE, flips=False), 50))


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_with_one_bucket_a_step_does_not_depend_on_how_it_is_cut(batch):
    cut = replace(ONE, batch=batch, accumulate=4 // batch)
    assert same(flat(cut, 40 // batch), flat(ONE, 20))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_every_epoch_shows_each_picture_as_often_as_its_repeats(batch):
    draws = replace(MANY, batch=batch)
    bucket_of, size = {}, Counter()
    for picture, (shape, times) in enumerate(zip(draws.shapes, draws.repeats, strict=True)):
        bucket_of[picture] = shape
        size[shape] += times
    seen, epochs = Counter(), []
    for number in range(120):
        drawn = draws.batch_at(number)
        assert len({bucket_of[draw.picture] for draw in drawn}) == 1  # one shape
        assert all(tuple(draw.noise.shape) == bucket_of[draw.picture] for draw in drawn)
        epoch = draws.epoch(number)
        if epochs and epoch > epochs[-1]:  # all before are whole, and no bucket is ahead by a batch or more
            for shape, slots in size.items():
                ahead = sum(seen[picture] for picture in seen if bucket_of[picture] == shape) - epoch * slots
                assert 0 <= ahead < batch
            assert all(seen[p] >= epoch * times for p, times in enumerate(draws.repeats))
        epochs.append(epoch)
        seen.update(draw.picture for draw in drawn)
    assert epochs == sorted(epochs) and epochs[0] == 0 and epochs[-1] >= 11
    assert len({tuple(draws.shapes[draw.picture] for draw in draws.batch_at(n)) for n in range(20)}) == 3


def test_buckets_have_orders_of_their_own():
    draws = replace(ONE, shapes=[SQUARE] * 30 + [WIDE] * 30, repeats=[1] * 60, variants=[1] * 60, batch=1)
    pictures = [draw.picture for draw in flat(draws, 60)]
    square, wide = ([p for p in pictures if (p >= 30) == is_wide] for is_wide in (False, True))
    assert sorted(pictures) == list(range(60)) and square != [p - 30 for p in wide]


def mixed_samples(**options):
    source = torch.Generator().manual_seed(1)
    latents = [torch.randn(shape, generator=source) for shape in (SQUARE, WIDE, SQUARE)]
    given = dict(
        latents=latents, flipped=[latent.flip(-1) for latent in latents], caption_of=[(0, 1), 2, 0],
        context=torch.randn(3, 3, 5, generator=source), empty=torch.zeros(3, 5), pooled=torch.randn(3, 6),
        empty_pooled=torch.ones(6), sizes=torch.arange(18).view(3, 6), repeats=[1, 2, 1],
    )  # fmt: skip
    return Samples(**{**given, **options})


def test_a_batch_holds_what_was_drawn():
    samples = mixed_samples()
    assert samples.rows == ((0, 1), (2,), (0,)) and samples.shapes == [SQUARE, WIDE, SQUARE]
    first, *_ = flat(replace(ONE, shapes=samples.shapes, repeats=samples.repeats, variants=[2, 1, 1]), 1)
    drawn = [
        replace(first, picture=0, variant=1, flip=False, drop_caption=False),
        replace(first, picture=2, variant=0, flip=True, drop_caption=True),
    ]
    batch = samples.gather(drawn)
    assert torch.equal(batch.latents, torch.stack([samples.latents[0], samples.flipped[2]]))
    assert torch.equal(batch.context, torch.stack([samples.context[1], torch.zeros(3, 5)]))
    assert batch.pooled is not None and torch.equal(batch.pooled[1], torch.ones(6))
    assert batch.sizes is not None and batch.sizes.tolist() == [[0, 1, 2, 3, 4, 5], [12, 13, 14, 15, 16, 17]]
    moved = samples.to(torch.device("cpu"), torch.bfloat16)
    assert moved.context.dtype == torch.bfloat16 and moved.latents[0].dtype == torch.float32
    with pytest.raises(TrainingError, match="caption_dropout needs the empty caption"):
        mixed_samples(empty=None).gather(drawn)


def test_samples_of_several_shapes_must_fit_together_too():
    good = mixed_samples()
    for wrong, message in (
        (dict(flipped=good.latents[:2]), "flipped: expected as many"),
        (dict(repeats=[1, 0, 1]), "repeats: expected 3 numbers, all 1 or more"),
        (dict(pooled=torch.zeros(2, 6)), r"pooled: expected \[3, width\], found \(2, 6\)"),
        (dict(sizes=torch.zeros(3, 4)), r"sizes: expected \[3, 6\]"),
        (dict(caption_of=[(0, 3), 1, 2]), "caption_of: expected 3 rows, all below 3, found 3, highest 3"),
        (dict(caption_of=[(), 1, 2]), "caption_of"),
        (dict(empty_pooled=None), "empty_pooled: needed"),
        (dict(latents=[torch.zeros(4, 2)] * 3, flipped=()), r"latents: expected \[channels, height, width\]"),
        (dict(flipped=[latent * torch.nan for latent in good.latents]), "flipped: not finite for picture 0, picture 1"),
    ):
        with pytest.raises(TrainingError, match=message):
            mixed_samples(**wrong)


def test_the_digest_covers_all_that_is_trained_on():
    first = mixed_samples()
    assert first.digest() == mixed_samples(pooled=first.pooled).digest()
    changed = [
        mixed_samples(pooled=first.pooled, **change)
        for change in (
            {},
            dict(flipped=()), dict(repeats=[1, 1, 1]), dict(caption_of=[(0, 1), 2, 1]), dict(empty=torch.ones(3, 5)),
            dict(sizes=torch.zeros(3, 6)), dict(empty_pooled=torch.zeros(6)), dict(latents=first.flipped),
        )
    ]  # fmt: skip
    assert len({samples.digest() for samples in changed}) == len(changed)
