"""What all sampler nodes share: KSampler's inputs, and KSampler itself."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..mixlora_core.errors import CompositionError
from ..mixlora_core.stack import StyleStack, gather
from ..mixlora_core.text import unused_texts


def gathered(stack: StyleStack | None, lora_stack: list | None) -> StyleStack:
    """Both inputs as one stack. Raises CompositionError where there is no LoRA."""
    stacked = gather(stack, lora_stack)
    if not stacked.entries:
        raise CompositionError(
            "The stack is empty: there is nothing to compose. Connect Load Style LoRA to the stack input; a LoRA with "
            "both strengths 0 does not count."
        )
    return stacked


def say_unused(stack: StyleStack, *conditionings: list) -> None:
    """Logs that LoRAs have text-encoder parts, unless a CONDITIONING was encoded with them."""
    if unused := unused_texts(stack, *conditionings):
        logging.info("MixLoRA: %s", unused)


def ksampler_inputs() -> list[Any]:
    """KSampler's own inputs, with its names, ranges and defaults."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The random seed of the noise.",
        ),
        io.Int.Input("steps", default=30, min=1, max=10000, tooltip="How many denoising steps."),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Classifier-free guidance: how closely the picture follows the prompt.",
        ),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip="The sampling algorithm."
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="normal",
            tooltip="How noise is taken away over the steps.",
        ),
        io.Conditioning.Input("positive", tooltip="What the picture shall show."),
        io.Conditioning.Input("negative", tooltip="What it shall not show."),
        io.Latent.Input("latent_image", tooltip="The latent to denoise."),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How much is denoised; less than 1 keeps the structure of the latent (image to image).",
        ),
    ]


@dataclass(frozen=True)
class KSamplerValues:
    """The values of `ksampler_inputs`."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    positive: Any
    negative: Any
    latent_image: Any
    denoise: float

    def steps_of(self, model: Any) -> int:
        """How many steps a run really has: some schedulers (ddim_uniform, beta) make more or fewer than asked for."""
        sampler = comfy.samplers.KSampler(
            model, self.steps, model.load_device, self.sampler_name, self.scheduler, self.denoise
        )
        return len(sampler.sigmas) - 1 if len(sampler.sigmas) else self.steps

    def sample(self, model: Any) -> dict:
        """What KSampler makes of them with this MODEL: previews, progress and masks included."""
        core: Any = importlib.import_module("nodes")  # ComfyUI's nodes.py, not this package
        (latent,) = core.common_ksampler(
            *(model, self.seed, self.steps, self.cfg, self.sampler_name, self.scheduler),
            *(self.positive, self.negative, self.latent_image),
            denoise=self.denoise,
        )
        return latent
