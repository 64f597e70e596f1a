"""A vision-language model as a judge: each method against one, same set and noise, in both orders.

Every answer is kept in the store under a digest of all that was asked, malformed ones too, so that nothing is paid for
twice: a second call asks only what was not answered, and scores always follow from the kept answers.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ..jobs import Element, EvaluationError, Job
from ..store import Comparison, Store
from .client import Answer, Client, Endpoint, RefusedError, StoppedError
from .estimate import Estimate, Request, estimate
from .parsing import MalformedError, Scores, parse
from .pictures import Outcome, Painted, painted, unpainted
from .position import position_bias
from .rubric import MEASURES, question

PATIENCE = 5
"""Refused requests about so many sets, and none answered between them, mean that the server refuses all."""


@dataclass(frozen=True, eq=False)
class Showing:
    """Two pictures of a set in the order in which the model sees them."""

    text: str
    first: Painted
    second: Painted

    def __str__(self) -> str:
        first, second = self.first.job, self.second.job
        return f"{first.set.name} (noise {first.seed}): {first.label}, then {second.label}"

    @property
    def keys(self) -> tuple[str, str]:
        """Of the jobs."""
        return self.first.job.key, self.second.job.key

    def pictures(self) -> list[bytes]:
        """Both files. Raises OSError."""
        return [self.first.path.read_bytes(), self.second.path.read_bytes()]


class Docket:
    """What is to be asked of an endpoint for a plan, what was answered already, and what came out."""

    def __init__(self, showings: Sequence[Showing], store: Store, endpoint: Endpoint, attempts: int) -> None:
        self.store, self.endpoint, self.attempts = store, endpoint, attempts
        self.judge = f"vlm:{endpoint.model}"
        self.scores: dict[Showing, tuple[Scores, Scores]] = {}
        self.failed: dict[Showing, str] = {}
        """Why there are no scores."""
        self.pending: deque[tuple[Showing, int]] = deque()
        """With the number of the next attempt, from 1."""
        self._digests: dict[Path, str] = {}
        for showing in showings:
            self._resume(showing)
        self.known = len(self.scores)

    def request(self, showing: Showing, attempt: int) -> str:
        """A digest of everything that an answer depends on, and of the attempt."""
        seen = [self._digest(picture.path) for picture in (showing.first, showing.second)]
        asked = [self.endpoint.model, showing.text, *seen, self.endpoint.temperature, self.endpoint.max_tokens, attempt]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def keep(self, showing: Showing, attempt: int, answer: Answer) -> None:
        """Keeps an answer; a malformed one is asked for again, as long as attempts are left."""
        text = json.dumps({"text": answer.text, "finish": answer.finish})
        self.store.add_answer(self.request(showing, attempt), self.judge, text, answer.usage)
        if not self._read(showing, answer.text, answer.finish):
            self._again(showing, attempt + 1)

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]

    def _resume(self, showing: Showing) -> None:
        for attempt in range(1, self.attempts + 1):
            kept = self.store.answer(self.request(showing, attempt))
            if kept is None:
                return self._again(showing, attempt)
            answer = json.loads(kept)
            if self._read(showing, answer["text"], answer["finish"]):
                return None
        return None

    def _again(self, showing: Showing, attempt: int) -> None:
        if attempt <= self.attempts:
            self.pending.append((showing, attempt))

    def _read(self, showing: Showing, text: str, finish: str) -> bool:
        try:
            self.scores[showing] = parse(text, finish)
        except MalformedError as error:
            self.failed[showing] = f"malformed: {error}"
            return False
        self.failed.pop(showing, None)
        first, second = self.scores[showing]
        self.store.add_comparisons(
            Comparison(*showing.keys, self.judge, *row) for row in zip(MEASURES, first, second, strict=True)
        )
        return True

    def estimate(
        self, price_in: float | None = None, price_out: float | None = None, picture: int | None = None
    ) -> Estimate:
        """What the pending requests will cost; `picture` is how many tokens one has for this model, if known."""
        asked = (
            Request(
                showing.text,
                [(p.job.sampling.width, p.job.sampling.height) for p in (showing.first, showing.second)],
                self.attempts - attempt + 1,
            )
            for showing, attempt in self.pending
        )
        return estimate(asked, self.endpoint.max_tokens, price_in, price_out, picture)

    def outcome(self) -> Outcome:
        """What was done, with the position bias over all that is known."""
        lost = [f"{showing}: {why}" for showing, why in self.failed.items()]
        keys = {showing.keys for showing in self.scores}
        mine = [one for one in self.store.comparisons(self.judge) if (one.first, one.second) in keys]
        notes = [f"position bias, {line}" for line in position_bias(mine)]
        if half := {frozenset(showing.keys) for showing in self.failed}:
            notes.append(f"{len(half)} pairs lack an order or both; averages leave them out")
        return Outcome(self.judge, len(self.scores) - self.known, self.known, lost, notes)


def showings(
    jobs: Sequence[Job], elements: Mapping[str, Element], store: Store, against: str | None = None
) -> tuple[list[Showing], list[str]]:
    """Both orders of every painted pair of a method and `against` (default: the first merge), and notes.

    Sets of one element are left out. Raises EvaluationError for an unknown label, or where there is nothing to compare.
    """
    labels = list(dict.fromkeys(job.label for job in jobs))
    if against is None:
        against = next((job.label for job in jobs if job.method.kind == "merge"), None)
    if against not in labels or len(labels) < 2:
        raise EvaluationError(
            f"--judge vlm compares each method with one of them, --against LABEL; the plan has {', '.join(labels)}"
            + ("." if against is None else f", not {against!r}." if against not in labels else " only.")
        )
    there, found, same = painted(jobs, store), [], 0
    baseline = {(job.set.name, job.seed): job for job in jobs if job.label == against}
    for job in jobs:
        other = baseline.get((job.set.name, job.seed))
        if other is None or job.label == against or job.set.size < 2 or not {job.key, other.key} <= there.keys():
            continue
        if job.key == other.key:
            same += 1
            continue
        text = question([elements[name] for name in other.set.elements])
        pair = (Painted(other, there[other.key].path), Painted(job, there[job.key].path))
        found += [Showing(text, *pair), Showing(text, *reversed(pair))]
    notes = unpainted(jobs, store)
    if same:
        notes.append(f"{same} pairs are one and the same picture by two names; they are not asked about")
    return found, notes


def ask(docket: Docket, client: Client, concurrency: int, done: Callable[[int, int], None]) -> None:
    """Asks what is pending, several requests at a time, and keeps each answer as it comes.

    Raises EvaluationError where the server does not answer or refuses everything; what came until then is kept.
    """
    total, refused = len(docket.pending), set[str]()  # sets, for what is refused is often what one of them shows
    running: dict[Future[Answer], tuple[Showing, int]] = {}
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            while docket.pending or running:
                while docket.pending and len(running) < concurrency:
                    showing, attempt = docket.pending.popleft()
                    running[pool.submit(_ask_one, client, showing)] = showing, attempt
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    showing, attempt = running.pop(future)
                    try:
                        docket.keep(showing, attempt, future.result())
                        refused.clear()
                    except RefusedError as error:
                        docket.failed[showing] = f"refused: {error}"
                        refused.add(showing.first.job.set.name)
                        if len(refused) >= PATIENCE:
                            many = f"Requests about {PATIENCE} sets in a row were refused"
                            raise EvaluationError(f"{many}: {error}") from error
                    done(total - len(docket.pending) - len(running), total)
        except BaseException:
            client.stop.set()
            _keep_the_rest(docket, running)
            raise


def _ask_one(client: Client, showing: Showing) -> Answer:
    return client.ask(showing.text, showing.pictures())


def _keep_the_rest(docket: Docket, running: Mapping[Future[Answer], tuple[Showing, int]]) -> None:
    """Answers that are under way when it ends are paid for, too."""
    for future, (showing, attempt) in running.items():
        try:
            docket.keep(showing, attempt, future.result())
        except (EvaluationError, RefusedError, StoppedError):
            continue
