"""Concept and style LoRAs of one stack: in every layer first the concepts speak, then the styles (arXiv 2502.18461).

K-LoRA chooses by layer, in every forward, between one content and one style LoRA. Nothing that it compares depends on
the forward but a factor that rises over the run, so each layer turns once, at a share of the run that is known before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import execution
from ..adapter import Adapter, PatchKey
from ..compose import matched
from ..composition.layers import Contest, LayerTimetable, Rise, Span, balanced, switch_share
from ..errors import CompositionError
from ..stack import CONCEPT, STYLE, StackEntry, StyleStack
from . import blocks
from .importance import LowRank, magnitude, rank_of
from .splitting import split


@dataclass(frozen=True)
class Settings:
    """How concepts and styles take turns."""

    rise: Rise = field(default_factory=Rise)
    by: str = blocks.LAYER
    """What turns as one, of `blocks.GROUPINGS`, else CompositionError: K-LoRA's choice is by layer."""

    def __post_init__(self) -> None:
        blocks.grouping(self.by)


@dataclass(frozen=True, eq=False)
class Timetable:
    """Which group of layers turns when; made for one model, stack and settings."""

    turns: Mapping[str, float]
    """Group that concepts and styles both touch -> the share of the run from which on styles speak in it."""
    balance: float
    """K-LoRA's gamma, see `balanced`."""
    fallback: str
    """Why everyone speaks in every step instead; empty where the roles are there."""

    def span(self, role: str, group: str) -> Span:
        """When an entry of this role speaks in a group. Without an opponent, or a role, it always does."""
        turn = self.turns.get(group)
        if turn is None or role not in (CONCEPT, STYLE):
            return Span()
        return Span(0.0, turn) if role == CONCEPT else Span(turn, 1.0)

    def report(self, steps: int) -> str:
        """The timetable in words, one line a group, in the order of the model; steps are counted from 1."""
        if self.fallback:
            return self.fallback
        lines = [f"concept first, then style; styles weigh {self.balance:.3g} times (gamma)"]
        for group in blocks.in_order(self.turns):
            first = sum(not Span(self.turns[group], 1.0).holds(step, steps) for step in range(steps))
            if first == 0:
                when = "style in all steps"
            elif first == steps:
                when = "concept in all steps"
            else:
                when = f"style from step {first + 1} of {steps}"
            lines.append(f"{group}: {when} ({100 * self.turns[group]:.0f} %)")
        return "\n".join(lines)


def composed(
    model: Any, stack: StyleStack, settings: Settings | None = None, executor: str = execution.AUTOMATIC
) -> tuple[Any, Timetable]:
    """A clone of a MODEL in which the stack's concepts and styles take turns in every layer, and the timetable.

    All entries speak in one branch, at their strengths; the prompt must be encoded once for all. Without a concept, or
    without a style, there is nothing to take turns: everyone speaks in every step, and the timetable says so. Raises
    AdapterError for a file that does not fit the model, CompositionError for an empty stack or for files whose change
    is no plain low-rank product in a layer where it must be compared.
    """
    settings = settings or Settings()
    adapters = [matched(model, entry.file) for entry in stack.entries]
    table = timetable(stack.entries, adapters, settings)
    if table.fallback:
        logging.warning("MixLoRA: %s", table.fallback)
    voices, spans = [], []
    for entry, adapter in zip(stack.entries, adapters, strict=True):
        whole = table.fallback or entry.role not in (CONCEPT, STYLE)
        for group, part in ({"": adapter} if whole else split(adapter, settings.by)).items():
            voices.append(execution.Voice(part, entry.strength_model))
            spans.append(table.span(entry.role, group))
    return execution.attach(model, voices, LayerTimetable(tuple(spans)), executor), table


def timetable(entries: Sequence[StackEntry], adapters: Sequence[Adapter], settings: Settings) -> Timetable:
    """When each group of layers turns. Raises CompositionError as `composed` does.

    Per layer S = sum of the K largest |entries| of the role's adapters together, K = r_concept * r_style, ranks being
    those of all its adapters that speak; a group's S is the sum over the layers that both roles touch.
    """
    sides = {role: [(e, a) for e, a in zip(entries, adapters, strict=True) if e.role == role] for role in _ROLES}
    speaking = {role: [(e, a) for e, a in side if e.strength_model] for role, side in sides.items()}
    if missing := [role for role in _ROLES if not speaking[role]]:
        return Timetable({}, 1.0, _fallback(missing, sides))
    keys = {role: dict.fromkeys(key for _, adapter in side for key in adapter.model_patches)
            for role, side in speaking.items()}  # fmt: skip
    group_of = blocks.grouping(settings.by)
    found: dict[str, list[float]] = {}
    totals = [0.0, 0.0]
    for key in (key for key in keys[CONCEPT] if key in keys[STYLE]):
        parts = [_low_rank(speaking[role], key) for role in _ROLES]
        count = rank_of(parts[0]) * rank_of(parts[1])
        group = found.setdefault(group_of(key), [0.0, 0.0])
        for side, own in enumerate(parts):
            measured = magnitude(own, count)
            group[side] += measured.largest
            totals[side] += measured.total
    balance = balanced(*totals)
    turns = {group: switch_share(Contest(*both), balance, settings.rise) for group, both in found.items()}
    return Timetable(turns, balance, "")


_ROLES = (CONCEPT, STYLE)


def _low_rank(side: Sequence[tuple[StackEntry, Adapter]], key: PatchKey) -> list[LowRank]:
    parts = []
    for entry, adapter in side:
        if key not in adapter.model_patches:
            continue
        factors = adapter.anatomies[key].factors
        if factors is None:
            raise CompositionError(
                f"{entry.lora_name} changes {blocks.layer_of(key)} by {adapter.anatomies[key].family}, and so does a "
                "LoRA of the other role: only low-rank pairs (LoRA, LoCon) can be compared there. Save the file as one "
                "with Save Mixed LoRA (set a rank), or take its role away: then it speaks in every step."
            )
        up, down, scale = factors
        parts.append((up, down, scale * entry.strength_model))
    return parts


def _fallback(missing: Sequence[str], sides: Mapping[str, Sequence[Any]]) -> str:
    silent = [role for role in missing if sides[role]]
    why = f"No LoRA of the stack has the role {' or '.join(missing)}"
    if silent:
        why += f" and a strength that is not 0 (all of the role {' and '.join(silent)} have strength 0)"
    return f"{why}, so nothing takes turns: all LoRAs speak in every step, as a merge."
