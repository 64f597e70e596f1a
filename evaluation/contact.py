"""`sheet`: the same sets by some methods of a plan on one picture, for documents: what the numbers look like.

Sets are drawn by lot, as the fixed examples of a report are: their names decide, not their pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..mixlora_core.contact_sheet import Cell, Row, contact_sheet
from .evidence import found
from .findings import Findings
from .jobs import EvaluationError
from .plan import read_plan
from .report import existing_results
from .runner import results_folder
from .sheets import Chosen, Print, strip
from .testbeds import draw

SIDE = 192
"""Pixels of a picture on the sheet."""
FORMATS = (".jpg", ".png")
SPELT = {"λ = ": "strength ", "λ": "strength", "√N": "sqrt(N)", "τ": "tau"}
"""What Pillow's own font lacks, in words."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `sheet`."""
    parser.add_argument("plan", type=Path, help="the plan, a TOML file")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=f"{' or '.join(FORMATS)}")
    parser.add_argument("--methods", nargs="+", metavar="LABEL", help="in this order (default: all of the plan)")
    parser.add_argument("--sets", type=int, default=1, metavar="N", help="how many of each size (default: 1)")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: evaluation_output/TESTBED")


def run(arguments: argparse.Namespace) -> int:
    """Writes the sheet and says where it lies; 0, or EvaluationError."""
    if arguments.output.suffix not in FORMATS:
        raise EvaluationError(f"--output is {arguments.output}; expected a name that ends with {' or '.join(FORMATS)}.")
    plan = read_plan(arguments.plan)
    with existing_results(results_folder(arguments, plan)) as store:
        findings = found(plan, store)
        if findings is None:
            raise EvaluationError(f"Nothing of {plan.name} is painted and judged; `run` and `judge` it first.")
        drawn = sheet(findings, arguments.methods or findings.reading.labels, arguments.sets)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(arguments.output, quality=88)
    print(f"{arguments.output}: {drawn.width} x {drawn.height} pixels")
    return 0


def sheet(findings: Findings, labels: Sequence[str], sets: int) -> Image.Image:
    """A row for each of so many sets of each size, a picture for each method; below it what the oracle misses.

    Raises EvaluationError for a method that the plan does not have, and where too few sets are painted by all of them.
    """
    cases = findings.reading.cases
    for label in labels:
        findings.reading.row(label)
    lots = sorted(range(len(cases)), key=lambda place: (draw(cases[place].set.elements, "example"), cases[place].seed))
    strips = [strip(findings, Chosen(place), labels) for place in lots]
    whole = [one for one in strips if all(shown.file for shown in one.prints)]
    sizes = sorted({one.size for one in whole})
    shown = [row for size in sizes for row in [one for one in whole if one.size == size][:sets]]
    if sets < 1 or len(shown) < sets * len(sizes) or not shown:
        raise EvaluationError(f"--sets {sets}; expected 1 or more, and as many of each size painted by these methods.")
    rows = [Row(", ".join(one.elements), [_cell(picture) for picture in one.prints]) for one in shown]
    return contact_sheet("The same sets, prompts and noise by each method", rows, SIDE)


def _cell(shown: Print) -> Cell:
    label = shown.label
    for sign, words in SPELT.items():
        label = label.replace(sign, words)
    if shown.note == "overloaded":
        seen = "overloaded"
    else:
        seen = "" if shown.lost is None else f"without {', '.join(shown.lost)}" if shown.lost else "all there"
    assert shown.file is not None
    with Image.open(shown.file) as image:
        return Cell(f"{label}\n{seen}", image.convert("RGB"))
