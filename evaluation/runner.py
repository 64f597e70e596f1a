"""`run`: paints what is missing of a plan, and keeps it. A kill at any moment loses the pictures in hand, no more."""

from __future__ import annotations

import argparse
import hashlib
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import standalone
from ..mixlora_core.files.writing import write_atomically
from ..training.display import duration
from ..training.stopping import Stop
from .jobs import EvaluationError, Job
from .methods import policy
from .painting import Painted, Painter, here, unknown_samplers
from .plan import Plan, read_plan
from .store import Store

SHOWN = 20
"""How many failures are listed one by one."""

SECONDS_BETWEEN_LINES = 5.0

Source = Callable[[Sequence[Job], Callable[[], bool]], Iterable[Painted]]
"""Jobs, and whether to stop -> what became of them, in any order, until all are done or it is time to stop."""


def _say(line: str) -> None:
    print(line, flush=True)


@dataclass
class Outcome:
    """What a run did."""

    painted: int = 0
    failed: list[Painted] = field(default_factory=list)
    left: int = 0
    """Not begun, because somebody asked to stop."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `run`."""
    parser.add_argument("plan", type=Path, help="the plan, a TOML file")
    parser.add_argument("--judge", action="store_true", help="let the oracle read the pictures afterwards (stand-in)")
    add_places(parser)


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where results lie, and where pictures are painted."""
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: evaluation_output/TESTBED")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="paint with Ray: on the cluster at ADDRESS, or on this machine",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="with --ray: processes that paint (default: one for each GPU, else machine)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Paints; 0 all there, 1 some failed, 128 + n where signal n stopped it."""
    with Stop() as stop:
        outcome = paint_plan(read_plan(arguments.plan), arguments, stop)
        if stop():
            return stop.exit_code
    if arguments.judge and not outcome.failed:
        from .cli import main

        return main(["judge", str(arguments.plan), *results_option(arguments)])
    return int(bool(outcome.failed))


def paint_plan(plan: Plan, arguments: argparse.Namespace, stop: Callable[[], bool]) -> Outcome:
    """Paints what is missing of a plan in this process or with Ray, prints what happens. Raises EvaluationError."""
    if arguments.workers is not None and (arguments.ray is None or arguments.workers < 1):
        raise EvaluationError(f"--workers {arguments.workers} needs --ray and a number of 1 or more.")
    if arguments.ray is None:
        standalone.import_comfy()
    jobs = plan.jobs()
    with open_results(results_folder(arguments, plan)) as store:
        todo = missing(store, jobs)
        pictures = len({job.key for job in jobs})
        print(f"{plan.path.name}: {pictures} pictures, {len(todo)} to paint, results in {store.folder}", flush=True)
        if not todo:
            return Outcome()
        if arguments.ray is None:
            if wrong := unknown_samplers(jobs):
                raise EvaluationError(f"{plan.path}:\n" + "\n".join(f"  {problem}" for problem in wrong))
            painter = Painter(plan.testbed)

            def source(jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Painted]:
                return here(painter, jobs, stop)

            outcome = paint(store, todo, source, stop)
        else:
            from .cluster import Cluster

            with Cluster(plan.testbed, arguments.ray, arguments.workers) as cluster:
                outcome = paint(store, todo, cluster.paint, stop)
    report(outcome)
    return outcome


def paint(
    store: Store, jobs: Sequence[Job], source: Source, stop: Callable[[], bool], say: Callable[[str], None] = _say
) -> Outcome:
    """Paints jobs that are missing and keeps each as it comes; a job that fails is noted and the others go on.

    Raises OSError where a picture cannot be written: then the fault is not the job's.
    """
    outcome, progress, number = Outcome(), Progress(jobs), uuid.uuid4().hex
    for done in source(jobs, stop):
        if done.error:
            outcome.failed.append(done)
            say(f"FAILED {named(done.job)}: {done.error}")
        else:
            keep(store, done, origin(number, done.machine))
            outcome.painted += 1
        if line := progress.count(done):
            say(line)
    outcome.left = len(jobs) - outcome.painted - len(outcome.failed)
    return outcome


def origin(run: str, machine: str) -> str:
    """What times of one run on one machine are known by: another machine is faster, another hour busier.

    A digest, for it is published with the scores and a machine's name is nobody's business.
    """
    return hashlib.sha256(f"{run} {machine}".encode()).hexdigest()[:32]


def keep(store: Store, done: Painted, origin: str = "") -> None:
    """The picture first, then its row: a row always has its picture."""
    path = store.picture_path(done.job.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, done.png)
    store.add_picture(done.job, done.seconds, origin)


def missing(store: Store, jobs: Iterable[Job]) -> list[Job]:
    """The jobs without a picture or scores of one, each once.

    Those of one checkpoint together, else in the order of the plan.
    """
    there = {key for key, picture in store.pictures().items() if picture.path is None or picture.path.is_file()}
    wanted = {job.key: job for job in jobs if job.key not in there}
    checkpoints = list(dict.fromkeys(job.files[0] for job in wanted.values()))
    return sorted(wanted.values(), key=lambda job: checkpoints.index(job.files[0]))


@contextmanager
def open_results(folder: Path) -> Iterator[Store]:
    """The store, while no other run paints into the same folder. Raises EvaluationError where one does."""
    from filelock import FileLock, Timeout  # comes with torch

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / "lock")
        held.acquire(timeout=0)
    except Timeout as error:
        raise EvaluationError(
            f"Another run paints into {folder}. Wait for it, stop it, or give other --results."
        ) from error
    except OSError as error:
        raise EvaluationError(f"{folder}: cannot write there ({error}).") from error
    try:
        for half in (folder / "pictures").rglob(".*.tmp"):  # of killed runs
            half.unlink(missing_ok=True)
        with Store(folder) as store:
            yield store
    finally:
        held.release()


def results_folder(arguments: argparse.Namespace, plan: Plan) -> Path:
    """Where a plan's results lie: one folder for all plans of a testbed, so that nothing is painted twice."""
    return arguments.results or Path("evaluation_output") / plan.testbed.name


def results_option(arguments: argparse.Namespace) -> list[str]:
    """`--results` for the next command, if this one had it."""
    return ["--results", str(arguments.results)] if arguments.results else []


def report(outcome: Outcome) -> None:
    """Says at the end what was done, and every failure with its set and method."""
    for done in outcome.failed[:SHOWN]:
        print(f"FAILED {named(done.job)}: {done.error}")
    if len(outcome.failed) > SHOWN:
        print(f"... and {len(outcome.failed) - SHOWN} more")
    parts = [f"{outcome.painted} painted", f"{len(outcome.failed)} failed"]
    if outcome.left:
        parts.append(f"{outcome.left} left; the same command goes on")
    print(", ".join(parts), flush=True)


def named(job: Job) -> str:
    """A job for people."""
    return f"{job.label}: {job.set.name} (noise {job.seed})"


class Progress:
    """How far a run is; time left is reckoned by runs of the model, of which Composite needs N times as many."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._total, self._done = len(jobs), 0
        self._work, self._worked = sum(map(evaluations, jobs)), 0.0
        self._began, self._said = time.monotonic(), -math.inf

    def count(self, done: Painted) -> str:
        """One more is done; a line that says how far it is, now and then and at the end, else nothing."""
        self._done += 1
        self._worked += evaluations(done.job)
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN_LINES and self._done < self._total:
            return ""
        self._said = now
        left = (now - self._began) / self._worked * (self._work - self._worked)
        return f"{self._done}/{self._total}  {duration(left)} left  {done.seconds:5.1f} s  {named(done.job)}"


def evaluations(job: Job) -> float:
    """How often the model runs for a picture."""
    how = job.sampling
    return how.steps * policy(job.method).evaluations(job.set.size, how.steps, how.cfg)
