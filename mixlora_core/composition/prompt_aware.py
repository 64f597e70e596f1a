"""W-Switch and W-Composite (arXiv 2606.03792): how much each adapter matters to the prompt, and turns by that.

W-Composite is Composite with the weights of `relevance`; W-Switch is WeightedSwitch with those of `presence`. What asks
a CLIP is `prompt.weighing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..errors import CompositionError
from .base import Branch, only, some
from .paper import Switch
from .schedule import PAPERS_SHARE

FLOOR = 0.05
"""What an adapter counts at least, before weights are made to sum to 1."""

CYCLES = 2
"""Turns that every adapter gets at least, where the steps suffice."""


def presence(cosines: Sequence[float | None], floor: float = FLOOR) -> tuple[float, ...]:
    """PAW: weights in proportion to max(1 - cos_i, floor), cos_i between prompt and prompt without adapter i's words.

    They sum to 1. None is an adapter of which no words are known: it counts as the mean of the others. A `floor` above
    all 1 - cos_i makes all weights equal. Raises CompositionError for one that is not above 0 and at most 1.
    """
    if not 0 < floor <= 1:
        raise CompositionError(f"floor is {floor}; expected a number above 0, at most 1, such as {FLOOR}.")
    return _shares([None if cosine is None else max(1 - cosine, floor) for cosine in cosines])


def relevance(cosines: Sequence[float | None]) -> tuple[float, ...]:
    """PTW: weights in proportion to cos_i, between prompt and adapter i's words; they sum to 1. None as in `presence`.

    The paper has no floor here; without one, words that are nothing like the prompt would give a negative weight.
    """
    return _shares([None if cosine is None else max(cosine, FLOOR) for cosine in cosines])


@dataclass(frozen=True)
class WeightedSwitch:
    """LoRA Switch with turns in proportion to `weights`; the subject, the first of `order`, also has the last steps.

    The paper's turn is round(w_i / max w x 5) steps, in cycles, the last 5 of 100 steps are the subject's. Here all are
    shares of the run: a twentieth of it at the end is the subject's (at least a step, where one is left for it), the
    rest is divided by largest remainder. There are as many cycles as the paper's turns would make, but no more than
    leave the weights intact, and at least two where everyone then has a step in each. Empty `order` is the stack's.
    Raises CompositionError for weights that are not finite and above 0, and for what is no order.
    """

    weights: tuple[float, ...]
    order: tuple[int, ...] = ()
    depends_on_step = True
    fusion = None

    def __post_init__(self) -> None:
        some(self.adapters)
        Switch(self.adapters, 1, self.order)
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            listed = ", ".join(f"{weight:g}" for weight in self.weights)
            raise CompositionError(f"weights are {listed}; expected finite numbers above 0.")

    @property
    def adapters(self) -> int:
        """How many adapters it composes."""
        return len(self.weights)

    def timetable(self, steps: int) -> tuple[int, ...]:
        """The adapter of each step. Raises CompositionError where there are fewer steps than adapters."""
        return _timetable(self.weights, self.order or tuple(range(self.adapters)), steps)

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """One branch: the adapter whose turn it is, with its own text."""
        speaker = self.timetable(steps)[step]
        return (Branch(only(speaker, self.adapters), text=speaker),)

    def check(self, steps: int) -> None:
        """Raises CompositionError where there are fewer steps than adapters."""
        self.timetable(steps)


def apportion(weights: Sequence[float], seats: int, least: int) -> tuple[int, ...]:
    """Whole numbers that sum to `seats`, in proportion to `weights`, each at least `least`: Hamilton's method.

    Who would get less than `least` gets that, the others share the rest: each the whole part of its quota, then those
    with the largest remainders one more, the first of equals. `seats` must suffice for `least` each.
    """
    few: set[int] = set()
    while True:
        rest = seats - least * len(few)
        others = [index for index in range(len(weights)) if index not in few]
        total = sum(weights[index] for index in others)
        quotas = {index: rest * weights[index] / total + 1e-9 for index in others}
        below = {index for index, quota in quotas.items() if quota < least}
        if not below:
            break
        few |= below
    counts = {index: math.floor(quota) for index, quota in quotas.items()}
    by_remainder = sorted(others, key=lambda index: counts[index] - quotas[index])
    for index in by_remainder[: rest - sum(counts.values())]:
        counts[index] += 1
    return tuple(counts.get(index, least) for index in range(len(weights)))


@lru_cache(maxsize=64)
def _timetable(weights: tuple[float, ...], order: tuple[int, ...], steps: int) -> tuple[int, ...]:
    adapters = len(order)
    if adapters > steps:
        raise CompositionError(
            f"{adapters} LoRAs cannot each have a turn in {steps} steps. Use at least {adapters} steps or fewer LoRAs."
        )
    last = min(max(1, round(steps / PAPERS_SHARE)), steps - adapters)
    shared = steps - last
    cycles = _cycles(weights, shared, steps / PAPERS_SHARE)
    counts = apportion(weights, shared, cycles)
    turns = [
        adapter
        for cycle in range(cycles)
        for adapter in order
        for _ in range(counts[adapter] * cycle // cycles, counts[adapter] * (cycle + 1) // cycles)
    ]
    return (*turns, *order[:1] * last)


def _cycles(weights: Sequence[float], steps: int, longest: float) -> int:
    """How often everyone has a turn in `steps`; `longest` is the paper's turn of who weighs most, in steps."""
    papers = sum(max(1.0, weight / max(weights) * longest) for weight in weights)
    intact = math.floor(min(weights) / sum(weights) * steps + 1e-9)
    return max(min(CYCLES, steps // len(weights)), min(round(steps / papers), intact))


def _shares(raw: Sequence[float | None]) -> tuple[float, ...]:
    known = [one for one in raw if one is not None]
    mean = sum(known) / len(known) if known else 1.0
    filled = [mean if one is None else one for one in raw]
    return tuple(one / sum(filled) for one in filled)
