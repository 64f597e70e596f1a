"""What a policy is: a way to compose as a plan names it, and how it patches MODEL and CLIP."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...mixlora_core import composition
from ...mixlora_core.composition import BOTH, NEGATIVE, POSITIVE
from ...mixlora_core.stack import StyleStack
from ..jobs import EvaluationError

Encode = Callable[[str], list]
"""A prompt -> its CONDITIONING."""


@dataclass(frozen=True, eq=False)
class Plain:
    """The prompt as a CLIP reads it, once for all adapters."""

    clip: Any

    def __call__(self, prompt: str) -> list:
        """Encodes."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt), show_pbar=False)


TEXTS = ("own", "base", "first", "all")
TOGETHER = TEXTS[1:]
"""Of adapters that all speak in one branch."""


@dataclass(frozen=True)
class Policy:
    """A way to compose; its fields are its parameters. Raises EvaluationError or AdapterError for impossible ones."""

    def evaluations(self, adapters: int, steps: int, guidance: float) -> float:
        """How often the model runs for one step of one picture, on average; with and without the prompt counts once."""
        return 1

    def check(self, adapters: int, steps: int) -> None:
        """Raises AdapterError where so many adapters cannot be composed in so many steps."""

    def reading(self, prompt: str) -> Policy:
        """The policy for pictures of this prompt: itself, unless it depends on what the prompt says."""
        return self

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The MODEL that is sampled, and how its prompts are encoded."""
        raise NotImplementedError


@dataclass(frozen=True)
class Composed(Policy):
    """What Switch and Composite share. `text`: which text encoders read the prompt.

    "own": each adapter's own for its part, as the node EncodeTextPerLoRA; "base": the checkpoint's; "first": with the
    first adapter's LoRA, as the paper's code does for Switch; "all": with all of them, as it does for Composite.
    """

    text: str = "own"
    _shared = False  # whether there are branches that are no adapter's own; no parameter

    def __post_init__(self) -> None:
        if self.text not in TEXTS:
            raise EvaluationError(f"text is {self.text!r}; expected one of {', '.join(TEXTS)}.")
        self.composition(1)

    def composition(self, adapters: int) -> composition.Composition:
        """The composition of so many adapters."""
        raise NotImplementedError

    def check(self, adapters: int, steps: int) -> None:
        """Raises CompositionError."""
        self.composition(adapters).check(steps)

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the composition attached."""
        return self.applied(model, clip, stack, self.composition(len(stack.entries)))

    def applied(self, model: Any, clip: Any, stack: StyleStack, told: composition.Composition) -> tuple[Any, Encode]:
        """The model with that composition attached, and the text encoders of `text`."""
        from ...mixlora_core.compose import composed

        return composed(model, stack, told), self._encoder(model, clip, stack)

    def _encoder(self, model: Any, clip: Any, stack: StyleStack) -> Encode:
        from ...mixlora_core.adapter import TEXT_ENCODER_PREFIXES
        from ...mixlora_core.mixing.weighted_mix import MixSettings, mix
        from ...mixlora_core.text import encode_per_adapter

        written = any(key.startswith(TEXT_ENCODER_PREFIXES) for entry in stack.entries for key in entry.file.tensors)
        if self.text == "base" or not written:
            return Plain(clip)
        if self.text == "own":
            return lambda prompt: encode_per_adapter(clip, stack, prompt, self._shared)
        spoken = StyleStack(stack.entries[:1]) if self.text == "first" else stack
        return Plain(mix(model, clip, spoken, MixSettings()).clip)


@dataclass(frozen=True)
class Counted(Composed):
    """What has branches for one side only: its model runs are counted. Merges and the base read the plain text."""

    _shared = True

    def evaluations(self, adapters: int, steps: int, guidance: float) -> float:
        """The rows of all steps; two are one run where there is guidance, as with the base model."""
        told, sides = self.composition(adapters), [POSITIVE] if math.isclose(guidance, 1.0) else [POSITIVE, NEGATIVE]
        rows = sum(
            branch.side in (BOTH, side)
            for step in range(steps)
            for branch in told.branches(step, steps, guidance)
            for side in sides
        )
        return rows / (steps * len(sides))


def check_together(text: str) -> None:
    """Raises EvaluationError for a `text` that adapters which speak together cannot have."""
    if text not in TOGETHER:
        raise EvaluationError(
            f"text is {text!r}; expected one of {', '.join(TOGETHER)}: adapters speak together, so "
            "the prompt is read once."
        )


def scaled(stack: StyleStack, factor: float) -> StyleStack:
    """The stack with every strength times `factor`."""
    return StyleStack(
        tuple(
            replace(entry, strength_model=entry.strength_model * factor, strength_clip=entry.strength_clip * factor)
            for entry in stack.entries
        )
    )
