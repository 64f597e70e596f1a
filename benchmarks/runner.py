"""`python -m mixlora.benchmarks.runner`: what the testbed's runner promises, whichever methods it compares.

That two workers do twice the work of one, that a plan painted twice gives the same pictures, and that a finished run
of the full plan is soon read back. Needs Ray; writes testbed-runner-<device>.json.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from ..evaluation.chain import PLANS
from ..evaluation.cluster import Cluster
from ..evaluation.jobs import Job
from ..evaluation.judges import oracle
from ..evaluation.painting import Painted, png
from ..evaluation.plan import read_plan
from ..evaluation.planned import Plan
from ..evaluation.report import write_report
from ..evaluation.runner import keep
from ..evaluation.store import Store
from .results import Row, no_arguments, table, write_results

PICTURES = 24
"""Painted by one worker and again by two; of each count those after the worker's first."""


class Run(NamedTuple):
    """What a cluster painted, and how many pictures a minute once its workers had begun."""

    pictures: dict[str, bytes]
    pace: float


def main() -> None:
    """Measures, prints the table, writes the results."""
    no_arguments(__doc__)
    small, full = (read_plan(PLANS / f"{name}.toml") for name in ("small", "full"))
    rows = [*worker_rows(small), *reading_rows(full)]
    print(f"\n{table(rows)}\n\nResults: {write_results('testbed-runner', rows)}")


def worker_rows(plan: Plan) -> list[Row]:
    """One worker on one core and two workers on two, with the same jobs."""
    jobs = [job for job in plan.jobs() if job.method.kind != "composite"][:PICTURES]
    runs = [painted(plan, jobs, workers) for workers in (1, 2)]
    one, two = (run.pictures for run in runs)
    return [
        Row("one worker on one core: pictures a minute", runs[0].pace),
        Row("two workers on a core each / one", runs[1].pace / runs[0].pace, 1.7),
        Row("painted twice: pictures that differ in a bit", sum(one[key] != two[key] for key in one), 0, at_most=True),
    ]


def painted(plan: Plan, jobs: Sequence[Job], workers: int) -> Run:
    """The jobs painted by a local Ray with so many cores and workers. Raises RuntimeError where one fails."""
    from ray.cluster_utils import Cluster as Machines

    machines = Machines(initialize_head=True, head_node_args={"num_cpus": workers, "include_dashboard": False})
    pictures, times = {}, []
    try:
        with Cluster(plan.testbed, str(machines.address), workers) as cluster:
            for done in cluster.paint(jobs, lambda: False):
                if done.error:
                    raise RuntimeError(f"{done.job.label}: {done.job.set.name}: {done.error}")
                pictures[done.job.key] = done.png
                times.append(time.monotonic())
                print(f"{workers} at work: {len(times)} of {len(jobs)}", flush=True)
    finally:
        machines.shutdown()
    return Run(pictures, 60 * (len(times) - workers) / (times[-1] - times[workers - 1]))


def reading_rows(plan: Plan) -> list[Row]:
    """Statistics and report of a plan whose pictures and scores are made up."""
    with TemporaryDirectory() as folder:
        made_up(plan, Path(folder)).close()
        began = time.monotonic()
        with Store(Path(folder)) as store:
            write_report(plan, store, Path(folder) / "report")
        seconds = time.monotonic() - began
    name = f"{plan.name} plan, made up: statistics and report of {len(plan.jobs())} pictures (s)"
    return [Row(name, seconds, 60, at_most=True)]


def made_up(plan: Plan, folder: Path) -> Store:
    """Every picture of a plan as noise, with scores drawn from a generator, as the oracle keeps them."""
    random, store = np.random.default_rng(0), Store(folder)
    for job in plan.jobs():
        noise = random.integers(0, 256, (job.sampling.height, job.sampling.width, 3), np.uint8)
        keep(store, Painted(job, png(noise), 5.0))
        present = {name: float(random.random()) for name in job.set.elements}
        quality, overloaded = random.random(), random.random()
        store.add_scores(job.key, oracle.NAME, oracle.scores(present, job.set.elements, quality, overloaded))
    return store


if __name__ == "__main__":
    main()
