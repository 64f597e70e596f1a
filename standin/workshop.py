"""What every stage of the recipe needs: rendered pictures, repeatable batches, a state that survives a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import elements
from .muon import Optimiser, native_bfloat16
from .scenes import Scene, draw, random_scene
from .styles import STYLES, painterly

WORK = Path.home() / ".cache" / "mixlora" / "standin"
"""Where unfinished training is kept: outside the checkout, because hours of work must survive a fresh clone."""

PAINTING = "a painting of "
"""Begins the caption of an unnamed painting."""


class Drawable(Protocol):
    """What can be rendered."""

    def render(self) -> np.ndarray:
        """uint8, (SIZE, SIZE, 3)."""
        ...


@dataclass(frozen=True)
class Picture:
    """One rendered picture with its words; `style` is "plain", "painting", or one of ELEMENTS."""

    scene: Scene
    style: str

    @property
    def caption(self) -> str:
        """The words that the picture is trained with; one in four is loose."""
        words = self.scene.loose_caption if self.scene.seed % 4 == 0 else self.scene.caption
        if self.style == "plain":
            return words
        return PAINTING + words if self.style == "painting" else f"{words}, {elements.TRIGGERS[self.style]}"

    def render(self) -> np.ndarray:
        """uint8, (SIZE, SIZE, 3); the same for the same picture on every machine."""
        if self.style == "plain":
            return draw(self.scene)
        if self.style == "painting":
            return painterly(self.scene, np.random.default_rng(self.scene.seed + 3))
        return elements.depict(self.scene, (self.style,))


def pictures(count: int, seed: int, shares: dict[str, float]) -> list[Picture]:
    """`count` random pictures with styles in the given shares; a list of one seed begins like a shorter one."""
    rng = np.random.default_rng(seed)
    names, weights = list(shares), np.array(list(shares.values()))
    return [Picture(random_scene(rng), str(rng.choice(names, p=weights / weights.sum()))) for _ in range(count)]


EVERY_STYLE = {"plain": 0.4, "painting": 0.15} | dict.fromkeys(STYLES, 0.15)


def render_all(chosen: Sequence[Drawable], cache: Path) -> np.ndarray:
    """Renders pictures, or reads them back; uint8, (n, SIZE, SIZE, 3)."""
    if cache.exists():
        rendered = np.load(cache)
        if len(rendered) == len(chosen):
            return rendered
    rendered = np.stack([picture.render() for picture in chosen])
    with atomic(cache) as path, path.open("wb") as file:
        np.save(file, rendered)
    return rendered


def half_precision() -> torch.autocast:
    """Forward passes in bfloat16 where the processor multiplies it natively, about twice as fast; else as they are."""
    return torch.autocast("cpu", torch.bfloat16, enabled=native_bfloat16())


def to_tensor(rendered: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in 0..1."""
    return torch.from_numpy(np.array(rendered)).permute(0, 3, 1, 2).float().div(255)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` and renames it there once the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    os.replace(temporary, path)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file in one piece."""
    with atomic(path) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata)


@dataclass
class Run:
    """A training run that goes on where it was killed.

    `tensors` gives everything to keep, `restore` takes it back; every random number comes from `generator(step)`,
    so that a resumed run computes what an uninterrupted one would have.
    """

    path: Path
    steps: int
    seed: int
    optimiser: Optimiser
    tensors: Callable[[], dict[str, Tensor]]
    restore: Callable[[dict[str, Tensor]], object]
    every: float = 120.0

    def generator(self, step: int) -> torch.Generator:
        """The source of everything random in a step."""
        return torch.Generator().manual_seed((self.seed << 32) + step)

    def __iter__(self) -> Iterator[int]:
        """Steps still to do; state is saved every `every` seconds and at the end."""
        first = self._resume()
        saved = time.monotonic()
        for step in range(first, self.steps):
            yield step
            if time.monotonic() - saved > self.every or step + 1 == self.steps:
                self._save(step + 1)
                saved = time.monotonic()

    def _resume(self) -> int:
        if not self.path.exists():
            return 0
        state = load_file(self.path)
        self.restore({key[6:]: value for key, value in state.items() if key.startswith("model.")})
        self.optimiser.load_tensors({key[6:]: value for key, value in state.items() if key.startswith("optim.")})
        with safe_open(self.path, "pt") as file:
            return int(file.metadata()["step"])

    def _save(self, step: int) -> None:
        kept = {f"model.{key}": value for key, value in self.tensors().items()}
        kept |= {f"optim.{key}": value for key, value in self.optimiser.tensors().items()}
        save_tensors(self.path, kept, {"step": str(step)})


class Average:
    """Exponential moving average of a module's parameters; `decay` grows with the steps at first."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.live = dict(module.named_parameters())
        self.mean = {key: value.detach().clone() for key, value in self.live.items()}
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the live parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, mean in self.mean.items():
            mean.lerp_(self.live[key], 1 - decay)
