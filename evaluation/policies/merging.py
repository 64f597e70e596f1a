"""Policies of merges that regard interference: SSR-Merge, NP-LoRA."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...mixlora_core.merging.null_space import NullSpaceSettings
from ...mixlora_core.merging.ssr import SSRSettings
from ...mixlora_core.stack import StyleStack
from ..jobs import Element, EvaluationError
from ..testbeds import StandinTestbed, digest
from .base import Encode, Plain, Policy

STYLE, STACK, REVERSE = "style", "stack", "reverse"
FIRST = (STYLE, STACK, REVERSE)
KEPT = 8
"""How many stacks' statistics a process keeps for each model."""

_heard: weakref.WeakKeyDictionary[Any, OrderedDict[tuple, Any]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class SSR(Policy):
    """SSR-Merge: each input goes to the adapter that it belongs to, learnt from short runs of each adapter alone.

    The runs are no part of a picture's cost: they are made once for a stack, and seeds and ridges share them.
    """

    ridge: float = 1e-4
    unseen: str = "silent"
    steps: int = 4
    size: int = 128
    """Of the runs' pictures, in pixels a side: the stand-in's; SD v1.5 wants 512."""

    def __post_init__(self) -> None:
        SSRSettings(self.ridge, self.unseen)
        if self.steps < 1 or self.size < 64 or self.size % 64:
            raise EvaluationError(
                f"steps is {self.steps} and size {self.size}; expected 1 or more, and a multiple of 64."
            )

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """Weights of the UNet and of the text encoder with the merge in them."""
        from ...mixlora_core.merging.calibration import Calibration, calibrate
        from ...mixlora_core.merging.merged import merge_ssr

        files = tuple((digest(Path(e.file.identity.path)), e.strength_model, e.strength_clip) for e in stack.entries)
        key = (files, clip.patcher.patches_uuid, self.steps, self.size)
        kept = _heard.setdefault(model.model, OrderedDict())
        if key not in kept:
            known = [element(Path(entry.file.identity.path)) for entry in stack.entries]
            spoken = [one.trigger if one else "" for one in known]
            kept[key] = calibrate(model, clip, stack, Calibration(steps=self.steps, size=self.size), spoken)
            if len(kept) > KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        merged = merge_ssr(model, clip, kept[key], SSRSettings(self.ridge, self.unseen))
        return merged.model, Plain(merged.clip)


@dataclass(frozen=True)
class NullSpace(Policy):
    """NP-LoRA: adapters give way on the inputs of those before them.

    `first`: who gives way to nobody. "style": the element of the testbed's category style, then the others as stacked;
    a set without one goes as stacked. "stack": as stacked, so the character or landmark. "reverse": the last of it.
    """

    mu: float = 0.5
    first: str = STYLE

    def __post_init__(self) -> None:
        NullSpaceSettings(self.mu)
        if self.first not in FIRST:
            raise EvaluationError(f"first is {self.first!r}; expected one of {', '.join(FIRST)}.")

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """Weights of the UNet and of the text encoder with the merge in them."""
        from ...mixlora_core.merging.merged import merge_null_space

        order = priority(self.first, [Path(entry.file.identity.path) for entry in stack.entries])
        merged = merge_null_space(model, clip, stack, NullSpaceSettings(self.mu, order))
        return merged.model, Plain(merged.clip)


def priority(first: str, files: Sequence[Path]) -> tuple[int, ...]:
    """Places in the stack in their order of priority; `files` are the adapters'."""
    places = range(len(files))
    if first == REVERSE:
        return tuple(reversed(places))
    known = [element(path) for path in files]
    styles = [one is not None and one.category == STYLE for one in known]
    return tuple(sorted(places, key=lambda place: first == STYLE and not styles[place]))


def element(path: Path) -> Element | None:
    """What a testbed's adapter file brings; None for a file of none."""
    return _elements().get(f"{path.parent.name}/{path.stem}") or _elements().get(path.stem)


@lru_cache(maxsize=1)
def _elements() -> dict[str, Element]:
    """The stand-in's elements by the file's name, ComposLoRA's by folder and name."""
    from ..composlora import ComposLoRA

    other = ComposLoRA()
    return {**StandinTestbed().elements, **{other.sources[name].file: one for name, one in other.elements.items()}}
