"""`correlate`: how well judges agree with human ratings, pooled over all pictures and within each prompt."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from ..mixlora_core.files.writing import write_atomically
from . import ratings, statistics
from .correlations import Agreement, agreement
from .jobs import EvaluationError
from .measures import known
from .plan import read_plan
from .ratings import ASPECTS, IMAGE, Rating
from .report import existing_results
from .runner import results_folder
from .statistics import Estimate
from .store import Store
from .tables import Cell, Head, Row, Table, markdown, plain
from .versus import in_both_orders

Numbers = Mapping[str, Sequence[float]]
"""By judge: a number for each rating, no number where it has none."""
ANY = "score"
"""What a judge calls a number that is about the picture as a whole."""
OF_ASPECT = {"quality": IMAGE, "overloaded": IMAGE}
"""Our measures that are about one aspect; the others are held against both."""
EXPLAINED = (
    "Pooled: over all pictures, so that a judge is rewarded for knowing which prompts are easy. Within prompts: every "
    "number minus the mean of its prompt, which is what comparing methods is about. Pairs: how often judge and people "
    "prefer the same of two pictures of a prompt (half a point where the judge is undecided; 50 % is guessing). "
    "In brackets 95 % intervals, from drawing prompts again."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `correlate`."""
    parser.add_argument(
        "ratings",
        type=Path,
        help="ratings in the layout of Multi-LoRA Composition's human_eval/results.json, as `rate` writes",
    )
    parser.add_argument("plan", nargs="?", type=Path, help="also take the scores of the judges of this plan's results")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: evaluation_output/TESTBED of the plan")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the tables as Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tables; 0, or EvaluationError."""
    rated = [one for one in ratings.read(arguments.ratings) if one.people]
    if not rated:
        raise EvaluationError(f"{arguments.ratings}: no picture in it is rated.")
    judges = {aspect: _judges(rated, aspect) for aspect in ASPECTS}
    if arguments.plan or arguments.results:
        folder = results_folder(arguments, read_plan(arguments.plan)) if arguments.plan else arguments.results
        with existing_results(folder) as store:
            ours = stored(rated, store)
        if not any(ours.values()):
            raise EvaluationError(
                f"No picture of {arguments.ratings} has a score in {folder}. Ratings name pictures by their key; "
                "those of other results, or of the paper, cannot be looked up."
            )
        for aspect in ASPECTS:
            judges[aspect] |= ours[aspect]
    tables = [methods(rated), *(table for aspect in ASPECTS for table in against_people(rated, aspect, judges[aspect]))]
    people = sorted({name for one in rated for name in one.people})
    prompts = len({one.group for one in rated})
    head = f"{arguments.ratings.name}: {len(rated)} pictures of {prompts} prompts, {len(people)} raters"
    print(f"{head}\n")
    for table in tables:
        heads = [table.corner, *(one.line for one in table.heads)]
        print(
            f"{table.title}\n{plain(heads, [[row.label, *(cell.line for cell in row.cells)] for row in table.rows])}\n"
        )
    print(EXPLAINED)
    if arguments.output:
        text = "\n\n".join([f"# Judges and people\n\n{head}.", EXPLAINED, *(markdown(table, 2) for table in tables)])
        write_atomically(arguments.output, f"{text}\n".encode())
        print(f"\n{arguments.output}")
    return 0


def methods(rated: Sequence[Rating]) -> Table:
    """What people gave each method, with intervals over prompts."""
    prompts: dict[object, int] = {}
    of = [prompts.setdefault(one.group, len(prompts)) for one in rated]
    rows = []
    for method in dict.fromkeys(one.method for one in rated):
        places = [place for place, one in enumerate(rated) if one.method == method]
        found = [
            statistics.mean(np.array([rated[place].mean[aspect] for place in places]), [of[place] for place in places])
            for aspect in ASPECTS
        ]
        rows.append(Row(method, (*map(_cell, found), Cell(str(len(places))))))
    heads = (*(Head(f"{aspect}, 1 to 5") for aspect in ASPECTS), Head("pictures"))
    return Table("What people gave", "method", heads, tuple(rows))


def against_people(rated: Sequence[Rating], aspect: str, judges: Numbers) -> list[Table]:
    """Every judge, and people among themselves, against people's ratings of one aspect: pooled, and within prompts."""
    groups = [one.group for one in rated]
    mean = [one.mean[aspect] for one in rated]
    found = {judge: agreement(numbers, mean, groups) for judge, numbers in judges.items()}
    for names in combinations(sorted({name for one in rated for name in one.people}), 2):
        numbers = [[_given(one, name, aspect) for one in rated] for name in names]
        one = agreement(numbers[0], numbers[1], groups)
        if one.pictures > 1:
            found[" – ".join(names)] = one
    heads = tuple(Head(name) for name in ("Pearson", "Spearman", "Kendall"))
    pooled = [Row(name, (*map(_cell, one.pooled), Cell(str(one.pictures)))) for name, one in found.items()]
    within = [Row(name, (*map(_cell, one.centred), _pairs(one))) for name, one in found.items()]
    title = aspect.capitalize()
    return [
        Table(f"{title}: pooled", "judge", (*heads, Head("pictures")), tuple(pooled)),
        Table(f"{title}: within prompts", "judge", (*heads, Head("same of a pair", "%")), tuple(within)),
    ]


def _given(one: Rating, rater: str, aspect: str) -> float:
    return one.people[rater][aspect] if rater in one.people else math.nan


def stored(rated: Sequence[Rating], store: Store) -> dict[str, dict[str, list[float]]]:
    """By aspect and judge: what our judges gave the rated pictures."""
    wanted = {one.key for one in rated} - {""}
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score in store.scores():
        if score.key in wanted and not score.element:
            found[score.judge, score.measure][score.key].append(score.value)
    for one in in_both_orders(store.comparisons()):
        for key, points in ((one.first, one.first_score), (one.second, one.second_score)):
            if key in wanted:
                found[one.judge, one.measure][key].append(points)
    sides: dict[str, dict[str, list[float]]] = {aspect: {} for aspect in ASPECTS}
    for (judge, measure), points in found.items():
        sign = 1 if known(judge, measure).higher else -1  # what is better with less agrees when it is turned round
        means = {key: sign * sum(given) / len(given) for key, given in points.items()}
        numbers = [means.get(one.key, math.nan) for one in rated]
        only = measure if measure in ASPECTS else OF_ASPECT.get(measure)
        for aspect in ASPECTS if only is None else (only,):
            sides[aspect][f"{judge}, {measure}"] = numbers
    return sides


def _judges(rated: Sequence[Rating], aspect: str) -> dict[str, list[float]]:
    """What judges in the file itself say about an aspect, or about the whole picture."""
    names = list(dict.fromkeys(name for one in rated for name in one.judges))
    found = {}
    for name in names:
        given = [one.judges.get(name, {}) for one in rated]
        numbers = [float(one.get(aspect, one.get(ANY, math.nan))) for one in given]
        if not all(map(math.isnan, numbers)):
            found[name] = numbers
    return found


def _pairs(found: Agreement) -> Cell:
    pairs = found.pairs
    share = "–" if math.isnan(pairs.value) else f"{100 * pairs.value:.1f}"
    return Cell(share, "" if math.isnan(pairs.low) else f"{100 * pairs.low:.0f} to {100 * pairs.high:.0f}")


def _cell(one: Estimate) -> Cell:
    text = "–" if math.isnan(one.value) else f"{one.value:.3f}"
    return Cell(text, "" if math.isnan(one.low) else f"{one.low:.2f} to {one.high:.2f}")
