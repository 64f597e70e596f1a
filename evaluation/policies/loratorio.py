"""The policy of LoRAtorio (arXiv 2508.11624)."""

from __future__ import annotations

from dataclasses import dataclass

from ...mixlora_core.composition import loratorio
from .base import Counted


@dataclass(frozen=True)
class LoRAtorio(Counted):
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
