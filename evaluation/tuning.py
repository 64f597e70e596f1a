"""`tune`: strengths for the adapters of the stand-in, found by search with the oracle as its score.

For one set: a strength for each of its adapters. Or for a plan: one for each category, the same in all its sets, found
on sets that the plan does not have.

It looks at other scenes than any that the testbed judges: with an object in them, which no prompt of the testbed has,
in other lands and at other times than the set's own prompt, from noise of its own. What it finds is a learned mix of
one coefficient for each adapter, which the method `learned` reads.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import standalone
from ..mixlora_core.files import lora_file
from ..mixlora_core.layers.blocks import ALL
from ..mixlora_core.layers.learned_mix import LearnedMix, Named, tensor_hash
from ..training.search import SearchSettings, Strengths, search
from ..training.settings import TrainingError
from .jobs import ElementSet, EvaluationError, Job
from .methods import method
from .plan import read_plan
from .planned import Plan, spread
from .testbeds import StandinTestbed, digests, draw

FIRST_SEED = 900_000
"""Of the noise to tune on; plans name their seeds from 0."""

ELEMENTS, PRODUCT = "elements", "elements x quality"

SpreadOut = Callable[[ElementSet, Strengths], Strengths]
"""A set and the numbers that are searched -> the strength of each of its adapters."""
Paint = Callable[[Job], tuple[np.ndarray, float]]
Look = Callable[[np.ndarray], Any]
"""Pictures -> a reading, as `judges.oracle` has it."""


class Case(NamedTuple):
    """A picture to look at: one set in one scene, from noise of its own."""

    chosen: ElementSet
    prompt: str
    seed: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `tune`."""
    parser.add_argument("elements", nargs="*", help="the elements of the set, in any order: lighthouse snow monet")
    parser.add_argument("--plan", type=Path, help="instead of a set: one strength a category, for all sets of a plan")
    parser.add_argument("--output", type=Path, help="the learned mix to write, .safetensors; with --plan a folder")
    parser.add_argument("--prompts", type=int, default=6, help="scenes to look at (default: 6)")
    parser.add_argument("--budget", type=int, default=40, help="strengths to try (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of search and scenes (default: 0)")
    parser.add_argument("--score", choices=(ELEMENTS, PRODUCT), default=ELEMENTS, help=f"default: {ELEMENTS}")
    parser.add_argument(
        "--print-prompts", action="store_true", help="only print the scenes, for training/learn_mix.py --prompts"
    )


def run(arguments: argparse.Namespace) -> int:
    """Searches and writes; 0 done. A killed search goes on from the log beside the output."""
    testbed = StandinTestbed()
    if (arguments.plan is None) == (not arguments.elements):
        raise EvaluationError("Give either the elements of one set or --plan with a plan of the stand-in.")
    if arguments.plan is not None:
        return _by_category(testbed, read_plan(arguments.plan), arguments)
    chosen = the_set(testbed, arguments.elements)
    prompts = fitting_prompts(testbed, chosen, arguments.prompts, arguments.seed)
    if arguments.print_prompts:
        print("\n".join(prompts))
        return 0
    if arguments.output is None or arguments.output.suffix != ".safetensors":
        raise EvaluationError(f"--output is {arguments.output}; expected a name that ends with .safetensors.")
    cases = [Case(chosen, prompt, FIRST_SEED + number) for number, prompt in enumerate(prompts)]
    log = arguments.output.with_suffix(".search.json")
    strengths, about = _searched(testbed, cases, each_its_own, chosen.size, log, arguments)
    mix_of(testbed, chosen, strengths, about).write(arguments.output)
    print(f"{arguments.output}: {about['score']} at " + ", ".join(f"{value:.3f}" for value in strengths))
    return 0


def _by_category(testbed: StandinTestbed, plan: Plan, arguments: argparse.Namespace) -> int:
    """One strength for each category, found on sets that the plan does not have; a mix for each set that it has."""
    if plan.testbed.name != testbed.name:
        raise EvaluationError(f"{plan.path} is of the testbed {plan.testbed.name}; the search is for the stand-in's.")
    if arguments.output is None or arguments.output.suffix:
        raise EvaluationError(f"--output is {arguments.output}; expected a folder, for a mix of each set.")
    cases = other_cases(testbed, plan.sets, arguments.prompts, arguments.seed)
    if arguments.print_prompts:
        print("\n".join(one.prompt for one in cases))
        return 0

    def of_category(chosen: ElementSet, values: Strengths) -> Strengths:
        return tuple(values[testbed.categories.index(testbed.elements[name].category)] for name in chosen.elements)

    log = arguments.output / "search.json"
    strengths, about = _searched(testbed, cases, of_category, len(testbed.categories), log, arguments)
    for chosen in plan.sets:
        name = "-".join(chosen.elements)
        mix_of(testbed, chosen, of_category(chosen, strengths), about).write(arguments.output / f"{name}.safetensors")
    named = (f"{name} {value:.3f}" for name, value in zip(testbed.categories, strengths, strict=True))
    print(f"{arguments.output}: {len(plan.sets)} mixes, {about['score']} at {', '.join(named)}")
    return 0


def each_its_own(chosen: ElementSet, values: Strengths) -> Strengths:
    """A number for each adapter of the one set."""
    return values


def _searched(
    testbed: StandinTestbed,
    cases: Sequence[Case],
    spread_out: SpreadOut,
    numbers: int,
    log: Path,
    arguments: argparse.Namespace,
) -> tuple[Strengths, dict[str, str]]:
    """The best strengths, and how they were found."""
    from ..standin.element_oracle import ElementOracle
    from ..standin.elements import ELEMENTS as KNOWN
    from .painting import Painter

    standalone.import_comfy()
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        settings = SearchSettings(budget=arguments.budget, seed=arguments.seed)
        with tempfile.TemporaryDirectory() as folder:
            score = Score(testbed, cases, spread_out, Path(folder) / "tried.safetensors", Painter(testbed).paint,
                          ElementOracle.load().read, list(KNOWN), arguments.score)  # fmt: skip
            found = search(score, numbers, settings, log, _say)
    except TrainingError as error:
        raise EvaluationError(str(error)) from error
    strengths, best = found.best
    return strengths, {
        "objective": f"oracle: {arguments.score}", "score": f"{best:.6g}", "tried": str(len(found.tried)),
        "seed": str(arguments.seed), "prompts": "\n".join(one.prompt for one in cases),
    }  # fmt: skip


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


def mix_of(testbed: Any, chosen: ElementSet, strengths: Strengths, about: dict[str, str] | None = None) -> LearnedMix:
    """One coefficient for each adapter of the set, as a learned mix."""
    files = [lora_file.read(testbed.adapter(name)) for name in chosen.elements]
    named = tuple(Named(file.name, tensor_hash(file)) for file in files)
    column = torch.tensor([[value] for value in strengths], dtype=torch.float32)
    return LearnedMix(column, named, (ALL,), ALL, "sd1", about or {})


class Score:
    """Numbers -> how surely the oracle sees the elements in pictures painted with them, 0 to 1.

    Each case has its own noise, the same for all numbers, and `spread_out` makes its strengths of them. With PRODUCT
    each picture counts by its quality too.
    """

    def __init__(self, testbed: Any, cases: Sequence[Case], spread_out: SpreadOut, mix: Path, paint: Paint, look: Look,
                 known: Sequence[str], kind: str = ELEMENTS) -> None:  # fmt: skip
        self._testbed, self._cases, self._spread_out, self._mix = testbed, cases, spread_out, mix
        self._paint, self._look, self._known, self._kind = paint, look, list(known), kind

    def __call__(self, strengths: Strengths) -> float:
        """Paints and looks. Raises EvaluationError and AdapterError as painting does."""
        reading = self._look(np.stack([self._picture(case, strengths) for case in self._cases]))
        seen = np.array([
            present[[self._known.index(name) for name in case.chosen.elements]].mean()
            for case, present in zip(self._cases, reading.present, strict=True)
        ])  # fmt: skip
        return float((seen * reading.quality if self._kind == PRODUCT else seen).mean())

    def _picture(self, case: Case, strengths: Strengths) -> np.ndarray:
        mix_of(self._testbed, case.chosen, self._spread_out(case.chosen, strengths)).write(self._mix)
        how = method("learned", {"file": str(self._mix)}, 1.0)
        sampling, files = self._testbed.sampling(case.chosen.world), digests(self._testbed, case.chosen)
        return self._paint(Job("tune", how, case.chosen, case.prompt, "", case.seed, sampling, files))[0]


def _say(number: int, strengths: Strengths, score: float) -> None:
    print(f"{number}: {score:.4f} at " + ", ".join(f"{value:.3f}" for value in strengths), flush=True)
