"""Coefficients of a mixture by gradient: towards centred Composite, or towards a handful of pictures.

Both objectives are one: an error relative to what the base alone makes of the same noisy latents,

    ||e_mix - target||^2 / ||e_base - target||^2 + pull * mean of (c - start)^2,

summed over a step's rows: 1 is the base without adapters, 0 the target. For `composite` the target is what centred
Composite predicts at the joint prompt, e_base + sum of (e_i - e_base), each adapter alone at full strength, so that one
pass learns to do what N + 1 passes do. For `pictures` it is the noise itself, the denoising loss of any training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Base
from .draw import Draw, Draws
from .mixture import Mixture
from .objective import clip_norm_, learning_rate, noisy_and_target
from .optimizers import make_optimizer
from .samples import Samples
from .settings import TrainingError, TrainSettings

COMPOSITE, PICTURES = "composite", "pictures"
ONE, ROOT = "one", "root"
HELD_OUT_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """How to fit a mix. Raises TrainingError for values out of range."""

    objective: str = COMPOSITE
    start: str = ROOT
    """Where all coefficients begin and are pulled to: 1, or 1/sqrt(N)."""
    pull: float = 0.01
    """Price of a mean squared distance of 1 from the start, in units of the relative error; 0 or more."""
    steps: int = 200
    batch: int = 2
    lr: float = 0.02
    empty: float = 0.1
    """Share of the rows that see the empty prompt: the negative side of the guidance has the adapters too."""
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.objective not in (COMPOSITE, PICTURES):
            problems.append(f"objective: expected {COMPOSITE} or {PICTURES}, found {self.objective!r}")
        if self.start not in (ONE, ROOT):
            problems.append(f"start: expected {ONE} or {ROOT}, found {self.start!r}")
        if not (math.isfinite(self.pull) and self.pull >= 0):
            problems.append(f"pull: expected 0 or more, found {self.pull!r}")
        if problems:
            raise TrainingError("Settings out of range:\n" + "\n".join(f"  {problem}" for problem in problems))
        _ = self.training

    @property
    def training(self) -> TrainSettings:
        """What of it the trainer's own parts read."""
        return TrainSettings(
            steps=self.steps, batch=self.batch, accumulate=1, lr=self.lr, weight_decay=0.0, warmup=0.0, min_snr=0.0,
            caption_dropout=self.empty, seed=self.seed,
        )  # fmt: skip

    def start_of(self, adapters: int) -> float:
        """The number that coefficients of so many adapters start from."""
        return 1.0 if self.start == ONE else 1 / math.sqrt(adapters)


@dataclass(frozen=True)
class Learned:
    """What came of it. Errors are relative, on noise that was not learned from: 1 is the base, 0 the target."""

    coefficients: Tensor
    """(N, G), fp32 on the CPU."""
    losses: list[float]
    """Of each step, without the pull."""
    before: float
    after: float


def learn(
    base: Base,
    mixture: Mixture,
    samples: Samples,
    settings: LearnSettings,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Learned:
    """Fits `mixture.coefficients`, from the start that the settings name; the UNet is frozen and as before afterwards.

    A function of its arguments: all randomness comes from the seed. Raises TrainingError where the loss is not finite.
    """
    fit = _Fit(base, mixture, samples, settings)
    training, coefficients = settings.training, mixture.coefficients
    start = settings.start_of(len(mixture.voices))
    with torch.no_grad():
        coefficients.fill_(start)
    optimizer, losses = make_optimizer(coefficients, training), []
    base.unet.requires_grad_(False).eval()
    with mixture.attached(base.unet):
        before = fit.held_out()
        for step in range(training.steps):
            error = fit.error(fit.draws.batch_at(step))
            optimizer.zero_grad()
            (error + settings.pull * (coefficients - start).square().mean()).backward()
            gradient = coefficients.grad
            if gradient is None or not (math.isfinite(error.item()) and gradient.isfinite().all()):
                raise TrainingError(
                    f"Step {step + 1}: loss or gradient is not finite. Lower the learning rate, or compute in fp32."
                )
            clip_norm_(gradient, gradient.norm().item(), training.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            optimizer.step()
            losses.append(error.item())
            on_step(step + 1, losses[-1])
        after = fit.held_out()
    return Learned(coefficients.detach().float().cpu().clone(), losses, before, after)


def composite_target(predict: Callable[[], Tensor], mixture: Mixture, of_base: Tensor) -> Tensor:
    """e_base + sum over i of (e_i - e_base): Composite whose branches' effects are added rather than averaged.

    `predict` gives the prediction under the mixture's spoken coefficients; `of_base` is that of the base alone.
    """
    target = of_base.clone()
    for index in range(len(mixture.voices)):
        with mixture.speaking(mixture.alone(index)):
            target += predict() - of_base
    return target


class _Fit:
    """The samples where the base is, and the error of any draws from them."""

    def __init__(self, base: Base, mixture: Mixture, samples: Samples, settings: LearnSettings) -> None:
        if settings.empty and samples.empty is None:
            raise TrainingError("empty needs the empty prompt's context: give Samples(empty=...), or set it to 0.")
        self.base, self.mixture, self.settings = base, mixture, settings
        self.samples = samples.to(base.device, base.dtype)
        self.signal = base.alphas_cumprod.to(base.device, torch.float32)
        self.draws = self._draws(settings.seed)

    def error(self, drawn: Sequence[Draw]) -> Tensor:
        """The relative error of a micro-batch, with a gradient to the coefficients."""
        base, batch = self.base, self.samples.gather(drawn)
        noise = torch.stack([draw.noise for draw in drawn]).to(base.device)
        timesteps = torch.tensor([draw.timestep for draw in drawn], device=base.device)
        noisy, target = noisy_and_target(batch.latents, noise, self.signal[timesteps], base.prediction)
        vector = (base.vector(batch.pooled, batch.sizes),) if base.vector else ()  # type: ignore[arg-type]

        def predict() -> Tensor:
            return base(noisy.to(base.dtype), timesteps.float(), batch.context, *vector).float()

        with torch.no_grad():
            with self.mixture.speaking(None):
                of_base = predict()
            if self.settings.objective == COMPOSITE:
                target = composite_target(predict, self.mixture, of_base)
            of_effect = (of_base - target).square().sum()
        return (predict() - target).square().sum() / of_effect.clamp(min=torch.finfo(torch.float32).tiny)

    @torch.no_grad()
    def held_out(self) -> float:
        """The mean error on draws of another seed, always the same ones."""
        draws = self._draws(self.settings.seed + 1_000_003)
        return sum(self.error(draws.batch_at(number)).item() for number in range(HELD_OUT_BATCHES)) / HELD_OUT_BATCHES

    def _draws(self, seed: int) -> Draws:
        samples, settings = self.samples, self.settings
        return Draws(
            seed=seed, shapes=samples.shapes, repeats=samples.repeats, variants=[len(rows) for rows in samples.rows],
            batch=settings.batch, accumulate=1, timesteps=len(self.base.alphas_cumprod),
            caption_dropout=settings.empty,
        )  # fmt: skip
