"""`tune`: strengths for the adapters of one set of the stand-in, found by search with the oracle as its score.

It looks at other scenes than any that the testbed judges: with an object in them, which no prompt of the testbed has,
in other lands and at other times than the set's own prompt, from noise of its own. What it finds is a learned mix of
one coefficient for each adapter, which the method `learned` reads.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
from .testbeds import StandinTestbed, digests, draw

FIRST_SEED = 900_000
"""Of the noise to tune on; plans name their seeds from 0."""

ELEMENTS, PRODUCT = "elements", "elements x quality"

Paint = Callable[[Job], tuple[np.ndarray, float]]
Look = Callable[[np.ndarray], Any]
"""Pictures -> a reading, as `judges.oracle` has it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `tune`."""
    parser.add_argument("elements", nargs="+", help="the elements of the set, in any order: lighthouse snow monet")
    parser.add_argument("--output", type=Path, help="the learned mix to write, .safetensors")
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
    chosen = the_set(testbed, arguments.elements)
    prompts = fitting_prompts(testbed, chosen, arguments.prompts, arguments.seed)
    if arguments.print_prompts:
        print("\n".join(prompts))
        return 0
    if arguments.output is None or arguments.output.suffix != ".safetensors":
        raise EvaluationError(f"--output is {arguments.output}; expected a name that ends with .safetensors.")
    from ..standin.element_oracle import ElementOracle
    from ..standin.elements import ELEMENTS as KNOWN
    from .painting import Painter

    standalone.import_comfy()
    try:
        settings = SearchSettings(budget=arguments.budget, seed=arguments.seed)
        with tempfile.TemporaryDirectory() as folder:
            score = Score(testbed, chosen, prompts, Path(folder) / "tried.safetensors", Painter(testbed).paint,
                          ElementOracle.load().read, list(KNOWN), arguments.score)  # fmt: skip
            log = arguments.output.with_suffix(".search.json")
            found = search(score, chosen.size, settings, log, _say)
    except TrainingError as error:
        raise EvaluationError(str(error)) from error
    strengths, best = found.best
    about = {"objective": f"oracle: {arguments.score}", "score": f"{best:.6g}", "tried": str(len(found.tried)),
             "seed": str(arguments.seed), "prompts": "\n".join(prompts)}  # fmt: skip
    mix_of(testbed, chosen, strengths, about).write(arguments.output)
    print(f"{arguments.output}: {best:.4f} at " + ", ".join(f"{value:.3f}" for value in strengths))
    return 0


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


def mix_of(testbed: Any, chosen: ElementSet, strengths: Strengths, about: dict[str, str] | None = None) -> LearnedMix:
    """One coefficient for each adapter of the set, as a learned mix."""
    files = [lora_file.read(testbed.adapter(name)) for name in chosen.elements]
    named = tuple(Named(file.name, tensor_hash(file)) for file in files)
    column = torch.tensor([[value] for value in strengths], dtype=torch.float32)
    return LearnedMix(column, named, (ALL,), ALL, "sd1", about or {})


class Score:
    """Strengths -> how surely the oracle sees the set's elements in pictures painted with them, 0 to 1.

    Each prompt has its own noise, the same for all strengths. With PRODUCT each picture counts by its quality too.
    """

    def __init__(self, testbed: Any, chosen: ElementSet, prompts: Sequence[str], mix: Path, paint: Paint, look: Look,
                 known: Sequence[str], kind: str = ELEMENTS) -> None:  # fmt: skip
        self._testbed, self._chosen, self._prompts, self._mix = testbed, chosen, prompts, mix
        self._paint, self._look, self._kind = paint, look, kind
        self._places = [list(known).index(name) for name in chosen.elements]

    def __call__(self, strengths: Strengths) -> float:
        """Paints and looks. Raises EvaluationError and AdapterError as painting does."""
        mix_of(self._testbed, self._chosen, strengths).write(self._mix)
        how = method("learned", {"file": str(self._mix)}, 1.0)
        sampling, files = self._testbed.sampling(self._chosen.world), digests(self._testbed, self._chosen)
        pictures = [
            self._paint(Job("tune", how, self._chosen, prompt, "", FIRST_SEED + number, sampling, files))[0]
            for number, prompt in enumerate(self._prompts)
        ]
        reading = self._look(np.stack(pictures))
        seen = reading.present[:, self._places].mean(1)
        return float((seen * reading.quality if self._kind == PRODUCT else seen).mean())


def _say(number: int, strengths: Strengths, score: float) -> None:
    print(f"{number}: {score:.4f} at " + ", ".join(f"{value:.3f}" for value in strengths), flush=True)
