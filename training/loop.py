"""The training loop: from tensors and a frozen UNet to a trained LoRA, stoppable and resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .base import Base
from .checkpoint import Autosave, State
from .distribution import World
from .lora import LoRA
from .run import Run
from .samples import Samples
from .settings import TrainSettings
from .watching import Watch


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
    world: World | None = None,
    make_run: Callable[[Base, Samples, TrainSettings, World], Run] = Run,
) -> Trained:
    """Trains a LoRA on `samples`, for the layers of the base that the settings name.

    Where the base lies and in which format it computes is the caller's choice; the samples move to it. With `autosave`
    the state is written as it says, and after the first step also when `stop` answers true (asked before each batch) or
    anything fails; a run resumed from it is the uninterrupted run, on a CPU to the last bit. The finished run's state
    stays for the caller to remove. `watch` is called between steps, see Watch. Of several processes (`world`), each of
    which calls this with the same base, samples and settings, only the main one saves and reports. `make_run` makes a
    Run that trains something else than a LoRA. Raises NonFiniteLossError, TrainingError for another run's state,
    OSError where a stopped run cannot be written.
    """
    run = make_run(base, samples, settings, world := world or World())
    if not world.main:
        autosave = on_step = watch = None
    if world.size > 1:
        world.agree(run.recipe, base.device)
    state = autosave.load(run.recipe) if autosave and autosave.resume and autosave.exists() else None
    run.restore(state.tensors if state else {})
    if watch and state:
        watch.restore(state.tensors)
    first, seconds, progress = run.step, 0.0, None

    def save(write: Callable[[State], None] | None) -> None:
        if write and run.step:  # before the first step there is nothing to lose, and the next attempt is free
            write(run.state(watch.tensors() if watch else {}))

    with run.lora.attached(base.unet):
        while True:
            try:
                with run.telling_others():
                    if progress and on_step:
                        on_step(progress)
                    if watch:
                        watch(run)
                    if progress and autosave and autosave.due(run.step):
                        save(autosave.try_to_save)
                if run.step == settings.steps:
                    break
                began = time.monotonic()
                found = run.gradient(stop)
            except BaseException:  # whatever it was, the weights are those after the last whole step
                save(autosave and autosave.save)
                raise
            if found is None:
                break
            lr = run.update(*found)
            seconds += time.monotonic() - began
            speed = (run.step - first) * settings.global_batch / seconds
            progress = Progress(run.step, settings.steps, run.losses[-1], found[1], lr, speed)

    finished = run.step == settings.steps
    if autosave:  # a finished run has its result, which may find room on a disk that the state does not
        save(autosave.try_to_save if finished else autosave.save)
    with torch.no_grad():
        run.lora.flat.copy_(run.result)
    return Trained(run.lora, run.losses, finished)
