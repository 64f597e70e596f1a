"""What a plan asks for: methods x sets x seeds -> the pictures to paint, each a Job, always in the same order."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .jobs import ElementSet, EvaluationError, Job, Method, Sampling
from .methods import policy
from .testbeds import Testbed, digests, draw

LISTED, REVERSED, SHUFFLED, FIRST = "listed", "reversed", "shuffled", "-first"
"""Orders of a stack: as the set lists it, from its end, drawn for each set, or "style-first", "object-first", ..."""


@dataclass(frozen=True)
class PlannedMethod:
    """A method of a plan with what it says of its own about order and sampling."""

    method: Method
    order: str | None = None
    """The stack's order where it is not the plan's; the prompt stays as it is."""
    sampling: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """Methods x sets x seeds on a testbed."""

    path: Path
    testbed: Testbed
    methods: Mapping[str, PlannedMethod]
    """By label."""
    sets: tuple[ElementSet, ...]
    seeds: tuple[int, ...]
    order: str
    sampling: Mapping[str, Any]
    """Over the testbed's defaults."""

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def jobs(self) -> list[Job]:
        """The pictures: set by set, all methods of a set with the same prompt and noise. Raises EvaluationError."""
        return [self.job(label, chosen, seed) for chosen in self.sets for seed in self.seeds for label in self.methods]

    def job(self, label: str, chosen: ElementSet, seed: int) -> Job:
        """One picture. Each set and seed of the plan have a noise of their own, whatever the method and the order."""
        planned = self.methods[label]
        told = ordered(self.testbed, chosen, self.order)
        stacked = ordered(self.testbed, chosen, planned.order or self.order)
        prompt, negative = self.testbed.prompt(told)
        how = {**asdict(self.testbed.sampling(chosen.world)), **self.sampling, **(planned.sampling or {})}
        return Job(
            label,
            planned.method,
            stacked,
            prompt,
            negative,
            draw(chosen.elements, f"noise {seed}"),
            Sampling(**how),
            digests(self.testbed, stacked),
        )

    def missing(self) -> list[str]:
        """Every file that is not there, and every set that cannot be painted, in words."""
        problems = {}
        for chosen in self.sets:
            for find, what in [
                (self.testbed.checkpoint, chosen.world),
                (self.testbed.vae, chosen.world),
                *((self.testbed.adapter, name) for name in chosen.elements),
            ]:
                try:
                    find(what)
                except EvaluationError as error:
                    problems[str(error)] = None
        return list(problems)


def ordered(testbed: Testbed, chosen: ElementSet, order: str) -> ElementSet:
    """The set with its elements in another order; its name stays."""
    names = list(chosen.elements)
    if order == REVERSED:
        names.reverse()
    elif order == SHUFFLED:
        names.sort(key=lambda name: draw(chosen.elements, name))
    elif order != LISTED:
        names.sort(key=lambda name: testbed.elements[name].category != order.removesuffix(FIRST))
    return replace(chosen, elements=tuple(names))


def spread(sets: Sequence[ElementSet], each: int) -> tuple[ElementSet, ...]:
    """At most `each` sets of a size, half of them of each of two worlds, in which elements come equally often.

    Fewer sets of a size are a part of more, so a larger plan uses the pictures of a smaller one.
    """
    groups: dict[tuple[int, str], list[ElementSet]] = {}
    for one in sets:
        groups.setdefault((one.size, one.world), []).append(one)
    kept: set[str] = set()
    for size in dict.fromkeys(one.size for one in sets):
        queues = [_evenly(group) for (length, _), group in groups.items() if length == size]
        turns = [one for turn in range(max(map(len, queues))) for queue in queues for one in queue[turn : turn + 1]]
        kept |= {one.name for one in turns[:each]}
    return tuple(one for one in sets if one.name in kept)


def _evenly(sets: Sequence[ElementSet]) -> list[ElementSet]:
    """All of them so that the first ones, however many, hold each element about equally often."""
    left, used, taken = sorted(sets, key=lambda one: draw(one.elements, "spread")), Counter[str](), []
    while left:
        next_one = min(left, key=lambda one: sum(used[name] for name in one.elements))
        left.remove(next_one)
        used.update(next_one.elements)
        taken.append(next_one)
    return taken


def same_methods(methods: Mapping[str, PlannedMethod]) -> list[str]:
    """Labels that mean what another label means, in words."""
    found: dict[str, str] = {}
    problems = []
    for label, planned in methods.items():
        first = found.setdefault(repr(planned), label)
        if first != label:
            problems.append(f"[methods] {first!r} and {label!r} are the same method; leave one out.")
    return problems


def impossible(plan: Plan) -> list[str]:
    """Methods that some of the sets cannot be composed by, in words."""
    problems = []
    for label, planned in plan.methods.items():
        for size, world in dict.fromkeys((one.size, one.world) for one in plan.sets):
            how = {**asdict(plan.testbed.sampling(world)), **plan.sampling, **(planned.sampling or {})}
            try:
                policy(planned.method).check(size, how["steps"])
            except ValueError as error:
                problems.append(f"[methods] {label!r}: {error}")
                break
    return problems


def near(name: str, known: Sequence[str]) -> str:
    """A hint at the known name that was perhaps meant, or nothing."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""


def sampling_problem(name: str, value: Any) -> str | None:
    """What is wrong with a value of [sampling], whose type is right."""
    if name in ("width", "height") and (value < 64 or value % 8):
        return "expected a multiple of 8, 64 or more"
    if name == "steps" and value < 1:
        return "expected 1 or more"
    if name == "cfg" and not (math.isfinite(value) and value >= 0):
        return "expected a finite number, 0 or more"
    return None
