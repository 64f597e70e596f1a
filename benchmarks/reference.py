"""The algorithm of the paper's reference code on diffusers and peft, as a peer for the sampling benchmark.

arXiv 2402.16843's pipeline keeps every LoRA as a peft adapter beside the layers, makes one the active one for each turn
(Switch) or for each of N forward passes a step (Composite), and runs a batch of two: unconditioned and conditioned.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from peft import LoraConfig

RANK = 16
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
GUIDANCE = 7.0


def unet_with_loras(count: int, dtype: torch.dtype, device: torch.device) -> Any:
    """A UNet of SD v1.5's shape, random, with `count` random adapters of rank 16 on all attention projections."""
    unet: Any = UNet2DConditionModel(cross_attention_dim=768)
    unet = unet.to(device, dtype).requires_grad_(False).eval()
    for number in range(count):
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS, init_lora_weights=False)
        unet.add_adapter(config, adapter_name=str(number))
    return unet.to(dtype)


def switch(unet: Any, count: int, every: int, side: int, steps: int) -> torch.Tensor:
    """LoRA Switch: the next adapter becomes the active one every `every` steps."""

    def predict(step: int, *inputs: Any) -> torch.Tensor:
        if step % every == 0:
            unet.set_adapters(str(step // every % count))
        return unet(*inputs).sample

    return _sample(unet, predict, side, steps)


def composite(unet: Any, count: int, side: int, steps: int) -> torch.Tensor:
    """LoRA Composite: one forward pass for each adapter, averaged."""

    def predict(step: int, *inputs: Any) -> torch.Tensor:
        parts = []
        for number in range(count):
            unet.set_adapters(str(number))
            parts.append(unet(*inputs).sample)
        return torch.stack(parts).mean(0)

    return _sample(unet, predict, side, steps)


def _sample(unet: Any, predict: Any, side: int, steps: int) -> torch.Tensor:
    scheduler: Any = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 77, 768, generator=generator).to(unet.device, unet.dtype)
    latent = torch.randn(1, 4, side, side, generator=generator).to(unet.device, unet.dtype) * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        both = scheduler.scale_model_input(torch.cat([latent] * 2), timestep)
        plain, asked = predict(step, both, timestep, text).chunk(2)
        latent = scheduler.step(plain + GUIDANCE * (asked - plain), timestep, latent).prev_sample
    return latent
