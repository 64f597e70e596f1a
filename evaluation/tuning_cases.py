"""What `tune` looks at: pictures that no plan of the stand-in shows.

Scenes with an object in them, which no prompt of the testbed has, in other lands and at other times than the set's own
prompt, from noise of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .jobs import ElementSet, EvaluationError
from .planned import spread
from .testbeds import StandinTestbed, draw

FIRST_SEED = 900_000
"""Of the noise to tune on; plans name their seeds from 0."""


class Case(NamedTuple):
    """A picture to look at: one set in one scene, from noise of its own."""

    chosen: ElementSet
    prompt: str
    seed: int


def own_cases(testbed: StandinTestbed, chosen: ElementSet, count: int, seed: int = 0) -> list[Case]:
    """One set in so many scenes. Raises EvaluationError for more than there are."""
    prompts = fitting_prompts(testbed, chosen, count, seed)
    return [Case(chosen, prompt, FIRST_SEED + number) for number, prompt in enumerate(prompts)]


def the_set(testbed: StandinTestbed, elements: Sequence[str]) -> ElementSet:
    """The testbed's set of these elements. Raises EvaluationError where it has none."""
    found = [one for one in testbed.sets if set(one.elements) == set(elements)]
    if not found:
        raise EvaluationError(
            f"{' + '.join(elements)} is no set of the testbed; expected a landmark and at most one element of each "
            "other category, all of one world."
        )
    return found[0]


def fitting_prompts(testbed: StandinTestbed, chosen: ElementSet, count: int, seed: int = 0) -> list[str]:
    """Prompts of the set in scenes that no plan of the testbed shows. Raises EvaluationError for more than there are.

    Each scene has an object of the base's world in it, and neither the land nor the time of the set's own prompt.
    """
    from ..standin.scenes import GROWS_ON, LANDS, TIMES, Scene

    judged = testbed.prompt(chosen)[0]
    scenes = [
        Scene(land, time, (thing,))
        for land in LANDS
        for time in TIMES
        for thing in GROWS_ON[land]
        if not judged.startswith(f"a {land} ") and f" at {time}" not in judged
    ]
    if not 1 <= count <= len(scenes):
        raise EvaluationError(f"--prompts {count}; expected 1 to {len(scenes)} for this set.")
    order = np.random.default_rng([draw(chosen.elements, "tune"), seed]).permutation(len(scenes))
    triggers = [testbed.elements[name].trigger for name in chosen.elements]
    return [", ".join([scenes[place].caption, *triggers]) for place in order[:count]]


def other_cases(testbed: StandinTestbed, judged: Sequence[ElementSet], count: int, seed: int = 0) -> list[Case]:
    """Sets as large as the judged ones that are not among them, each in one scene that no plan shows."""
    names, sizes = {one.name for one in judged}, {one.size for one in judged}
    left = [one for one in testbed.sets if one.size in sizes and one.name not in names]
    each = -(-count // len(sizes))
    found = sorted(spread(left, each), key=lambda one: draw(one.elements, "tune"))
    if len(found) < count:
        raise EvaluationError(f"--prompts {count}; the plan leaves {len(left)} sets of its sizes, expected no more.")
    return [
        Case(one, fitting_prompts(testbed, one, 1, seed)[0], FIRST_SEED + number)
        for number, one in enumerate(found[:count])
    ]
