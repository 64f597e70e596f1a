"""The methods of a plan: a kind of `policies` with parameters that have been checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, get_type_hints

from ..mixlora_core.errors import AdapterError
from .jobs import EvaluationError, Method
from .policies import KINDS, Policy


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
    if not math.isfinite(strength):
        problems.append(f"strength is {strength}; expected a finite number")
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
