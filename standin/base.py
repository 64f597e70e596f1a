"""The stand-in's UNet: SD v1.5's layout with two levels of 320 channels, trained from nothing on drawn scenes.

44 M parameters; ComfyUI takes a checkpoint for SD v1.5 when the first level has 320 channels and the context 768,
whatever the depth.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .autoencoder import coders
from .muon import Optimiser
from .text_encoder import encode, load_clip, text_encoder
from .workshop import Average, Run, half_precision, pictures, render_all, save_tensors, to_tensor

log = logging.getLogger(__name__)

UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 1),
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 768,
    "use_linear_in_transformer": False,
}
SHARES = {"plain": 0.75, "painting": 0.25}


@dataclass(frozen=True)
class Plan:
    """How long and how fast the UNet is trained in one stage; a stage begins with the average of the one before."""

    name: str
    steps: int
    matrix_lr: float
    other_lr: float
    decay: float = 1.0
    balance_from: int = 0
    balance_limit: float = 1000.0
    pictures: int = 6000
    batch: int = 16
    caption_dropout: float = 0.1
    ema: float = 0.98
    min_snr: float = 5.0


STAGES = (
    Plan("base", steps=400, matrix_lr=0.02, other_lr=1e-3, decay=0.8, balance_from=60, balance_limit=32.0),
    Plan("base-fine", steps=400, matrix_lr=0.01, other_lr=5e-4),
)


def new_unet() -> nn.Module:
    """UNetModel of comfy with fresh weights; every residual branch begins at zero."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**UNET_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if name.endswith(("out_layers.3", "proj_out", "out.2")):
                nn.init.zeros_(layer.weight)
        elif isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    return unet.to(memory_format=torch.channels_last)


def alphas_cumprod() -> Tensor:
    """SD v1.5's schedule: scaled-linear betas from 0.00085 to 0.012 in 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def train_base(autoencoder: nn.Module, work: Path) -> dict[str, Tensor]:
    """Trains a new UNet through all stages; returns the weights, a moving average."""
    torch.manual_seed(1)
    unet = new_unet()
    for seed, plan in enumerate(STAGES):
        weights = train_stage(plan, unet, autoencoder, work, seed).mean
        with torch.no_grad():
            for key, value in unet.named_parameters():
                value.copy_(weights[key])
    return weights


def train_stage(plan: Plan, unet: nn.Module, autoencoder: nn.Module, work: Path, seed: int) -> Average:
    """Trains `unet` in place; returns its moving average."""
    latents, captions = training_set(plan, autoencoder, work)
    average = Average(unet, plan.ema)
    live = dict(unet.named_parameters())
    optimiser = Optimiser(unet, plan.matrix_lr, plan.other_lr, plan.steps, plan.decay, warmup=10)

    def tensors() -> dict[str, Tensor]:
        return {**live, **{f"average.{key}": value for key, value in average.mean.items()}}

    @torch.no_grad()
    def restore(state: dict[str, Tensor]) -> None:
        for key, value in tensors().items():
            value.copy_(state[key])

    run = Run(work / f"{plan.name}-state.safetensors", plan.steps, seed, optimiser, tensors, restore, every=300)
    schedule = alphas_cumprod()
    began, losses = time.monotonic(), []
    for step in run:
        random = run.generator(step)
        chosen = torch.randint(len(latents), (plan.batch,), generator=random)
        dropped = torch.rand(plan.batch, generator=random) < plan.caption_dropout
        context = captions.states[torch.where(dropped, captions.empty, captions.of_picture[chosen])]
        share = (torch.arange(plan.batch) + torch.rand(plan.batch, generator=random)) / plan.batch
        times = (share * 1000).long()  # stratified: every batch sees all noise levels
        noise = torch.randn(latents[chosen].shape, generator=random)
        kept = schedule[times].view(-1, 1, 1, 1)
        noised = kept.sqrt() * latents[chosen] + (1 - kept).sqrt() * noise
        noised = noised.contiguous(memory_format=torch.channels_last)
        with half_precision():
            predicted = unet(noised, times.float(), context=context).float()
        error = (predicted - noise).square().mean((1, 2, 3))
        (error * loss_weights(plan, step, kept.flatten())).mean().backward()
        optimiser.step(step)
        average.update(step)
        losses.append(error.mean().item())
        if step % 20 == 19:
            pace, recent = (time.monotonic() - began) / len(losses), losses[-20:]
            what = (plan.name, step + 1, plan.steps, sum(recent) / len(recent), pace)
            log.info("%s %d/%d loss %.4f %.2f s a step", *what)
    return average


def loss_weights(plan: Plan, step: int, kept: Tensor) -> Tensor:
    """Weight of each sample's squared error of the noise, given the share of the signal (alphas_cumprod) it kept.

    Min-SNR (arXiv 2303.09556) throughout; from `balance_from` on also 1 / kept up to a limit, the weight that
    predicting velocity implies. Colour and light of a whole picture are decided at noise levels where the error of the
    noise is tiny and that of the picture is not.
    """
    snr = kept / (1 - kept)
    weights = snr.clamp(max=plan.min_snr) / snr
    return weights * (1 / kept).clamp(max=plan.balance_limit) if step >= plan.balance_from else weights


@dataclass(frozen=True)
class Captions:
    """Encoded captions: states (n, 77, 768), the row of each picture's caption, the row of the empty one."""

    states: Tensor
    of_picture: Tensor
    empty: int = 0


def encode_captions(captions: list[str]) -> Captions:
    """Encodes each different caption once, the empty one first."""
    different = sorted(set(captions) | {""})
    rows = {caption: row for row, caption in enumerate(different)}
    with torch.no_grad():
        states = encode(load_clip(text_encoder()), different)
    return Captions(states, torch.tensor([rows[caption] for caption in captions]), rows[""])


def training_set(plan: Plan, autoencoder: nn.Module, work: Path) -> tuple[Tensor, Captions]:
    """Latents of mean 0 and deviation 1, (n, 4, 16, 16), and their captions; kept in `work`."""
    chosen = pictures(plan.pictures, seed=2, shares=SHARES)
    path = work / "base-set.safetensors"
    if not path.exists():
        raw = encode_pictures(autoencoder, render_all(chosen, work / "base-pictures.npy"))
        captions = encode_captions([picture.caption for picture in chosen])
        statistics = torch.stack([raw.mean(), raw.std()])
        words = {"states": captions.states, "of_picture": captions.of_picture}
        save_tensors(path, {"raw": raw, "statistics": statistics, **words})
    kept = load_file(path)
    mean, deviation = kept["statistics"]
    return (kept["raw"] - mean) / deviation, Captions(kept["states"], kept["of_picture"])


def latent_statistics(work: Path) -> tuple[float, float]:
    """Mean and deviation of the raw latents of the training set."""
    mean, deviation = load_file(work / "base-set.safetensors")["statistics"].tolist()
    return mean, deviation


def encode_pictures(autoencoder: nn.Module, rendered) -> Tensor:
    """uint8 pictures to raw latents, without the blocks that rest."""
    encoder, _ = coders(autoencoder)
    with torch.no_grad():
        batches = (to_tensor(rendered[start : start + 32]) for start in range(0, len(rendered), 32))
        parts = [encoder(batch.contiguous(memory_format=torch.channels_last)) for batch in batches]
    return torch.cat(parts).contiguous()
