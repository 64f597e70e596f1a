"""Paired validation: held-out pictures, always with the same noise, with the adapter and without.

A training loss says little: it swings with the timesteps drawn. Here nothing varies but the adapter, so a difference of
a percent shows. It falls while the adapter learns the style; once it rises again, the adapter has begun to remember the
training pictures instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .draw import Draw, generator
from .samples import Samples
from .settings import TrainingError
from .watching import Running

TIMESTEPS = 4
"""Per picture. Stratified, each picture with offsets of its own."""
FEWEST_FOR_A_SHARE = 10
"""A folder with fewer pictures gives none of them away unless asked for a number."""


def held_out(pictures: int, amount: float, seed: int) -> list[int]:
    """Which of so many pictures are held out: a share of them (below 1), a number of them, or none.

    A share is at least two pictures, and none of fewer than ten. Raises TrainingError where nothing would be left.
    """
    count = int(amount)
    if 0 < amount < 1:
        count = max(2, round(amount * pictures)) if pictures >= FEWEST_FOR_A_SHARE else 0
    if count >= pictures:
        raise TrainingError(f"validation: {count} of {pictures} pictures held out leave none to train on; lower it.")
    return sorted(torch.randperm(pictures, generator=generator(seed, "validation", 0))[:count].tolist())


@dataclass(frozen=True)
class Result:
    """One validation, and what it means."""

    step: int
    adapter: float
    """Mean loss with the adapter."""
    base: float
    """Mean loss without."""
    best_step: int
    """The step with the lowest loss so far; 0 is the base alone."""
    change: float
    """Mean loss now less that of the best step before, sample by sample."""
    error: float
    """Standard error of `change`."""

    @property
    def is_best(self) -> bool:
        """Whether this is the best adapter so far."""
        return self.best_step == self.step > 0

    @property
    def overfits(self) -> bool:
        """Whether it is clearly worse than the best: by more than twice the standard error."""
        return self.change > 2 * self.error

    def __str__(self) -> str:
        if self.step == 0:
            return f"validation: loss {self.base:.4f} without an adapter"
        return f"validation after step {self.step}: loss {self.adapter:.4f}, {percent(self)}, {self._verdict()}"

    def _verdict(self) -> str:
        if self.is_best:
            return "the best so far"
        rival = f"step {self.best_step}" if self.best_step else "the base"
        if not self.overfits:
            return f"no clear change since {rival}"
        return f"worse than {rival}: " + ("it overfits" if self.best_step else "lower the learning rate")


def percent(result: Result) -> str:
    """How the adapter changes the loss, for instance "4.1 % below the base"."""
    share = 100 * (result.adapter - result.base) / result.base
    return f"{abs(share):.1f} % {'below' if share <= 0 else 'above'} the base"


class Validation:
    """Validates every `every` steps on `samples`, and at the last step; keeps every loss."""

    def __init__(self, samples: Samples, every: int) -> None:
        self.samples, self.every = samples, every
        self.steps: list[int] = []
        self.losses: list[Tensor] = []
        """Per validation one fp32 loss for each held-out picture and timestep. The first is the base's, as step 0."""
        self._placed: Samples | None = None

    def due(self, step: int, last: int) -> bool:
        """Whether step `step` of a run of `last` steps is to be validated and has not been."""
        return step not in self.steps and (step % self.every == 0 or step == last)

    def validate(self, run: Running, stop: Callable[[], bool]) -> Result | None:
        """Measures the run's adapter, the first time the base too; None, and nothing kept, if asked to stop."""
        if not self.steps:
            base = self._measure(run, torch.zeros_like(run.result), stop)
            if base is None:
                return None
            self._keep(0, base)
        if run.step:
            losses = self._measure(run, run.result, stop)
            if losses is None:
                return None
            self._keep(run.step, losses)
        return self.result(len(self.steps) - 1)

    def result(self, index: int) -> Result:
        """What validation number `index` said."""
        means = [losses.mean().item() for losses in self.losses[: index + 1]]
        now, before = self.losses[index], means[:index] or means
        rival = before.index(min(before))
        difference = now - self.losses[rival]
        error = difference.std().item() / math.sqrt(len(difference))
        best = index if means[index] < means[rival] else rival
        return Result(self.steps[index], means[index], means[0], self.steps[best], difference.mean().item(), error)

    def results(self) -> list[Result]:
        """All of them."""
        return [self.result(index) for index in range(len(self.steps))]

    def tensors(self) -> dict[str, Tensor]:
        """For the run's state."""
        if not self.steps:
            return {}
        return {"validation": torch.stack(self.losses), "validation_steps": torch.tensor(self.steps)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """From the run's state."""
        if "validation" in tensors:
            self.steps, self.losses = tensors["validation_steps"].tolist(), list(tensors["validation"])

    def _keep(self, step: int, losses: Tensor) -> None:
        self.steps.append(step)
        self.losses.append(losses)

    @torch.no_grad()
    def _measure(self, run: Running, weights: Tensor, stop: Callable[[], bool]) -> Tensor | None:
        if self._placed is None:
            self._placed = self.samples.to(run.base.device, run.base.dtype)
        losses = []
        with run.lora.holding(weights):
            for picture in range(len(self.samples)):
                drawn, size = (
                    self._draws(picture, run),
                    run.settings.batch,
                )  # no larger than what training needs room for
                for start in range(0, len(drawn), size):
                    if stop():
                        return None
                    losses.append(run.losses_of(self._placed, drawn[start : start + size]))
        return torch.cat(losses).float().cpu()

    def _draws(self, picture: int, run: Running) -> list[Draw]:
        timesteps, count = len(run.base.alphas_cumprod), len(self.samples)
        draws = []
        for place in range(TIMESTEPS):
            number = picture * TIMESTEPS + place
            share = (place + (picture + 0.5) / count) / TIMESTEPS
            noise = torch.randn(
                tuple(self.samples.latents[picture].shape),
                generator=generator(run.settings.seed, "validation", number + 1),
            )
            draws.append(Draw(number=number, picture=picture, timestep=int(share * timesteps), noise=noise))
        return draws
