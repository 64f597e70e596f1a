"""Paired validation: what is held out, that nothing else changes, and what it says."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixlora.training.loop import train
from mixlora.training.settings import TrainingError
from mixlora.training.validation import TIMESTEPS, Validation, held_out, percent

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("test_training_loop.py"))
assert _spec and _spec.loader
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

SETTINGS = replace(toy.SETTINGS, steps=20, rank=8, lr=3e-2, min_snr=0.0)


class Watching:
    """Validates, and does nothing else."""

    def __init__(self, samples, every=5, stop=lambda: False):
        self.validation, self.stop, self.said = Validation(samples, every), stop, []

    def __call__(self, run):
        if self.validation.due(run.step, run.settings.steps):
            self.said.append(self.validation.validate(run, self.stop))

    def tensors(self):
        return self.validation.tensors()

    def restore(self, tensors):
        self.validation.restore(tensors)


def test_a_share_a_number_or_none_is_held_out():
    assert [len(held_out(pictures, 0.1, 0)) for pictures in (3, 9, 10, 24, 40, 150)] == [0, 0, 2, 2, 4, 15]
    assert [len(held_out(9, amount, 0)) for amount in (0, 1, 2, 8)] == [0, 1, 2, 8]
    chosen = held_out(100, 0.2, 3)
    assert chosen == sorted(set(chosen)) and chosen == held_out(100, 0.2, 3) != held_out(100, 0.2, 4)
    with pytest.raises(TrainingError, match="9 of 9 pictures held out leave none to train on"):
        held_out(9, 9, 0)


def test_a_subset_keeps_what_belongs_to_each_picture():
    samples = toy.samples(5)
    part = samples.subset([4, 1])
    assert part.names == ("4.png", "1.png") and part.rows == (samples.rows[4], samples.rows[1])
    assert torch.equal(part.latents[0], samples.latents[4]) and part.digest() != samples.digest()


def test_validation_changes_nothing_of_the_training():
    plain = train(toy.base(), toy.samples(), SETTINGS)
    state = torch.get_rng_state()
    watch = Watching(toy.samples(3), every=1)
    watched = train(toy.base(), toy.samples(), SETTINGS, watch=watch)
    assert watched.losses == plain.losses and torch.equal(watched.lora.flat, plain.lora.flat)
    assert torch.equal(torch.get_rng_state(), state)
    assert watch.validation.steps == list(range(21))


def test_the_same_adapter_has_the_same_loss_and_none_that_of_the_base():
    still = replace(SETTINGS, lr=1e-30, weight_decay=0.0)
    watch = Watching(toy.samples(3))
    train(toy.base(), toy.samples(), still, watch=watch)
    assert len(watch.validation.losses[0]) == 3 * TIMESTEPS
    assert all(torch.equal(losses, watch.validation.losses[0]) for losses in watch.validation.losses)


def test_the_moving_average_is_validated_because_it_is_what_comes_out():
    watch, again = Watching(toy.samples(3)), []
    trained = train(toy.base(), toy.samples(), replace(SETTINGS, ema=0.99), watch=watch)

    class Once(Watching):
        def __call__(self, run):
            again.append(self.validation._measure(run, trained.lora.flat.detach(), self.stop))

    train(toy.base(), toy.samples(), replace(SETTINGS, steps=1), watch=Once(toy.samples(3)))
    assert torch.equal(again[0], watch.validation.losses[-1])


def test_it_sees_learning_and_overfitting():
    """Trained on the held-out pictures themselves the loss falls; on others' latents with their captions it rises."""
    learning = Watching(toy.samples(5))
    train(toy.base(), toy.samples(5), replace(SETTINGS, steps=60), watch=learning)
    result = learning.said[-1]
    assert result.adapter < result.base and "below the base" in percent(result)

    wrong = replace(toy.samples(5), latents=[-4 * latent for latent in toy.samples(5).latents])
    failing = Watching(toy.samples(5))
    train(toy.base(), wrong, replace(SETTINGS, steps=60, lr=0.3), watch=failing)
    assert failing.said[-1].overfits and not failing.said[-1].is_best
    assert "worse than" in str(failing.said[-1])


def test_what_it_says():
    def said(*means):
        validation = Validation(toy.samples(2), 100)
        noise = torch.linspace(-0.001, 0.001, 8)
        for number, mean in enumerate(means):
            validation._keep(100 * number, torch.full((8,), mean) + noise * (-1) ** number)
        return str(validation.results()[-1])

    assert said(0.1) == "validation: loss 0.1000 without an adapter"
    assert said(0.1, 0.09) == "validation after step 100: loss 0.0900, 10.0 % below the base, the best so far"
    assert said(0.1, 0.09, 0.0901).endswith("9.9 % below the base, no clear change since step 100")
    assert said(0.1, 0.09, 0.095).endswith("5.0 % below the base, worse than step 100: it overfits")
    assert said(0.1, 0.2).endswith("100.0 % above the base, worse than the base: lower the learning rate")


def test_asked_to_stop_in_the_middle_it_keeps_nothing_of_that_validation():
    asked = iter([False] * 17 + [True] * 100)
    watch = Watching(toy.samples(3), stop=lambda: next(asked))  # two rows at a time: six questions for each pass
    train(toy.base(), toy.samples(), SETTINGS, watch=watch)
    assert watch.validation.steps == [0, 5]
    assert watch.said[2:] == [None, None, None]
