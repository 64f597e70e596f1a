"""Paints jobs in this process through ComfyUI's own sampling: one picture at a time, its noise from its seed alone.

No batches: a picture must be the same bits whichever others are still to be painted.
"""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .jobs import ElementSet, EvaluationError, Job
from .methods import policy
from .policies import Encode, Plain
from .testbeds import ROLES, Testbed, digests

TEXTS_KEPT = 16
_TIMER = "mixlora.evaluation"


@dataclass(frozen=True)
class Painted:
    """What became of a job: the PNG file's bytes and how long sampling took, or the error."""

    job: Job
    png: bytes = b""
    seconds: float = 0.0
    error: str = ""
    machine: str = ""
    """The name of the one that painted it."""


@dataclass(eq=False)
class Painter:
    """Paints a testbed's jobs. Files are read when first needed; one checkpoint and its adapters are kept.

    `import_comfy` must have been called.
    """

    testbed: Testbed
    _loaded_from: tuple[Path, Path | None] | None = None
    _models: Any = None
    _files: dict[Path, Any] = field(default_factory=dict)
    _texts: dict[tuple[Any, str], list] = field(default_factory=dict)

    def paint(self, job: Job) -> tuple[np.ndarray, float]:
        """The picture, uint8 (height, width, 3), and the seconds that sampling took, loading and decoding not counted.

        Raises EvaluationError where files are not those of the job, AdapterError for adapters that do not fit.
        """
        import comfy.sample
        import torch

        from ..standin.sampling import to_uint8

        if digests(self.testbed, job.set) != job.files:
            raise EvaluationError("the files here are not those that the job names; read the plan again.")
        if unknown := unknown_samplers([job]):  # ComfyUI would take another one
            raise EvaluationError(" ".join(unknown))
        how, (model, clip, vae) = job.sampling, self._loaded(job.set.world)
        stack = self._stack(job.set, job.method.strength)
        model, encode = policy(job.method).reading(job.prompt).apply(model, clip, stack)
        with torch.inference_mode():
            positive, negative = self._encoded(encode, job.prompt), self._encoded(encode, job.negative)
            empty = torch.zeros(1, 4, how.height // 8, how.width // 8)
            empty = comfy.sample.fix_empty_latent_channels(model, empty)
            model, seconds = _timed(model)
            with self.testbed.precision():
                sampled = comfy.sample.sample(
                    *(model, comfy.sample.prepare_noise(empty, job.seed), how.steps, how.cfg),
                    *(how.sampler_name, how.scheduler, positive, negative, empty),
                    disable_pbar=True,
                    seed=job.seed,
                )
            return to_uint8(vae.decode(sampled))[0], sum(seconds)

    def attempt(self, job: Job) -> Painted:
        """`paint` as a file, or as what went wrong."""
        try:
            picture, seconds = self.paint(job)
        except Exception as error:
            return Painted(job, error=f"{type(error).__name__}: {error}")
        return Painted(job, png(picture), seconds, machine=platform.node())

    def _loaded(self, world: str) -> tuple[Any, Any, Any]:
        import comfy.sd
        import comfy.utils

        files = checkpoint, other = self.testbed.checkpoint(world), self.testbed.vae(world)
        if files != self._loaded_from:
            self._models = None  # two of them may not fit
            self._files.clear()
            model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(checkpoint))[:3]
            if other is not None:
                vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(other)))
            self._loaded_from, self._models = files, (model, clip, vae)
        return self._models

    def _encoded(self, encode: Encode, text: str) -> list:
        """The text's conditioning; the last ones of text encoders are kept, for the next method reads the same."""
        if not isinstance(encode, Plain):
            return encode(text)
        key = (encode.clip.patcher.patches_uuid, text)  # adapters without a text half leave the CLIP as it is
        kept = self._texts.pop(key, None)
        self._texts[key] = encode(text) if kept is None else kept
        if len(self._texts) > TEXTS_KEPT:
            del self._texts[next(iter(self._texts))]
        return self._texts[key]

    def _stack(self, chosen: ElementSet, strength: float) -> Any:
        from ..mixlora_core.files import lora_file
        from ..mixlora_core.stack import StackEntry, StyleStack

        entries = []
        for name in chosen.elements:
            path = self.testbed.adapter(name)
            if path not in self._files:
                self._files[path] = lora_file.read(path)
            role = ROLES.get(self.testbed.elements[name].category, "")
            entries.append(StackEntry(path.name, self._files[path], strength, strength, role))
        return StyleStack(tuple(entries))


def here(painter: Painter, jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Painted]:
    """Paints one job after the other in this process, until asked to stop."""
    for job in jobs:
        if stop():
            return
        yield painter.attempt(job)


def unknown_samplers(jobs: Sequence[Job]) -> list[str]:
    """Samplers and schedulers that this ComfyUI does not have, in words. `import_comfy` must have been called."""
    from comfy.samplers import KSampler

    asked = {("sampler_name", job.sampling.sampler_name) for job in jobs}
    asked |= {("scheduler", job.sampling.scheduler) for job in jobs}
    known = {"sampler_name": KSampler.SAMPLERS, "scheduler": KSampler.SCHEDULERS}
    return [
        f"{option} {name!r} is unknown to this ComfyUI; expected one of {', '.join(known[option])}."
        for option, name in sorted(asked)
        if name not in known[option]
    ]


def png(picture: np.ndarray) -> bytes:
    """A uint8 picture as the bytes of a PNG file."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


def _timed(model: Any) -> tuple[Any, list[float]]:
    """A clone that notes how long its sampler ran: ComfyUI loads models and patches weights before that."""
    from comfy.patcher_extension import WrappersMP

    seconds: list[float] = []

    def sample(execute: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return execute(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - began)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _TIMER, sample)
    return clone, seconds
