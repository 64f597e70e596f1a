"""`testbed`: paints a plan, lets the oracle read the pictures, writes the report and the table of results."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..benchmarks.results import Row, table, write_results
from . import runner
from .jobs import EvaluationError
from .plan import read_plan
from .planned import Plan
from .store import Store

PLANS = Path(__file__).parent / "plans"
SMALL = PLANS / "small.toml"
GOALS = {"small": 15.0, "full": 8 * 60.0}
"""Minutes that the plans of these names may take on two cores, from the first picture to the report."""
MEASURES = {
    "share": ("asked-for elements there (%)", 100.0),
    "all": ("everything asked for is there (%)", 100.0),
    "unasked": ("elements there that were not asked for", 1.0),
    "quality": ("quality (0 to 1)", 1.0),
    "overloaded": ("overloaded pictures (%)", 100.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `testbed`."""
    parser.add_argument("plan", nargs="?", type=Path, default=SMALL, help="default: the small plan of this repository")
    runner.add_places(parser)


def run(arguments: argparse.Namespace) -> int:
    """Everything after the other, up to what fails; the exit code of that."""
    from .cli import main

    plan, began = read_plan(arguments.plan), time.monotonic()
    if plan.testbed.name != "standin":
        raise EvaluationError(f"{plan.path}: the oracle reads the stand-in only. Use run, judge and report one by one.")
    with runner.Stop() as stop:
        outcome = runner.paint_plan(plan, arguments, stop)
        if stop():
            return stop.exit_code
    if outcome.failed:
        return 1
    for command in ("judge", "report"):
        if code := main([command, str(plan.path), *runner.results_option(arguments)]):
            return code
    minutes = (time.monotonic() - began) / 60
    with Store(runner.results_folder(arguments, plan)) as store:
        found = rows(plan, store)
        if outcome.painted == len({job.key for job in plan.jobs()}):  # else the time says nothing
            found.append(Row("paint, judge and report (min)", minutes, GOALS.get(plan.name), at_most=True))
        print(f"\n{table(found)}")
        if plan.path.resolve().parent == PLANS.resolve():
            topic = "testbed" if plan.name == "small" else f"testbed-{plan.name}"
            print(f"\nResults: {write_results(topic, found)}")
    return 0


def rows(plan: Plan, store: Store) -> list[Row]:
    """What the oracle read, as means over each method's pictures; and what the pictures cost."""
    keys: dict[str, list[str]] = {}
    for job in plan.jobs():
        keys.setdefault(job.label, []).append(job.key)
    values: dict[str, dict[str, float]] = {measure: {} for measure in MEASURES}
    for score in store.scores(("oracle",)):
        if score.measure in values and not score.element:
            values[score.measure][score.key] = score.value
    seconds = {key: picture.seconds for key, picture in store.pictures().items()}
    found = [
        Row(f"{label}: {name}", factor * mean(of_label, values[measure]))
        for label, of_label in keys.items()
        for measure, (name, factor) in MEASURES.items()
    ]
    found += [Row(f"{label}: sampling (s a picture)", mean(of_label, seconds)) for label, of_label in keys.items()]
    pictures = {key for of_label in keys.values() for key in of_label}
    found.append(Row("pictures", len(pictures)))
    return [*found, Row("sampling, all pictures (min)", sum(seconds[key] for key in pictures) / 60)]


def mean(keys: Sequence[str], values: Mapping[str, float]) -> float:
    """The mean over keys; what is missing makes it no number."""
    return sum(values.get(key, float("nan")) for key in keys) / len(keys)
