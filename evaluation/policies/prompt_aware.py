"""Policies of arXiv 2606.03792: Switch and Composite with weights from the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...mixlora_core import composition
from ...mixlora_core.composition.prompt_aware import FLOOR
from ...mixlora_core.stack import StyleStack
from ..jobs import EvaluationError
from .base import Counted, Encode, Policy


@dataclass(frozen=True)
class PromptAware(Counted):
    """A composition whose weights a prompt gives. Without one, as for its cost, all adapters weigh the same."""

    def weights(self, clip: Any, stack: StyleStack, prompt: str) -> tuple[float, ...]:
        """How much each adapter matters to the prompt; they sum to 1."""
        raise NotImplementedError

    def weighted(self, weights: Sequence[float]) -> composition.Composition:
        """The composition with these weights."""
        raise NotImplementedError

    def composition(self, adapters: int) -> composition.Composition:
        """With equal weights."""
        return self.weighted((1 / adapters,) * adapters)

    def reading(self, prompt: str) -> Policy:
        """With the prompt's weights."""
        return _Reading(self, prompt)


@dataclass(frozen=True)
class _Reading(Policy):
    policy: PromptAware
    prompt: str

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the composition attached."""
        weights = self.policy.weights(clip, stack, self.prompt)
        return self.policy.applied(model, clip, stack, self.policy.weighted(weights))


@dataclass(frozen=True)
class WSwitch(PromptAware):
    """W-Switch: turns by how much the prompt changes without an adapter's words, or `floor` where that is more.

    The first in order is the subject.
    """

    floor: float = FLOOR
    _shared = False

    def __post_init__(self) -> None:
        super().__post_init__()
        composition.presence((), self.floor)

    def weights(self, clip: Any, stack: StyleStack, prompt: str) -> tuple[float, ...]:
        """PAW."""
        from ...mixlora_core.prompt.weighing import by_presence

        return by_presence(clip, stack, prompt, self.floor)

    def weighted(self, weights: Sequence[float]) -> composition.WeightedSwitch:
        """In the order of the stack."""
        return composition.WeightedSwitch(tuple(weights))


FORMS = "composite", "anchored", "centred"


@dataclass(frozen=True)
class WComposite(PromptAware):
    """W-Composite: predictions count as an adapter's words are like the prompt; `form` says how they are joined."""

    form: str = "composite"

    def weights(self, clip: Any, stack: StyleStack, prompt: str) -> tuple[float, ...]:
        """PTW."""
        from ...mixlora_core.prompt.weighing import by_relevance

        return by_relevance(clip, stack, prompt)

    def weighted(self, weights: Sequence[float]) -> composition.Composition:
        """Raises EvaluationError for an unknown form."""
        if self.form not in FORMS:
            raise EvaluationError(f"form is {self.form!r}; expected one of {', '.join(FORMS)}.")
        adapters, weights = len(weights), tuple(weights)
        if self.form == "centred":  # full strength where all weigh the same
            return composition.Centred(adapters, float(adapters), weights)
        if self.form == "anchored":
            return composition.Anchored(adapters, weights=weights)
        return composition.Composite(adapters, weights)
