"""Policy of regions: each adapter speaks where the words are seen that name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...mixlora_core.regions.attention_masks import FromAttention
from ...mixlora_core.stack import StyleStack
from ..jobs import EvaluationError
from .base import Encode, Policy

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
