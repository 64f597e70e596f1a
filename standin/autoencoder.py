"""The stand-in's autoencoder: TAESD's layout (which ComfyUI loads as an SD v1.5 VAE), trained from nothing.

Blocks that a stage leaves out are the identity (their last convolution is zero), so they cost nothing while they rest
and join later without a jolt. A pixel loss alone averages brush strokes away, so the local spectrum counts too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from .muon import Optimiser
from .scenes import SIZE
from .workshop import EVERY_STYLE, Run, half_precision, pictures, render_all, to_tensor

log = logging.getLogger(__name__)

CROP = 64
LATENT_NOISE = 0.05
Coder = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """A part of the training: how many steps, which of the ten blocks of encoder and decoder work."""

    steps: int
    encoder_blocks: frozenset[int]
    decoder_blocks: frozenset[int]
    matrix_lr: float
    spectrum: float


# Blocks 1, 4, 7 of the encoder follow a halving, block 0 would work at full size; the decoder's last is block 9.
LEAN = Stage(2000, frozenset({1, 4, 7}), frozenset({0, 3, 6}), 0.02, 0.02)
SHARP = Stage(1800, frozenset({1, 4, 5, 7, 8}), frozenset({0, 1, 3, 4, 6, 9}), 0.015, 0.05)


def new_autoencoder() -> nn.Module:
    """TAESD of comfy with fresh weights: Kaiming, residual branches zero, output grey."""
    from comfy.taesd.taesd import TAESD

    model: Any = TAESD()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for block in _blocks(model.taesd_encoder) + _blocks(model.taesd_decoder):
        nn.init.zeros_(block.conv[4].weight)
    nn.init.kaiming_normal_(model.taesd_encoder[-1].weight, nonlinearity="linear")
    nn.init.normal_(model.taesd_decoder[-1].weight, std=0.005)
    nn.init.constant_(model.taesd_decoder[-1].bias, 0.5)
    return model.to(memory_format=torch.channels_last)


def train_autoencoder(stage: Stage, model: nn.Module, work: Path, name: str, seed: int = 0) -> None:
    """Trains `model` in place through one stage; the state lies in `work`/`name`.safetensors."""
    rendered = render_all(pictures(2400, seed=1, shares=EVERY_STYLE), work / "autoencoder-pictures.npy")
    encode, decode = coders(model, stage)
    optimiser = Optimiser(model, stage.matrix_lr, 2e-3, stage.steps)
    run = Run(work / f"{name}.safetensors", stage.steps, seed, optimiser, model.state_dict, model.load_state_dict)
    began = time.monotonic()
    for done, step in enumerate(run, start=1):
        random = run.generator(step)
        chosen = torch.randint(len(rendered), (8,), generator=random).numpy()
        top, left = torch.randint(SIZE - CROP + 1, (2,), generator=random).tolist()
        clean = to_tensor(rendered[chosen, top : top + CROP, left : left + CROP])
        clean = clean.contiguous(memory_format=torch.channels_last)
        with half_precision():
            latent = encode(clean).float()
        noisy = latent + LATENT_NOISE * torch.randn(latent.shape, generator=random)
        with half_precision():
            seen = decode(noisy).float()
        loss = difference(seen, clean, stage.spectrum) + 1e-2 * unevenness(latent)
        loss.backward()
        optimiser.step(step)
        if step % 100 == 99:
            quality = -10 * torch.log10(F.mse_loss(seen.detach().clamp(0, 1), clean)).item()
            pace = (time.monotonic() - began) / done
            what = (name, step + 1, stage.steps, loss.item(), quality, pace)
            log.info("%s %d/%d loss %.4f psnr %.1f dB %.2f s a step", *what)


def coders(model: Any, stage: Stage = SHARP) -> tuple[Coder, Coder]:
    """Encoder and decoder that skip resting blocks: pictures (n, 3, h, w) in 0..1 <-> raw latents (n, 4, h/8, w/8)."""
    encoder, decoder = model.taesd_encoder, model.taesd_decoder
    return _skipping(encoder, stage.encoder_blocks), _skipping(decoder, stage.decoder_blocks)


def difference(seen: Tensor, clean: Tensor, spectrum: float) -> Tensor:
    """L1 + L2 + gradients + amplitudes of the local spectrum (windows of 16 pixels)."""
    across, down = (lambda x: x[..., 1:] - x[..., :-1]), (lambda x: x[..., 1:, :] - x[..., :-1, :])
    edges = F.l1_loss(across(seen), across(clean)) + F.l1_loss(down(seen), down(clean))
    pixels = F.l1_loss(seen, clean) + F.mse_loss(seen, clean)
    return pixels + 0.5 * edges + spectrum * F.l1_loss(_amplitudes(seen), _amplitudes(clean))


def unevenness(latent: Tensor) -> Tensor:
    """How far the channels are from mean 0 and deviation 1: diffusion begins at noise that knows no other mean."""
    deviation, mean = torch.std_mean(latent, dim=(0, 2, 3))
    return mean.abs().mean() + (deviation - 1).abs().mean()


def _amplitudes(picture: Tensor, window: int = 16) -> Tensor:
    tiles = picture.unfold(2, window, window // 2).unfold(3, window, window // 2)
    wave = torch.fft.rfft2(tiles, norm="ortho")
    return (wave.real.square() + wave.imag.square() + 1e-6).sqrt()


def _skipping(layers: nn.Sequential, working: frozenset[int]) -> Coder:
    """The layers with every block not in `working` as the ReLU that it is while its last convolution is zero."""
    plan: list[Callable[[Tensor], Tensor]] = []
    count = 0
    for layer in layers:
        if _is_block(layer):
            plan.append(layer if count in working else torch.relu)
            count += 1
        else:
            plan.append(layer)

    def run(x: Tensor) -> Tensor:
        for step in plan:
            x = step(x)
        return x

    return run


def _is_block(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Block"


def _blocks(layers: nn.Sequential) -> list[Any]:
    return [layer for layer in layers if _is_block(layer)]
