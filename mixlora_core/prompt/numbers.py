"""Strengths, shares and windows as they are written in a prompt -> numbers that are checked. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..errors import PromptError

NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
LOUDEST = 100.0
"""The largest strength, as in the loaders' fields."""

MOST = 1e6
"""The largest number of per cent or parts."""
ROUNDING = 1e-9

PERCENT, PARTS = "%", "parts"
"""Units of shares; another unit, such as one for each "equal mix of", is counted like parts."""

Window = tuple[float, float]
"""From when to when, as shares of the run."""
WHOLE: Window = (0.0, 1.0)

_STRENGTH = re.compile(rf"[+-]?{NUMBER}")
_WINDOW = re.compile(rf"({NUMBER})\s*(%?)\s*[-–]\s*({NUMBER})\s*(%?)")


def strength(text: str, said: str) -> float:
    """A strength such as "0.6" or "-1"; `said` is what to quote. Raises PromptError for what is none."""
    number = float(text) if _STRENGTH.fullmatch(text.strip()) else math.nan
    if not abs(number) <= LOUDEST:  # also for nan
        raise PromptError(
            f"{said!r}: {text.strip()!r} is no strength; expected a number from -100 to 100, such as 0.6."
        )
    return number


def window(text: str, said: str) -> Window:
    """A window such as "0-40%" or "0-0.4", as shares of the run. Raises PromptError for an impossible one."""
    found = _WINDOW.fullmatch(text.strip())
    if not found:
        raise PromptError(f"{said!r}: {text.strip()!r} is no part of the run; expected its start and end: @0-40%.")
    percent = found[2] or found[4]
    start, end = (float(bound) / (100 if percent else 1) for bound in (found[1], found[3]))
    if not end <= 1 and not percent:
        raise PromptError(
            f"{said!r}: {text.strip()!r} goes beyond the run, whose end is 1. Do you mean @{text.strip()}%?"
        )
    if not (end <= 1 and start <= 1):
        raise PromptError(f"{said!r}: {text.strip()!r} goes beyond the run, whose end is 100 %.")
    if start >= end:
        raise PromptError(f"{said!r}: the start, {start:.4g} of the run, is not before the end, {end:.4g}.")
    return start, end


def percentage(text: str) -> float:
    """The number of "33.3 %" or "33,3 %"; the text is one that `grammar` found."""
    return float(text.replace(",", "."))


def shares(given: Sequence[tuple[float, str]]) -> tuple[list[float], float]:
    """(number, unit) of all phrases of a prompt -> shares of each adapter's own strength, and what they added up to.

    Percentages are taken by the hundred, parts and the items of a mix by their number. Where all shares together
    exceed 1 they are scaled down to it. Raises PromptError for a negative share and for shares that are all 0.
    """
    if any(number < 0 for number, _ in given):
        raise PromptError("A share of a mix cannot be negative. To push away from a style, write <lora:name:-0.3>.")
    if not all(number <= MOST for number, _ in given):
        raise PromptError(f"A share of a mix is more than {MOST:.0f}; expected percentages such as 70 %.")
    if given and not any(number for number, _ in given):
        raise PromptError("All shares of the mix are 0, so no LoRA would speak. Give at least one more than 0 %.")
    totals = {unit: math.fsum(number for number, other in given if other == unit) for _, unit in given}
    found = [number / (100 if unit == PERCENT else totals[unit] or 1) for number, unit in given]
    whole = math.fsum(found)
    over = whole > 1 + ROUNDING
    return [share / whole for share in found] if over else found, whole
