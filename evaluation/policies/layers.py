"""Policies with coefficients for layers: concept and style by K-LoRA's timetable, and mixes learned by `training`."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...mixlora_core import composition
from ...mixlora_core.composition.layers import Rise
from ...mixlora_core.files import hashes
from ...mixlora_core.layers import blocks
from ...mixlora_core.layers.learned_mix import LearnedMix, read, tensor_hash
from ...mixlora_core.stack import CONCEPT, STYLE, StyleStack
from ..jobs import EvaluationError
from .base import Composed, Encode, check_together, scaled

SUM, ROOT = "sum", "root"


@dataclass(frozen=True)
class ConceptStyle(Composed):
    """In each layer concepts first, then styles (arXiv 2502.18461); roles come from the elements' categories.

    `mode`: "sum" lets everyone speak at λ, "root" at λ/√n, n being how many of the stack can speak at once. `by` is
    what turns as one: "layer", "attention", "block" or "all". A set without a style, or without a concept, is a merge.
    """

    text: str = "all"
    alpha: float = 1.5
    beta: float = 0.5
    by: str = blocks.LAYER
    mode: str = SUM

    def __post_init__(self) -> None:
        check_together(self.text)
        if self.mode not in (SUM, ROOT):
            raise EvaluationError(f"mode is {self.mode!r}; expected {SUM} or {ROOT}.")
        Rise(self.alpha, self.beta)
        blocks.grouping(self.by)

    def composition(self, adapters: int) -> composition.Composition:
        """Without roles everyone speaks in every step."""
        return composition.Merge(adapters)

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the timetable of this stack attached."""
        from ...mixlora_core.layers.concept_style import Settings, composed

        if self.mode == ROOT:
            stack = scaled(stack, 1 / math.sqrt(at_once(stack)))
        model, _ = composed(model, stack, Settings(Rise(self.alpha, self.beta), self.by))
        return model, self._encoder(model, clip, stack)


@dataclass(frozen=True)
class Learned(Composed):
    """Coefficients by adapter and block from a file that `training/learn_mix.py` or `evaluation.tuning` wrote.

    `file` is such a file, or a folder of them, in which each set finds the one for its adapters; it may be relative to
    the working directory. `digest` is found out and becomes part of the pictures' keys: another file is another method.
    """

    text: str = "all"
    file: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        check_together(self.text)
        found = _digest(self.file)
        if self.digest and self.digest != found:
            raise EvaluationError(f"{self.file} has changed since the plan was read; read the plan again.")
        object.__setattr__(self, "digest", found)

    def composition(self, adapters: int) -> composition.Composition:
        """One branch, as a merge."""
        return composition.Merge(adapters)

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """Weights of the UNet with the learned mix in them; the text encoder gets the stack's as `text` says."""
        from ...mixlora_core.layers.learned_mix import applied

        return applied(model, stack, _mix_for(self.file, stack)), self._encoder(model, clip, stack)


def at_once(stack: StyleStack) -> int:
    """How many entries speak at once at most: the larger of the two roles, and those without a role."""
    counts = Counter(entry.role for entry in stack.entries)
    if not (counts[CONCEPT] and counts[STYLE]):
        return len(stack.entries)
    return max(counts[CONCEPT], counts[STYLE]) + counts[""]


def _files(place: str) -> list[Path]:
    path = Path(place).expanduser()
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not place or not found or not all(one.is_file() for one in found):
        raise EvaluationError(f"file is {place!r}; expected a learned mix, or a folder with some (.safetensors).")
    return found


def _digest(place: str) -> str:
    """SHA-256 of all that the files say; read each time, for a file may change. No file's name is part of it."""
    total = hashlib.sha256()
    for digest in sorted(hashes.of_file(path)[0] for path in _files(place)):
        total.update(digest.encode())
    return total.hexdigest()


def _mix_for(place: str, stack: StyleStack) -> LearnedMix:
    files = _files(place)
    mixes = {path: read(path) for path in files}
    if len(files) == 1:
        return mixes[files[0]]  # whose own message says best what does not fit
    wanted = {tensor_hash(entry.file) for entry in stack.entries}
    fitting = [path for path, mix in mixes.items() if {one.sha256 for one in mix.adapters} == wanted]
    if len(fitting) != 1:
        names = " + ".join(entry.lora_name for entry in stack.entries)
        found = "none" if not fitting else " and ".join(path.name for path in fitting)
        raise EvaluationError(f"{place}: expected one learned mix for {names}, found {found} of {len(files)} files.")
    return mixes[fitting[0]]
