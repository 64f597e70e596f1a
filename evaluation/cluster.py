"""Paints with Ray: workers on one machine or many paint, this process hands out jobs and writes what comes back.

Every machine has the repository at the same path, and its model files. A worker that is lost gives its job back, and
another takes its place; a job is in one pair of hands at a time, so nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from .. import standalone
from .jobs import ElementSet, EvaluationError, Job, Method, Sampling
from .painting import Painted, Painter
from .testbeds import Testbed, open_testbed

TRIES = 3
"""How many workers a job may lose before it counts as failed: perhaps it is what kills them."""
PATIENCE = 60.0
"""Seconds without any worker before that is said."""


class Cluster:
    """Ray with its workers, within its block. Raises EvaluationError where Ray is not installed or not reachable."""

    def __init__(self, testbed: Testbed, address: str = "", workers: int | None = None) -> None:
        """`address` "" joins the cluster that Ray knows of, or begins one on this machine."""
        self._testbed, self._address, self._wanted = testbed, address, workers
        self.workers: dict[Any, int] = {}
        """Those that can paint, and their process ids."""
        self._lost = 0

    def __enter__(self) -> Cluster:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.exceptions
        except ImportError as error:
            raise EvaluationError("--ray needs Ray: pip install ray, or leave --ray out.") from error
        try:
            with _own_signals():
                ray.init(address=self._address or None, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EvaluationError(f"Ray cannot be reached at {self._address or 'this machine'} ({error}).") from error
        self._ray = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores, gpus = ([node.get(kind, 0.0) for node in nodes] for kind in ("CPU", "GPU"))
        self._number = self._wanted or int(sum(gpus)) or len(nodes)
        share = cores_each(cores, self._number)
        self._share = {"num_gpus": gpus_each(gpus, self._number)} if sum(gpus) else {"num_cpus": share}
        self._threads = max(1, int(share))
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def paint(self, jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Painted]:
        """What became of each job as it comes; once asked to stop, what is in hand is finished and no more begun.

        Raises EvaluationError where workers are lost one after the other and none paints.
        """
        queue, losses = deque(jobs), Counter[str]()
        starting = dict(self._start() for _ in range(min(self._number, len(jobs))))
        busy: dict[Any, tuple[Any, Job]] = {}
        idle: list[Any] = []
        since = time.monotonic()
        while busy or (queue and not stop()):
            while queue and idle and not stop():
                worker = idle.pop()
                job = queue.popleft()
                busy[worker.paint.remote(asdict(job))] = worker, job
            ready, _ = self._ray.wait([*busy, *starting], timeout=1.0)
            if ready or busy:
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                print(f"still waiting for a worker; Ray has {self._ray.cluster_resources()}", flush=True)
                since = time.monotonic()
            for reference in ready:
                worker, job = busy.pop(reference) if reference in busy else (starting.pop(reference), None)
                try:
                    answer = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    starting |= [self._replaced(worker, error)]
                    if job is not None:
                        losses[job.key] += 1
                        if losses[job.key] < TRIES:
                            queue.appendleft(job)
                        else:
                            yield Painted(job, error=f"{TRIES} workers were lost that painted it, the last so: {error}")
                    continue
                idle.append(worker)
                if job is None:
                    self.workers[worker] = answer
                else:
                    self._lost = 0
                    yield Painted(job, *answer)

    def _start(self) -> tuple[Any, Any]:
        """A new worker, and the promise of its first answer in front of it."""
        actor = self._ray.remote(_worker_class()).options(**self._share)
        worker = actor.remote(str(standalone.ROOT), self._testbed.name, dict(self._testbed.options), self._threads)
        return worker.begun.remote(), worker

    def _replaced(self, worker: Any, error: Exception) -> tuple[Any, Any]:
        self.workers.pop(worker, None)
        self._lost += 1
        if self._lost > max(TRIES, 2 * self._number):
            raise EvaluationError(
                f"{self._lost} workers were lost one after the other; the last so: {error}"
            ) from error
        print(f"a worker was lost, another takes its place ({str(error).strip().splitlines()[0]})", flush=True)
        return self._start()


def cores_each(cores: Sequence[float], workers: int) -> float:
    """The most cores for each worker with which all find a place on machines with so many; a part of one for many."""
    for share in range(int(max(cores, default=0)), 0, -1):
        if sum(have // share for have in cores) >= workers:
            return float(share)
    return 1 / math.ceil(workers / max(sum(map(int, cores)), 1))


def gpus_each(gpus: Sequence[float], workers: int) -> float:
    """A GPU for each worker, or the same part of one where they are more."""
    return 1 / math.ceil(workers / sum(map(int, gpus)))


@contextmanager
def _own_signals() -> Iterator[None]:
    """SIGTERM does after the block what it did before: Ray's own handler would lose the pictures in hand."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if former is not None and threading.current_thread() is threading.main_thread():  # elsewhere Ray sets none
            signal.signal(signal.SIGTERM, former)


def _worker_class() -> type:
    """What Ray runs elsewhere. Made here, so that Ray sends its code: the pack need not be importable there."""

    class Worker:
        def __init__(self, root: str, testbed: str, options: dict, threads: int) -> None:
            import importlib
            import importlib.util
            from pathlib import Path

            spec = importlib.util.spec_from_file_location("mixlora_standalone", Path(root) / "standalone.py")
            assert spec is not None and spec.loader is not None
            standalone = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(standalone)
            standalone.import_pack()
            standalone.import_comfy()
            importlib.import_module("torch").set_num_threads(threads)
            self.answer = importlib.import_module("mixlora.evaluation.cluster").painter(testbed, options)

        def begun(self) -> int:
            import os

            return os.getpid()

        def paint(self, job: dict) -> tuple[bytes, float, str, str]:
            return self.answer(job)

    return Worker


def painter(testbed: str, options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], tuple[bytes, float, str, str]]:
    """What a worker does with a job, both as plain data: the PNG file, seconds, error, machine."""
    paints = Painter(open_testbed(testbed, options))

    def answer(record: Mapping[str, Any]) -> tuple[bytes, float, str, str]:
        done = paints.attempt(_job(record))
        return done.png, done.seconds, done.error, done.machine

    return answer


def _job(record: Mapping[str, Any]) -> Job:
    """A job from what `asdict` made of it."""
    method, chosen, sampling = Method(**record["method"]), ElementSet(**record["set"]), Sampling(**record["sampling"])
    return Job(**{**record, "method": method, "set": chosen, "sampling": sampling})
