"""The training loop: from tensors and a frozen UNet to a trained LoRA, stoppable and resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .base import Base
from .checkpoint import Autosave, State
from .draw import Draw, Draws
from .files import digest
from .lora import LoRA
from .objective import clip_norm_, learning_rate, min_snr_weight, noisy_and_target
from .samples import Samples
from .settings import TrainingError, TrainSettings
from .targets import target_layers
from .watching import Watch

_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state beside its step count
_FP16_LOSS_SCALE = 2.0**12  # gradients of a mean over tens of thousands of numbers lie below fp16's smallest otherwise


class NonFiniteLossError(TrainingError):
    """The loss or the gradient of a step is infinite or NaN; the message names the pictures."""


@dataclass(frozen=True)
class Progress:
    """A finished step, as `on_step` gets it."""

    step: int
    """Counted from 1."""
    steps: int
    loss: float
    """Mean of the weighted losses of the step's samples."""
    gradient_norm: float
    """Before clipping."""
    lr: float
    samples_per_second: float
    """Of this session's steps, without what the watch does between them."""


@dataclass(frozen=True)
class Trained:
    """What `train` gives back: a finished adapter, or as far as it came before it was asked to stop."""

    lora: LoRA
    losses: list[float]
    finished: bool

    @property
    def steps(self) -> int:
        """Updates that this adapter has seen."""
        return len(self.losses)


def train(
    base: Base,
    samples: Samples,
    settings: TrainSettings,
    *,
    autosave: Autosave | None = None,
    on_step: Callable[[Progress], None] | None = None,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Trains a LoRA for the base's attention layers on `samples`.

    Where the base lies and in which format it computes is the caller's choice; the samples move to it. With `autosave`
    the state is written as it says, and also when `stop` answers true (asked before each batch) or anything fails; a
    run resumed from it is the uninterrupted run, on a CPU to the last bit. The finished run's state stays for the
    caller to remove. `watch` is called between steps, see Watch. Raises NonFiniteLossError, TrainingError for another
    run's state, OSError where a stopped run cannot be written.
    """
    run = _Run(base, samples, settings)
    if autosave and autosave.resume and autosave.exists():
        state = autosave.load(run.recipe)
        run.restore(state)
        if watch:
            watch.restore(state.tensors)
    first, seconds, progress = run.step, 0.0, None

    def save(write: Callable[[State], None] | None) -> None:
        if write:
            write(run.state(watch.tensors() if watch else {}))

    with run.lora.attached(base.unet):
        while True:
            try:
                if progress and on_step:
                    on_step(progress)
                if watch:
                    watch(run)
                if progress and autosave and autosave.due(run.step):
                    save(autosave.try_to_save)
                if run.step == settings.steps:
                    break
                began = time.monotonic()
                losses = run.gradient(stop)
            except BaseException:  # whatever it was, the weights are those after the last whole step
                save(autosave and autosave.save)
                raise
            if losses is None:
                break
            norm, lr = run.update(losses)
            seconds += time.monotonic() - began
            speed = (run.step - first) * settings.global_batch / seconds
            progress = Progress(run.step, settings.steps, run.losses[-1], norm, lr, speed)

    finished = run.step == settings.steps
    if autosave:  # a finished run has its result, which may find room on a disk that the state does not
        save(autosave.try_to_save if finished else autosave.save)
    with torch.no_grad():
        run.lora.flat.copy_(run.result)
    return Trained(run.lora, run.losses, finished)


class _Run:
    """One run's tensors. `gradient` touches nothing but gradients, `update` makes the step."""

    def __init__(self, base: Base, samples: Samples, settings: TrainSettings) -> None:
        self.base, self.settings = base, settings
        device, layout = base.device, torch.channels_last if settings.channels_last else torch.contiguous_format
        base.unet.requires_grad_(False).eval().to(memory_format=layout)
        self.layout = layout
        layers = target_layers(base.unet, settings.targets, settings.blocks)
        self.lora = LoRA(layers, settings.rank, settings.alpha, seed=settings.seed, device=device)
        self.optimizer = torch.optim.AdamW([self.lora.flat], settings.lr, weight_decay=settings.weight_decay)
        self.ema = self.lora.flat.detach().clone() if settings.ema else None
        self.losses: list[float] = []
        if settings.caption_dropout and samples.empty is None:
            raise TrainingError(
                "caption_dropout needs the empty caption's context: give Samples(empty=...), or set it to 0."
            )
        self.samples = samples.to(device, base.dtype)
        self.digest = samples.digest()
        self.draws = Draws(
            seed=settings.seed, shapes=samples.shapes, repeats=samples.repeats,
            variants=[len(rows) for rows in samples.rows], batch=settings.batch, accumulate=settings.accumulate,
            timesteps=len(base.alphas_cumprod), caption_dropout=settings.caption_dropout, flips=bool(samples.flipped),
        )  # fmt: skip
        self.alphas_cumprod = base.alphas_cumprod.to(device, torch.float32)
        self.loss_scale = _FP16_LOSS_SCALE if base.dtype == torch.float16 else 1.0

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def result(self) -> Tensor:
        """What the adapter would be if the run ended now, as its flat vector."""
        return self.lora.flat.detach() if self.ema is None else self.ema

    @cached_property
    def recipe(self) -> dict[str, Any]:
        base, settings = self.base, self.settings.shaping_result()
        weights = base.sha256 or digest(*base.unet.parameters())
        return {**settings, "dtype": str(base.dtype), "base": weights, "samples": self.digest}

    def gradient(self, stop: Callable[[], bool]) -> Tensor | None:
        """Adds up the step's gradient in ``lora.gradient`` and returns the samples' losses; None if asked to stop."""
        settings, losses, pictures = self.settings, [], []
        self.lora.gradient.zero_()
        for batch in range(settings.accumulate):
            if stop():
                return None
            drawn = self.draws.batch_at(self.step * settings.accumulate + batch)
            pictures += [sample.picture for sample in drawn]
            loss = self.losses_of(self.samples, drawn)
            self.lora.backward(loss.mean() * (self.loss_scale / settings.accumulate))
            losses.append(loss.detach())
        gathered = torch.cat(losses)
        self.lora.gradient.div_(self.loss_scale)
        self._check_finite(gathered, pictures)
        return gathered

    def update(self, losses: Tensor) -> tuple[float, float]:
        """Clips, steps, averages; returns the gradient's norm before clipping and the learning rate."""
        lr = learning_rate(self.settings, self.step)
        norm = clip_norm_(self.lora.gradient, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        if self.ema is not None:  # a young average follows quickly, or it would hold on to the random start
            decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            self.ema.lerp_(self.lora.flat.detach(), 1 - decay)
        self.losses.append(losses.mean().item())
        return norm, lr

    def state(self, more: Mapping[str, Tensor]) -> State:
        """Everything that the next steps depend on, and what the watch wants to find again."""
        flat = self.lora.flat
        moments = self.optimizer.state.get(flat, {})  # none before the first step
        tensors = {"flat": flat, **{name: moments.get(name, torch.zeros_like(flat)) for name in _MOMENTS}}
        if self.ema is not None:
            tensors["ema"] = self.ema
        tensors["losses"] = torch.tensor(self.losses)
        tensors |= more
        return State(self.step, {name: tensor.detach().cpu() for name, tensor in tensors.items()}, self.recipe)

    def restore(self, state: State) -> None:
        """Continues from `state`, whose recipe is this run's."""
        flat, tensors = self.lora.flat, state.tensors
        with torch.no_grad():
            flat.copy_(tensors["flat"])
            if self.ema is not None:
                self.ema.copy_(tensors["ema"])
        self.optimizer.state[flat] = {
            "step": torch.tensor(float(state.step)),
            **{name: tensors[name].to(flat.device) for name in _MOMENTS},
        }
        self.losses = tensors["losses"].tolist()

    def losses_of(self, samples: Samples, drawn: Sequence[Draw]) -> Tensor:
        """The weighted loss of each draw from `samples`, which lie where the base does."""
        device = self.base.device
        batch = samples.gather(drawn)
        noise = torch.stack([sample.noise for sample in drawn]).to(device)
        timesteps = torch.tensor([sample.timestep for sample in drawn], device=device)
        signal = self.alphas_cumprod[timesteps]

        noisy, target = noisy_and_target(batch.latents, noise, signal, self.base.prediction)
        noisy = noisy.to(self.base.dtype).contiguous(memory_format=self.layout)
        predicted = self.base(noisy, timesteps.float(), batch.context).float()
        error = (predicted - target).square().flatten(1).mean(1)
        return error * min_snr_weight(signal, self.settings.min_snr, self.base.prediction)

    def _check_finite(self, losses: Tensor, pictures: list[int]) -> None:
        names = [self.samples.names[picture] for picture in pictures]
        broken = [name for name, fine in zip(names, torch.isfinite(losses).tolist(), strict=True) if not fine]
        if not broken and torch.isfinite(self.lora.gradient).all():
            return
        what = "loss" if broken else "gradient"
        raise NonFiniteLossError(
            f"The {what} of step {self.step + 1} is not finite, with: {', '.join(sorted(set(broken or names)))}. "
            f"The adapter after step {self.step} is kept. Look at these pictures and captions; otherwise lower the "
            "learning rate, or compute in fp32 (dtype)."
        )
