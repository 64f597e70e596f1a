"""Ways to compose, by kind: parameters that are checked, and how they patch a model. A new method is one more entry.

They patch MODEL and CLIP through `mixlora_core`, as the nodes of those names do.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from ..mixlora_core import composition, mixing
from ..mixlora_core.errors import AdapterError
from ..mixlora_core.stack import StyleStack
from .jobs import EvaluationError, Method

Encode = Callable[[str], list]
"""A prompt -> its CONDITIONING."""


@dataclass(frozen=True, eq=False)
class Plain:
    """The prompt as a CLIP reads it, once for all adapters."""

    clip: Any

    def __call__(self, prompt: str) -> list:
        """Encodes."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt), show_pbar=False)


MEAN = "mean"
MODES = {
    "sum": mixing.SUM,
    MEAN: mixing.SUM,
    "root": mixing.ROOT_N,
    "energy": mixing.EQUAL_ENERGY,
    "total": mixing.TO_TOTAL,
}
"""Modes of a merge as plans call them. "mean" is λ/N, to first order what Switch and Composite are."""

TEXTS = ("own", "base", "first", "all")


@dataclass(frozen=True)
class Policy:
    """A way to compose; its fields are its parameters. Raises EvaluationError or AdapterError for impossible ones."""

    def evaluations(self, adapters: int) -> int:
        """How often the model runs for one step of one picture, with and without the prompt counted as once."""
        return 1

    def check(self, adapters: int, steps: int) -> None:
        """Raises AdapterError where so many adapters cannot be composed in so many steps."""

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The MODEL that is sampled, and how its prompts are encoded."""
        raise NotImplementedError


@dataclass(frozen=True)
class NoAdapter(Policy):
    """The base model reads the prompt; no adapter speaks."""

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model as it is."""
        return model, Plain(clip)


@dataclass(frozen=True)
class Merge(Policy):
    """All adapters at once as weights, as the node MixLoRAWeights."""

    mode: str = "sum"
    total: float = 1.0
    limit: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise EvaluationError(f"mode is {self.mode!r}; expected one of {', '.join(MODES)}.")
        if not math.isfinite(self.total):
            raise EvaluationError(f"total is {self.total}; expected a finite number.")
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise EvaluationError(f"limit is {self.limit}; expected a finite number, 0 or more (0 is no limit).")

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """Weights of the UNet and of the text encoder with the mix in them."""
        from ..mixlora_core.weighted_mix import MixSettings, mix

        if self.mode == MEAN:
            stack = scaled(stack, 1 / len(stack.entries))
        mixed = mix(model, clip, stack, MixSettings(MODES[self.mode], self.total, self.limit))
        return mixed.model, Plain(mixed.clip)


@dataclass(frozen=True)
class Composed(Policy):
    """What Switch and Composite share. `text`: which text encoders read the prompt.

    "own": each adapter's own for its part, as the node EncodeTextPerLoRA; "base": the checkpoint's; "first": with the
    first adapter's LoRA, as the paper's code does for Switch; "all": with all of them, as it does for Composite.
    """

    text: str = "own"

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
        from ..mixlora_core.compose import composed

        return composed(model, stack, self.composition(len(stack.entries))), self._encoder(model, clip, stack)

    def _encoder(self, model: Any, clip: Any, stack: StyleStack) -> Encode:
        from ..mixlora_core.adapter import TEXT_ENCODER_PREFIXES
        from ..mixlora_core.text import encode_per_adapter
        from ..mixlora_core.weighted_mix import MixSettings, mix

        written = any(key.startswith(TEXT_ENCODER_PREFIXES) for entry in stack.entries for key in entry.file.tensors)
        if self.text == "base" or not written:
            return Plain(clip)
        if self.text == "own":
            return lambda prompt: encode_per_adapter(clip, stack, prompt)
        spoken = StyleStack(stack.entries[:1]) if self.text == "first" else stack
        return Plain(mix(model, clip, spoken, MixSettings()).clip)


@dataclass(frozen=True)
class Switch(Composed):
    """LoRA Switch: turns of `every` steps (τ), 0 is automatic."""

    every: int = 5

    def composition(self, adapters: int) -> composition.Switch:
        """Turns in the order of the stack."""
        return composition.Switch(adapters, self.every)


@dataclass(frozen=True)
class Composite(Composed):
    """LoRA Composite: each adapter predicts alone, predictions are averaged."""

    def evaluations(self, adapters: int) -> int:
        """One for each adapter."""
        return adapters

    def composition(self, adapters: int) -> composition.Composite:
        """All adapters count the same."""
        return composition.Composite(adapters)


KINDS: dict[str, type[Policy]] = {"none": NoAdapter, "merge": Merge, "switch": Switch, "composite": Composite}


def method(kind: str, parameters: Mapping[str, Any], strength: float) -> Method:
    """A method with all its parameters, defaults where they are left out. Raises EvaluationError with all problems."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise EvaluationError(f"kind {kind!r} is unknown, expected one of {', '.join(KINDS)}{hint}")
    kinds, problems = get_type_hints(KINDS[kind]), []
    for name, value in parameters.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f" (it has {', '.join(kinds) or 'none'})"
            problems.append(f"{kind} has no parameter {name!r}{hint}")
        elif not is_a(value, kinds[name]):
            problems.append(f"{name} is {value!r}; expected {EXPECTED[kinds[name]]}")
    if not problems:
        try:
            given = {name: kinds[name](value) for name, value in parameters.items()}
            return Method(kind, asdict(KINDS[kind](**given)), float(strength) if kind != "none" else 1.0)
        except (EvaluationError, AdapterError) as error:
            problems.append(str(error))
    raise EvaluationError("; ".join(problems))


def policy(chosen: Method) -> Policy:
    """The policy of a method that `method` has checked."""
    return KINDS[chosen.kind](**{one.name: chosen.parameters[one.name] for one in fields(KINDS[chosen.kind])})


EXPECTED = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list"}
"""What a value should have been, in words."""


def is_a(value: Any, kind: type) -> bool:
    """Whether a value of a TOML file is of a kind: whole numbers are numbers, true and false are not."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def scaled(stack: StyleStack, factor: float) -> StyleStack:
    """The stack with every strength times `factor`."""
    return StyleStack(
        tuple(
            replace(entry, strength_model=entry.strength_model * factor, strength_clip=entry.strength_clip * factor)
            for entry in stack.entries
        )
    )
