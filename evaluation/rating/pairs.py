"""Which pictures a rater sees side by side, in which order, and on which side: drawn once, the same at every start."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..jobs import EvaluationError, Job
from ..judges.pictures import Painted


@dataclass(frozen=True, eq=False)
class Pair:
    """Two pictures of one set and noise by two methods."""

    left: Painted
    right: Painted


def pairs(
    jobs: Sequence[Job], there: dict[str, Painted], rater: str, labels: Sequence[str] = (), seed: int = 0
) -> list[Pair]:
    """Every picture of every set of two or more elements that all the methods have painted, two at a time.

    With an odd number of methods one picture of each set is shown twice. Another rater or seed gives another order,
    other neighbours and other sides; a plan that grows changes nothing between the pictures of a set. `labels` are the
    methods to be rated, without it all. Raises EvaluationError for an unknown label or where nothing can be compared.
    """
    known = list(dict.fromkeys(job.label for job in jobs))
    if unknown := [label for label in labels if label not in known]:
        raise EvaluationError(
            f"--methods {unknown[0]!r} is no method of the plan; expected some of {', '.join(known)}."
        )
    wanted = set(labels or known)
    groups: dict[tuple[str, int], dict[str, Job]] = {}
    for job in jobs:
        if job.label in wanted and job.set.size > 1:
            groups.setdefault((job.set.name, job.seed), {}).setdefault(job.key, job)
    found = []
    for (name, noise), group in groups.items():
        if len(group) > 1 and group.keys() <= there.keys():
            draw = random.Random(f"{seed}\n{rater}\n{name}\n{noise}")
            found += [(draw.random(), pair) for pair in _in_twos(list(group), there, draw)]
    if not found:
        raise EvaluationError(
            "There is no set whose pictures by two or more of the methods are painted. `run` the plan."
        )
    return [pair for _, pair in sorted(found, key=lambda item: item[0])]


def _in_twos(keys: list[str], there: dict[str, Painted], draw: random.Random) -> list[Pair]:
    draw.shuffle(keys)
    if len(keys) % 2:
        keys.append(keys[0])
    return [Pair(there[left], there[right]) for left, right in zip(keys[::2], keys[1::2], strict=True)]
