"""Paints many pictures with the stand-in in this process, through ComfyUI's own sampling; no picture twice.

The UNet multiplies in bfloat16 where the processor does so natively: half the time, and no difference to see.

A picture depends on the checkpoint, the adapters, the prompt, the seed and the settings, and is kept under a digest of
these. Its noise is its own, so that it does not matter which pictures are painted in one batch with it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .scenes import SIZE
from .workshop import atomic, half_precision, to_tensor

Strengths = tuple[tuple[str, float], ...]
"""Name of an adapter and its λ, in the order of application."""


@dataclass(frozen=True, order=True)
class Shot:
    """One picture to paint."""

    strengths: Strengths
    prompt: str
    seed: int


@dataclass(frozen=True)
class Settings:
    """How pictures are sampled; the names are those of ComfyUI's KSampler."""

    steps: int = 30
    cfg: float = 2.0
    sampler_name: str = "euler"
    scheduler: str = "normal"


@dataclass
class Painter:
    """A checkpoint with its adapters, and the folder in which its pictures are kept.

    Files are read when first needed. `import_comfy` must have been called.
    """

    checkpoint: Path
    adapters: Mapping[str, Path]
    folder: Path
    settings: Settings = field(default_factory=Settings)
    batch: int = 8
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self._states: dict[tuple[Any, str], Tensor] = {}
        self._planned: set[Path] = set()
        self._seconds, self._painted = 0.0, 0

    @property
    def vae(self) -> Any:
        """The checkpoint's autoencoder as ComfyUI's VAE."""
        return self._models[2]

    def path(self, shot: Shot) -> Path:
        """Where the picture is kept."""
        adapters = [[self._digests[name], strength] for name, strength in shot.strengths if strength]
        what = [self._digest, adapters, shot.prompt, shot.seed, asdict(self.settings)]
        return self.folder / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]}.png"

    def plan(self, shots: Sequence[Shot]) -> None:
        """Counts these pictures into the time left that is printed, as far as they are still to be painted."""
        self._planned |= {path for path in map(self.path, shots) if not path.exists()}

    def paint(self, shots: Sequence[Shot], title: str) -> np.ndarray:
        """The pictures, uint8 (n, 128, 128, 3), read back or painted. Raises KeyError for an unknown adapter."""
        self.plan(shots)
        todo = sorted({shot for shot in shots if not self.path(shot).exists()})
        done = 0
        for strengths, group in groupby(todo, key=lambda shot: shot.strengths):
            alike = list(group)
            for start in range(0, len(alike), self.batch):
                part = alike[start : start + self.batch]
                began = time.monotonic()
                for shot, picture in zip(part, self._sample(strengths, part), strict=True):
                    self._keep(shot, picture)
                self._seconds += time.monotonic() - began
                done += len(part)
                self.say(f"{title}: {done} of {len(todo)} painted, {self._forecast()}")
        read = [np.asarray(Image.open(self.path(shot)).convert("RGB")) for shot in shots]
        return np.stack(read) if read else np.zeros((0, SIZE, SIZE, 3), np.uint8)

    def _keep(self, shot: Shot, picture: np.ndarray) -> None:
        path = self.path(shot)
        with atomic(path) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
        self._planned.discard(path)
        self._painted += 1

    def _forecast(self) -> str:
        pace = self._seconds / max(1, self._painted)
        return f"{pace:.1f} s a picture, {len(self._planned) * pace / 60:.0f} min for the {len(self._planned)} left"

    @torch.inference_mode()
    def _sample(self, strengths: Strengths, shots: Sequence[Shot]) -> np.ndarray:
        import comfy.sample

        model, clip, vae = self._models
        model, clip = with_adapters(model, clip, [(self.adapters[name], strength) for name, strength in strengths])
        latent = torch.zeros(len(shots), 4, SIZE // 8, SIZE // 8)
        sources = (torch.Generator().manual_seed(shot.seed) for shot in shots)  # KSampler's noise for one picture
        noise = torch.cat([torch.randn(latent[:1].shape, generator=source) for source in sources])
        positive, negative = torch.cat([self._encode(clip, shot.prompt) for shot in shots]), self._encode(clip, "")
        how = self.settings
        with half_precision():
            sampled = comfy.sample.sample(
                *(model, noise, how.steps, how.cfg, how.sampler_name, how.scheduler),
                *([[positive, {}]], [[negative, {}]], latent),
                disable_pbar=True,
            )
        return to_uint8(vae.decode(sampled))

    def _encode(self, clip: Any, prompt: str) -> Tensor:
        key = (clip.patcher.patches_uuid, prompt)  # adapters without a text half leave the CLIP as it is
        if key not in self._states:
            self._states[key] = clip.encode_from_tokens(clip.tokenize(prompt))
        return self._states[key]

    @cached_property
    def _models(self) -> tuple[Any, Any, Any]:
        import comfy.sd

        return comfy.sd.load_checkpoint_guess_config(str(self.checkpoint))[:3]

    @cached_property
    def _digest(self) -> str:
        return file_digest(self.checkpoint)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: file_digest(path) for name, path in self.adapters.items()}


def with_adapters(model: Any, clip: Any, adapters: Sequence[tuple[Path, float]]) -> tuple[Any, Any]:
    """MODEL and CLIP with the adapter files mixed in as the node MixLoRAWeights does by default: ΔW = Σ λᵢ ΔWᵢ."""
    from ..mixlora_core.files import lora_file
    from ..mixlora_core.mixing.weighted_mix import MixSettings, mix
    from ..mixlora_core.stack import StackEntry, StyleStack

    entries = [StackEntry(path.name, lora_file.read(path), strength, strength) for path, strength in adapters]
    mixed = mix(model, clip, StyleStack(tuple(entries)), MixSettings())
    return mixed.model, mixed.clip


@torch.inference_mode()
def round_trip(vae: Any, rendered: np.ndarray, batch: int = 8) -> np.ndarray:
    """uint8 pictures (n, h, w, 3) through ComfyUI's VAE and back."""
    starts = range(0, len(rendered), batch)
    parts = [to_tensor(rendered[start : start + batch]).permute(0, 2, 3, 1) for start in starts]
    return np.concatenate([to_uint8(vae.decode(vae.encode(pixels))) for pixels in parts])


def to_uint8(seen: Tensor) -> np.ndarray:
    """ComfyUI's IMAGE, floats (n, h, w, 3) in 0..1, to uint8 as its SaveImage does."""
    return (255.0 * seen.float().cpu()).clamp(0, 255).byte().numpy()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
