"""The policy of LoRAtorio (arXiv 2508.11624)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...mixlora_core import loratorio
from ...mixlora_core.composition import NEGATIVE
from ...mixlora_core.stack import StyleStack
from .base import Composed, Encode, Plain


@dataclass(frozen=True)
class LoRAtorio(Composed):
    """LoRAtorio: each adapter speaks where its prediction departs from the base model's. Parameters are its own.

    With `text` "own" the base model, and all adapters merged, read the prompt with the checkpoint's text encoder.
    """

    patch: int = 0
    temperature: float = 1.0
    relative: bool = True
    top: int = 0
    compared: str = loratorio.NOISE
    anchor: float = 0.5
    merged: bool = False

    def evaluations(self, adapters: int, steps: int, guidance: float) -> float:
        """Half of the branches; without guidance (a scale of 1) those of the positive side."""
        sides = [branch.side for branch in self.composition(adapters).branches(0, steps, guidance)]
        return sum(side != NEGATIVE for side in sides) if guidance == 1 else len(sides) / 2

    def composition(self, adapters: int) -> loratorio.LoRAtorio:
        """All adapters, by their departures."""
        return loratorio.LoRAtorio(
            adapters,
            patch=self.patch,
            temperature=self.temperature,
            relative=self.relative,
            top=self.top,
            compared=self.compared,
            anchor=self.anchor,
            merged=self.merged,
        )

    def _encoder(self, model: Any, clip: Any, stack: StyleStack) -> Encode:
        from ...mixlora_core.text import encode_per_adapter

        encode = super()._encoder(model, clip, stack)
        return (
            encode if isinstance(encode, Plain) else lambda prompt: encode_per_adapter(clip, stack, prompt, shared=True)
        )
