"""Lists of numbers as people type them into a text field: "2, 1, 3" or "1 0.5 1". Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import CompositionError


def integers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers, separated by commas or spaces; empty for an empty text. Raises CompositionError."""
    return _parsed(text, what, int, "whole numbers such as 2, 1, 3")


def decimals(text: str, what: str) -> tuple[float, ...]:
    """Numbers with a decimal point or without; empty for an empty text. Raises CompositionError."""
    return _parsed(text, what, float, "numbers such as 1, 0.5, 1")


def _parsed(text: str, what: str, convert: Callable, expected: str) -> tuple:
    words = [word for word in re.split(r"[,;\s]+", text) if word]
    try:
        return tuple(convert(word) for word in words)
    except ValueError:
        raise CompositionError(f"{what} is {text!r}; expected {expected}, or nothing.") from None
