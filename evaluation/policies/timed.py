"""A policy of strengths that change in the course of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...mixlora_core import composition
from ...mixlora_core.composition.scheduled import Scheduled, Window
from ...mixlora_core.stack import StyleStack
from ..jobs import EvaluationError
from .base import Composed, Encode, check_together


@dataclass(frozen=True)
class Timed(Composed):
    """A merge whose strengths change at `edges`, shares of the run, as windows of a prompt do (`castle:0.9@0-40%`).

    `rows`: texts "NAME 0.9 0.3", what λ of that adapter is multiplied by before the first edge, after it, and so on.
    Rows of adapters that a set does not have are passed over; an adapter without a row is an error.
    """

    text: str = "all"
    edges: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    def __post_init__(self) -> None:
        check_together(self.text)
        self._by_name()

    def composition(self, adapters: int) -> composition.Composition:
        """As long as nobody says who they are, all speak at λ in every part."""
        return Scheduled((self._windows([1.0] * (len(self.edges) + 1)),) * adapters)

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the rows of this stack's adapters attached."""
        rows, names = self._by_name(), [Path(entry.lora_name).stem for entry in stack.entries]
        if lost := [name for name in names if name not in rows]:
            raise EvaluationError(f"rows have none for {', '.join(lost)}; they are for {', '.join(rows)}.")
        return self.applied(model, clip, stack, Scheduled(tuple(self._windows(rows[name]) for name in names)))

    def _windows(self, numbers: Sequence[float]) -> tuple[Window, ...]:
        borders = pairwise((0.0, *self.edges, 1.0))
        return tuple(Window(start, end, number) for (start, end), number in zip(borders, numbers, strict=True))

    def _by_name(self) -> dict[str, list[float]]:
        sides = [0.0, *self.edges, 1.0]
        if not all(isinstance(edge, (int, float)) for edge in self.edges) or sorted(set(sides)) != sides:
            raise EvaluationError(f"edges are {self.edges}; expected rising shares of the run between 0 and 1.")
        found: dict[str, list[float]] = {}
        for row in self.rows:
            name, *texts = str(row).split()
            numbers = [number for number in map(_number, texts) if number is not None]
            if name in found or len(numbers) != len(texts) or len(numbers) != len(self.edges) + 1:
                raise EvaluationError(
                    f"row {row!r}: expected NAME, once, and {len(self.edges) + 1} numbers, one for each part of a run."
                )
            found[name] = numbers
        if not found:
            raise EvaluationError('rows are missing; expected some such as "castle 0.9 0.3".')
        return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
