"""The tensors of one run: a step's gradient from all its micro-batches and processes, its update, its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .base import Base
from .checkpoint import State
from .distribution import World
from .draw import Draw, Draws, generator
from .files import digest, serialise
from .lora import LoRA
from .objective import clip_norm_, learning_rate, min_snr_weight, noisy_and_target, offset_noise
from .optimizers import make_optimizer, optimizer_tensors, rate, restore_optimizer
from .samples import Samples
from .settings import TrainingError, TrainSettings
from .targets import target_layers

_FP16_LOSS_SCALE = 2.0**12  # gradients of a mean over tens of thousands of numbers lie below fp16's smallest otherwise


class NonFiniteLossError(TrainingError):
    """The loss or the gradient of a step is infinite or NaN; the message names the pictures."""


class Run:
    """One run, as one process sees it. `gradient` touches nothing but gradients, `update` makes the step.

    Raises TrainingError for settings that the base, the samples or the number of processes do not allow.
    """

    def __init__(self, base: Base, samples: Samples, settings: TrainSettings, world: World) -> None:
        if settings.caption_dropout and samples.empty is None:
            raise TrainingError(
                "caption_dropout needs the empty caption's context: give Samples(empty=...), or set it to 0."
            )
        if world.size > settings.accumulate:
            raise TrainingError(
                f"accumulate: {settings.accumulate} batch(es) per step cannot be shared by {world.size} processes; "
                f"give {world.size} or more, and a smaller batch for as many samples per step."
            )
        _check_fit(base, samples)
        self.base, self.settings, self.world = base, settings, world
        device, layout = base.device, torch.channels_last if settings.channels_last else torch.contiguous_format
        base.unet.requires_grad_(False).eval().to(memory_format=layout)
        self.layout = layout
        self.lora = self.adapter()
        self.optimizer = make_optimizer(self.lora.flat, settings)
        # Summed in twice the digits: then it does not matter which process adds up which batches, and in what order.
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._total = torch.zeros_like(self.lora.gradient, dtype=wide)
        self.ema = self.lora.flat.detach().clone() if settings.ema else None
        self.losses: list[float] = []
        self.samples = samples.to(device, base.dtype)
        self.digest = samples.digest()
        self.draws = Draws(
            seed=settings.seed, shapes=samples.shapes, repeats=samples.repeats,
            variants=[len(rows) for rows in samples.rows], batch=settings.batch, accumulate=settings.accumulate,
            timesteps=len(base.alphas_cumprod), caption_dropout=settings.caption_dropout, flips=bool(samples.flipped),
        )  # fmt: skip
        self.alphas_cumprod = base.alphas_cumprod.to(device, torch.float32)
        self.loss_scale = _FP16_LOSS_SCALE if base.dtype == torch.float16 else 1.0

    def adapter(self) -> LoRA:
        """What is trained, at its start."""
        settings = self.settings
        layers = target_layers(self.base.unet, settings.targets, settings.blocks)
        return LoRA(layers, settings.rank, settings.alpha, seed=settings.seed, device=self.base.device)

    @property
    def step(self) -> int:
        """Updates so far."""
        return len(self.losses)

    @property
    def result(self) -> Tensor:
        """What the adapter would be if the run ended now, as its flat vector."""
        return self.lora.flat.detach() if self.ema is None else self.ema

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What the result depends on."""
        base, settings = self.base, self.settings.shaping_result()
        weights = base.sha256 or digest(*base.unet.parameters())
        return {**settings, "dtype": str(base.dtype), "base": weights, "samples": self.digest}

    def gradient(self, stop: Callable[[], bool]) -> tuple[list[float], float] | None:
        """Adds up the step's gradient, of all processes, in ``lora.gradient``. None if any was asked to stop.

        Returns the samples' losses and the gradient's norm. Raises NonFiniteLossError; but a gradient that fp16 has no
        room for is computed again with half the loss scale, until that is 1.
        """
        while found := self._scaled_gradient(stop):
            if self._overflowed(*found):
                self.loss_scale /= 2
                continue
            self._check_finite(*found)
            return found
        return None

    def _overflowed(self, losses: list[float], norm: float) -> bool:
        """Whether a smaller loss scale may help. All processes see the same numbers, and so agree."""
        return self.loss_scale > 1 and not math.isfinite(norm) and all(map(math.isfinite, losses))

    def _scaled_gradient(self, stop: Callable[[], bool]) -> tuple[list[float], float] | None:
        """One attempt at the gradient; its losses and its norm are all of a step that the host waits for."""
        settings, world = self.settings, self.world
        report = torch.zeros(settings.global_batch + 2, device=self.base.device)  # losses, stopped, failed
        self._total.zero_()
        with self.telling_others():
            for batch in range(world.rank, settings.accumulate, world.size):
                if stop():
                    report[-2] = 1
                    break
                drawn = self.draws.batch_at(self.step * settings.accumulate + batch)
                losses = self.training_losses(drawn)
                self.lora.gradient.zero_()
                self.lora.backward(losses.mean() * (self.loss_scale / settings.accumulate))
                self._total.add_(self.lora.gradient)
                report[batch * settings.batch :][: settings.batch] = losses.detach()
        world.sum_(report, self._total)
        self.lora.gradient.copy_(self._total.div_(self.loss_scale))
        norm = torch.linalg.vector_norm(self.lora.gradient)
        *losses, stopped, failed, norm = torch.cat([report, norm[None]]).tolist()
        if failed:
            raise TrainingError(f"Another process failed in step {self.step + 1}; its own message says why.")
        return None if stopped else (losses, norm)

    @contextmanager
    def telling_others(self) -> Iterator[None]:
        """An error in the block also ends the other processes, which would wait in the step's sum for ever."""
        try:
            yield
        except Exception:
            if self.step < self.settings.steps:
                report = torch.zeros(self.settings.global_batch + 2, device=self.base.device)
                report[-1] = 1
                self.world.sum_(report, self._total)
            raise

    def update(self, losses: list[float], norm: float) -> float:
        """Clips, steps, averages; returns the learning rate."""
        clip_norm_(self.lora.gradient, norm, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step)
        lr = rate(self.optimizer)
        self.optimizer.step()
        if self.ema is not None:  # a young average follows quickly, or it would hold on to the random start
            decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            self.ema.lerp_(self.lora.flat.detach(), 1 - decay)
        self.losses.append(math.fsum(losses) / len(losses))
        return lr

    def state(self, more: Mapping[str, Tensor]) -> State:
        """Everything that the next steps depend on, and what the watch wants to find again."""
        tensors = {"flat": self.lora.flat, **optimizer_tensors(self.optimizer), **more}
        if self.ema is not None:
            tensors["ema"] = self.ema
        if self.base.dtype == torch.float16:
            tensors["loss_scale"] = torch.tensor(self.loss_scale)
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return State(self.step, {name: tensor.detach().cpu() for name, tensor in tensors.items()}, self.recipe)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues from a state's tensors; of several processes, all from those of the main one, or none."""
        if self.world.size > 1:
            data = self.world.send(serialise(tensors, {}) if tensors else b"", self.base.device)
            tensors = safetensors.torch.load(data) if data else {}
        if not tensors:
            return
        with torch.no_grad():
            self.lora.flat.copy_(tensors["flat"])
            if self.ema is not None:
                self.ema.copy_(tensors["ema"])
        restore_optimizer(self.optimizer, tensors)
        if "loss_scale" in tensors:
            self.loss_scale = tensors["loss_scale"].item()
        self.losses = tensors["losses"].tolist()

    def losses_of(self, samples: Samples, drawn: Sequence[Draw]) -> Tensor:
        """The weighted loss of each draw from `samples`, which lie where the base does."""
        device = self.base.device
        batch = samples.gather(drawn)
        noise = self._noise(drawn).to(device, non_blocking=True)
        timesteps = torch.tensor([sample.timestep for sample in drawn], device=device)
        signal = self.alphas_cumprod[timesteps]

        noisy, target = noisy_and_target(batch.latents, noise, signal, self.base.prediction)
        noisy = noisy.to(self.base.dtype).contiguous(memory_format=self.layout)
        vector = (self.base.vector(batch.pooled, batch.sizes),) if self.base.vector else ()  # type: ignore[arg-type]
        predicted = self.base(noisy, timesteps.float(), batch.context, *vector).float()
        error = (predicted - target).square().flatten(1).mean(1)
        return error * min_snr_weight(signal, self.settings.min_snr, self.base.prediction)

    def training_losses(self, drawn: Sequence[Draw]) -> Tensor:
        """What a step's gradient is of, for each draw: its loss, and whatever else the training wants small."""
        return self.losses_of(self.samples, drawn)

    def _noise(self, drawn: Sequence[Draw]) -> Tensor:
        """On the CPU, as it was drawn."""
        noise, strength = torch.stack([sample.noise for sample in drawn]), self.settings.noise_offset
        if not strength:
            return noise
        sources = [generator(self.settings.seed, "noise offset", sample.number) for sample in drawn]
        offsets = torch.stack([torch.randn(noise.shape[1], generator=source) for source in sources])
        return offset_noise(noise, offsets, strength)

    def _check_finite(self, losses: list[float], norm: float) -> None:
        broken = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
        if not broken and math.isfinite(norm):
            return
        first = self.step * self.settings.accumulate
        drawn = [draw for batch in range(self.settings.accumulate) for draw in self.draws.batch_at(first + batch)]
        names = {self.samples.names[drawn[number].picture] for number in broken or range(len(drawn))}
        otherwise = ["lower the learning rate"] if self.step else []  # the first step's adapter does nothing yet
        otherwise += ["compute in fp32 (dtype)"] if self.base.dtype != torch.float32 else []
        raise NonFiniteLossError(
            f"The {'loss' if broken else 'gradient'} of step {self.step + 1} is not finite, with: "
            f"{', '.join(sorted(names))}. Look at these pictures and captions"
            f"{'; otherwise ' if otherwise else ''}{', or '.join(otherwise)}."
        )


def _check_fit(base: Base, samples: Samples) -> None:
    """Raises TrainingError for samples that were encoded for another family of models."""
    width = samples.context.shape[-1]
    if base.context_width not in (None, width):
        raise TrainingError(
            f"The base reads text {base.context_width} wide, the captions were encoded {width} wide (SD v1.5's are "
            "768, SDXL's 2048). Encode them with the text encoder of this base."
        )
    missing = [name for name in ("pooled", "sizes") if getattr(samples, name) is None]
    if base.vector and missing:
        raise TrainingError(f"An SDXL base needs Samples({'=..., '.join(missing)}=...); encode them with sdxl=True.")
