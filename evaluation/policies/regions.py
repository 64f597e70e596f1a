"""Policies of regions: each adapter speaks in its own part of the picture, found by itself or drawn by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...mixlora_core.regions.attention_masks import FromAttention
from ...mixlora_core.stack import StyleStack
from ..jobs import EvaluationError
from .base import Encode, Plain, Policy

TEXTS = ("base", "all")


@dataclass(frozen=True)
class Regions(Policy):
    """Masks from the run's own cross-attention (`attention_masks.FromAttention`).

    `text`: which text encoders read the prompt, the checkpoint's ("base") or with all adapters' parts ("all").
    """

    text: str = "all"
    listen: float = 0.2
    temperature: float = 0.5
    smooth: float = 1.0

    def __post_init__(self) -> None:
        if self.text not in TEXTS:
            raise EvaluationError(f"text is {self.text!r}; expected one of {', '.join(TEXTS)}.")
        self._wish()

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the composition attached, and prompts that say where the words are."""
        from ...mixlora_core.compose import composed
        from ...mixlora_core.composition import Regional
        from ...mixlora_core.regions.regional import with_texts
        from ...mixlora_core.text import encode_naming

        clip = with_texts(model, clip, stack) if self.text == "all" else clip
        made = composed(model, stack, Regional(len(stack.entries), self._wish()))
        return made, lambda prompt: encode_naming(clip, stack, prompt)

    def _wish(self) -> FromAttention:
        return FromAttention(self.listen, self.temperature, self.smooth)


@dataclass(frozen=True)
class Layout(Policy):
    """Masks by hand, as the node ApplyLoRARegions: a box for each adapter, who has none speaks everywhere.

    `boxes`: texts "NAME TOP LEFT BOTTOM RIGHT", the sides as shares of the picture's height and width; adapters that a
    set does not have are passed over. `overlap`: "sum" or "share", see `regions.masks`.
    """

    boxes: list = field(default_factory=list)
    overlap: str = "sum"

    def __post_init__(self) -> None:
        from ...mixlora_core.regions.masks import OVERLAPS

        if self.overlap not in OVERLAPS:
            raise EvaluationError(f"overlap is {self.overlap!r}; expected one of {', '.join(OVERLAPS)}.")
        if not self._sides():
            raise EvaluationError('boxes are missing; expected some such as "castle 0.2 0 0.8 0.5".')

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the masks attached; in the text all adapters speak."""
        from ...mixlora_core.regions.regional import by_hand

        sides = self._sides()
        masks = [_box(sides.get(Path(entry.lora_name).stem)) for entry in stack.entries]
        made, text = by_hand(model, clip, stack, masks, self.overlap)
        return made, Plain(text)

    def _sides(self) -> dict[str, tuple[float, ...]]:
        found = {}
        for box in self.boxes:
            name, *numbers = str(box).split()
            try:
                top, left, bottom, right = sides = tuple(map(float, numbers))
            except ValueError:
                top = left = bottom = right = 0.0
                sides = ()
            if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
                raise EvaluationError(
                    f'box {box!r}: expected NAME TOP LEFT BOTTOM RIGHT, such as "castle 0 0 0.8 0.5".'
                )
            found[name] = sides
        return found


def _box(sides: tuple[float, ...] | None) -> Any:
    """A mask of 64 x 64 cells that is 1 inside."""
    import torch

    if sides is None:
        return None
    top, left, bottom, right = (round(64 * side) for side in sides)
    mask = torch.zeros(64, 64)
    mask[top:bottom, left:right] = 1
    return mask
