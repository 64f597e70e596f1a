"""The mathematics of a step: what the UNet sees and should answer, what an error weighs, how far to go."""

from __future__ import annotations

import math

from torch import Tensor, ones_like

from .settings import TrainSettings


def noisy_and_target(x0: Tensor, noise: Tensor, signal: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    """The noisy latents at signal share ``alphas_cumprod[t]`` (one per row) and what the UNet should predict for them.

    ``x_t = √ā x0 + √(1-ā) ε``; the target is ε, or ``v = √ā ε - √(1-ā) x0`` (arXiv 2202.00512).
    """
    a, b = signal.sqrt().view(-1, 1, 1, 1), (1 - signal).sqrt().view(-1, 1, 1, 1)
    return a * x0 + b * noise, noise if prediction == "epsilon" else a * noise - b * x0


def min_snr_weight(signal: Tensor, gamma: float, prediction: str) -> Tensor:
    """Loss weight per row: ``min(SNR, gamma) / SNR`` for ε, ``/ (SNR + 1)`` for v; arXiv 2303.09556. gamma 0: ones."""
    if gamma == 0:
        return ones_like(signal)
    snr = signal / (1 - signal)
    return snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The learning rate of step number `step`, counted from 0: a linear rise over the warm-up, then the schedule."""
    warmup = round(settings.warmup * settings.steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / (settings.steps - warmup)
    factors = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "cosine_with_restarts": 0.5 * (1 + math.cos(math.pi * (settings.cycles * done % 1))),
        "polynomial": (1 - done) ** settings.power,
    }
    return settings.lr * factors[settings.schedule]


def clip_norm_(gradient: Tensor, norm: float, longest: float) -> None:
    """Shortens a gradient of length `norm` in place to the length `longest` (0: no limit)."""
    if 0 < longest < norm:
        gradient.mul_(longest / norm)


def offset_noise(noise: Tensor, offsets: Tensor, strength: float) -> Tensor:
    """Noise plus `strength` times a normal number for each row's channels, `offsets` [rows, channels].

    A model never sees noise with another mean, so it paints no picture darker or brighter than the average; see
    Guttenberg, "Diffusion with offset noise" (2023).
    """
    return noise + strength * offsets[:, :, None, None]
