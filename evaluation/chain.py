"""`testbed`: paints a plan, lets the oracle read the pictures, writes the report and the table of results.

The table lies beside the report. Where this run painted every picture of a plan of the repository, it is written to
benchmarks/results, too, which is committed: no table of a part, or of pictures of others, takes the place of one there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..benchmarks.results import FOLDER, Row, table, write_results
from . import runner
from .goals import HOURS
from .jobs import EvaluationError
from .plan import read_plan
from .planned import Plan
from .store import Store

PLANS = Path(__file__).parent / "plans"
SMALL = PLANS / "small.toml"
GOALS = {"small": 15.0, "full": 60 * HOURS}
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
        found, pictures = rows(plan, store), len({job.key for job in plan.jobs()})
        whole = outcome.painted == pictures  # else times are of several runs, perhaps of several machines
        if whole:
            found += times(plan, store)
            found.append(Row("paint, judge and report (min)", minutes, GOALS.get(plan.name), at_most=True))
        print(f"\n{table(found)}\n")
        write(plan, found, store.folder / "reports" / plan.name, whole)
        if not whole:
            painted = f"{outcome.painted} of {pictures} pictures were painted in this run"
            print(f"{painted}: times are left out, and benchmarks/results stays as it is.")
    return 0


def write(plan: Plan, found: Sequence[Row], folder: Path, whole: bool) -> None:
    """Writes the table beside the report, of a `whole` run of our own plans to benchmarks/results, too; says where."""
    topic = "testbed" if plan.name == "small" else f"testbed-{plan.name}"
    ours = plan.path.resolve().parent == PLANS.resolve()
    for place in (folder, FOLDER) if whole and ours else (folder,):
        print(f"Results: {write_results(topic, found, place)}")


def rows(plan: Plan, store: Store) -> list[Row]:
    """What the oracle read, as means over each method's pictures."""
    keys = keys_of(plan)
    values: dict[str, dict[str, float]] = {measure: {} for measure in MEASURES}
    for score in store.scores(("oracle",)):
        if score.measure in values and not score.element:
            values[score.measure][score.key] = score.value
    found = [
        Row(f"{label}: {name}", factor * mean(of_label, values[measure]))
        for label, of_label in keys.items()
        for measure, (name, factor) in MEASURES.items()
    ]
    return [*found, Row("pictures", len({job.key for job in plan.jobs()}))]


def times(plan: Plan, store: Store) -> list[Row]:
    """What the pictures cost, as means over each method's and in all."""
    keys = keys_of(plan)
    seconds = {key: one.seconds for key, one in store.pictures(job.key for job in plan.jobs()).items()}
    found = [Row(f"{label}: sampling (s a picture)", mean(of_label, seconds)) for label, of_label in keys.items()]
    return [*found, Row("sampling, all pictures (min)", sum(seconds.values()) / 60)]


def keys_of(plan: Plan) -> dict[str, list[str]]:
    """The keys of each method's pictures, by label."""
    keys: dict[str, list[str]] = {}
    for job in plan.jobs():
        keys.setdefault(job.label, []).append(job.key)
    return keys


def mean(keys: Sequence[str], values: Mapping[str, float]) -> float:
    """The mean over keys; what is missing makes it no number."""
    return sum(values.get(key, float("nan")) for key in keys) / len(keys)
