"""`tune`: strengths for the adapters of the stand-in, found by search with the oracle as its score.

For one set: a strength for each of its adapters. Or for a plan: one for each category, or for each category and part of
the run, the same in all its sets and found on sets that it does not have. No plan shows what is looked at
(`tuning_cases`).

What it finds is a learned mix of one coefficient for each adapter, which the method `learned` reads; with parts of the
run a method `timed` for a plan.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import standalone
from ..mixlora_core.files import lora_file
from ..mixlora_core.layers.blocks import ALL
from ..mixlora_core.layers.learned_mix import LearnedMix, Named, tensor_hash
from ..training.search import Log, SearchSettings, Strengths, search
from ..training.settings import TrainingError
from .jobs import ElementSet, EvaluationError, Job, Method
from .methods import method
from .plan import read_plan
from .planned import Plan
from .testbeds import StandinTestbed, digests
from .tuning_cases import Case, other_cases, own_cases, the_set

ELEMENTS, PRODUCT = "elements", "elements x quality"

How = Callable[[ElementSet, Strengths], Method]
"""A set and the numbers that are searched -> how it is painted with them."""
Paint = Callable[[Job], tuple[np.ndarray, float]]
Look = Callable[[np.ndarray], Any]
"""Pictures -> a reading, as `judges.oracle` has it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `tune`."""
    parser.add_argument("elements", nargs="*", help="the elements of the set, in any order: lighthouse snow monet")
    parser.add_argument("--plan", type=Path, help="instead of a set: one strength a category, for all sets of a plan")
    in_time = "with --plan: other strengths from there on, a share of the run (0.4 is 40 %%)"
    parser.add_argument("--edges", type=float, nargs="+", default=[], metavar="SHARE", help=in_time)
    output = "the learned mix to write, .safetensors; with --plan a folder; with --edges a .toml"
    parser.add_argument("--output", type=Path, help=output)
    parser.add_argument("--prompts", type=int, default=6, help="scenes to look at (default: 6)")
    parser.add_argument("--steps", type=int, help="of a picture to look at (default: as in plans)")
    parser.add_argument("--budget", type=int, default=40, help="strengths to try (default: 40)")
    first = "what to try first, for all alike (default: 1, 1/sqrt(N) and 1/N)"
    parser.add_argument("--starts", type=float, nargs="+", default=[], metavar="STRENGTH", help=first)
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
    if arguments.edges and arguments.plan is None:
        raise EvaluationError("--edges goes with --plan: strengths for parts of the run are searched by category.")
    plan = None if arguments.plan is None else read_plan(arguments.plan)
    if plan is None:
        cases = own_cases(testbed, the_set(testbed, arguments.elements), arguments.prompts, arguments.seed)
    elif plan.testbed.name != testbed.name:
        raise EvaluationError(f"{plan.path} is of the testbed {plan.testbed.name}; the search is for the stand-in's.")
    else:
        cases = other_cases(testbed, plan.sets, arguments.prompts, arguments.seed)
    if arguments.print_prompts:
        print("\n".join(one.prompt for one in cases))
        return 0
    ending = ".safetensors" if plan is None else ".toml" if arguments.edges else ""
    if arguments.output is None or arguments.output.suffix != ending:
        expected = f"a name that ends with {ending}" if ending else "a folder, for a mix of each set"
        raise EvaluationError(f"--output is {arguments.output}; expected {expected}.")
    if plan is None:
        _of_set(testbed, cases, arguments)
    elif arguments.edges:
        _in_time(testbed, cases, arguments)
    else:
        _by_category(testbed, plan, cases, arguments)
    return 0


def _of_set(testbed: StandinTestbed, cases: Sequence[Case], arguments: argparse.Namespace) -> None:
    """A strength for each adapter of the one set."""
    chosen, output = cases[0].chosen, arguments.output

    def spread(chosen: ElementSet, values: Strengths) -> Strengths:
        return values

    with tempfile.TemporaryDirectory() as folder:
        how = as_mix(testbed, Path(folder) / "tried.safetensors", spread)
        strengths, about = _searched(testbed, cases, how, chosen.size, output.with_suffix(".search.json"), arguments)
    mix_of(testbed, chosen, strengths, about).write(output)
    print(f"{output}: {about['score']} at " + ", ".join(f"{value:.3f}" for value in strengths))


def _by_category(testbed: StandinTestbed, plan: Plan, cases: Sequence[Case], arguments: argparse.Namespace) -> None:
    """One strength for each category; a mix for each set of the plan."""

    def spread(chosen: ElementSet, values: Strengths) -> Strengths:
        return tuple(values[testbed.categories.index(testbed.elements[name].category)] for name in chosen.elements)

    output, numbers = arguments.output, len(testbed.categories)
    with tempfile.TemporaryDirectory() as folder:
        how = as_mix(testbed, Path(folder) / "tried.safetensors", spread)
        strengths, about = _searched(testbed, cases, how, numbers, output / "search.json", arguments)
    for chosen in plan.sets:
        name = "-".join(chosen.elements)
        mix_of(testbed, chosen, spread(chosen, strengths), about).write(output / f"{name}.safetensors")
    named = (f"{name} {value:.3f}" for name, value in zip(testbed.categories, strengths, strict=True))
    print(f"{output}: {len(plan.sets)} mixes, {about['score']} at {', '.join(named)}")


def _in_time(testbed: StandinTestbed, cases: Sequence[Case], arguments: argparse.Namespace) -> None:
    """One strength for each category and part of the run; a table for a plan."""
    output, numbers = arguments.output, len(testbed.categories) * (len(arguments.edges) + 1)

    def how(chosen: ElementSet, values: Strengths) -> Method:
        return method("timed", {"edges": arguments.edges, "rows": rows_of(testbed, values)}, 1.0)

    strengths, about = _searched(testbed, cases, how, numbers, output.with_suffix(".search.json"), arguments)
    rows = "".join(f'    "{row}",\n' for row in rows_of(testbed, strengths))
    found = f"# {about['score']} in {len(cases)} pictures, the best of {about['tried']} tries (`tune`)."
    table = f'[methods."learned in time"]\nkind = "timed"\nedges = {arguments.edges}\nrows = [\n{rows}]\n'
    output.write_text(f"{found}\n{table}", encoding="utf-8")
    print(f"{output}: {about['score']}\n{table}")


def rows_of(testbed: StandinTestbed, values: Strengths) -> list[str]:
    """Of the kind `timed`: for each element the numbers of its category, one for each part of the run."""
    table = np.reshape(values, (len(testbed.categories), -1))
    return [
        " ".join([name, *(f"{value:.3f}" for value in table[testbed.categories.index(element.category)])])
        for name, element in testbed.elements.items()
    ]


def _searched(
    testbed: StandinTestbed,
    cases: Sequence[Case],
    how: How,
    numbers: int,
    log: Path,
    arguments: argparse.Namespace,
) -> tuple[Strengths, dict[str, str]]:
    """The best strengths, and how they were found."""
    from ..standin.element_oracle import ElementOracle
    from ..standin.elements import ELEMENTS as KNOWN
    from .painting import Painter

    standalone.import_comfy()
    try:
        settings = SearchSettings(budget=arguments.budget, seed=arguments.seed, starts=tuple(arguments.starts))
        score = Score(testbed, cases, how, Painter(testbed).paint, ElementOracle.load().read, list(KNOWN),
                      arguments.score, arguments.steps)  # fmt: skip
        log.parent.mkdir(parents=True, exist_ok=True)
        found = search(score, numbers, settings, Log(log, score.about | _meaning(arguments)), _say)
    except TrainingError as error:
        raise EvaluationError(str(error)) from error
    strengths, best = found.best
    return strengths, {
        "objective": f"oracle: {arguments.score}", "score": f"{best:.6g}", "tried": str(len(found.tried)),
        "seed": str(arguments.seed), "prompts": "\n".join(one.prompt for one in cases),
    }  # fmt: skip


def _meaning(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers of a search are, and which oracle scores them: with other ones it is another search."""
    from ..standin.element_oracle import ElementOracle

    each = "adapter" if arguments.plan is None else "category"
    return {"oracle": ElementOracle.version(), "a number for each": each, "edges": arguments.edges}


def mix_of(testbed: Any, chosen: ElementSet, strengths: Strengths, about: dict[str, str] | None = None) -> LearnedMix:
    """One coefficient for each adapter of the set, as a learned mix."""
    files = [lora_file.read(testbed.adapter(name)) for name in chosen.elements]
    named = tuple(Named(file.name, tensor_hash(file)) for file in files)
    column = torch.tensor([[value] for value in strengths], dtype=torch.float32)
    return LearnedMix(column, named, (ALL,), ALL, "sd1", about or {})


def as_mix(testbed: Any, path: Path, spread: Callable[[ElementSet, Strengths], Strengths]) -> How:
    """Numbers as a learned mix in a file that is written anew for each try; `spread` makes strengths of them."""

    def how(chosen: ElementSet, values: Strengths) -> Method:
        mix_of(testbed, chosen, spread(chosen, values)).write(path)
        return method("learned", {"file": str(path)}, 1.0)

    return how


class Score:
    """Numbers -> how surely the oracle sees the elements in pictures painted with them, 0 to 1.

    Each case has its own noise, the same for all numbers, and `how` says what they mean for its set. With PRODUCT each
    picture counts by its quality too. `steps`: of a picture, None is as in plans.
    """

    def __init__(self, testbed: Any, cases: Sequence[Case], how: How, paint: Paint, look: Look, known: Sequence[str],
                 kind: str = ELEMENTS, steps: int | None = None) -> None:  # fmt: skip
        self._testbed, self._cases, self._how, self._paint, self._look = testbed, cases, how, paint, look
        self._known, self._kind, self._steps = list(known), kind, steps

    def __call__(self, strengths: Strengths) -> float:
        """Paints and looks. Raises EvaluationError and AdapterError as painting does."""
        reading = self._look(np.stack([self._picture(case, strengths) for case in self._cases]))
        seen = np.array([
            present[[self._known.index(name) for name in case.chosen.elements]].mean()
            for case, present in zip(self._cases, reading.present, strict=True)
        ])  # fmt: skip
        return float((seen * reading.quality if self._kind == PRODUCT else seen).mean())

    @property
    def about(self) -> dict[str, Any]:
        """What the scores depend on besides the numbers: their kind, and the pictures by keys that leave these out."""
        return {"score": self._kind, "pictures": [self._job(case, Method("tune")).key for case in self._cases]}

    def _picture(self, case: Case, strengths: Strengths) -> np.ndarray:
        return self._paint(self._job(case, self._how(case.chosen, strengths)))[0]

    def _job(self, case: Case, how: Method) -> Job:
        sampling = self._testbed.sampling(case.chosen.world)
        sampling = sampling if self._steps is None else replace(sampling, steps=self._steps)
        files = digests(self._testbed, case.chosen)
        return Job("tune", how, case.chosen, case.prompt, "", case.seed, sampling, files)


def _say(number: int, strengths: Strengths, score: float) -> None:
    print(f"{number}: {score:.4f} at " + ", ".join(f"{value:.3f}" for value in strengths), flush=True)
