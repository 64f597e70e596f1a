"""The stand-in's oracle as a judge: which of the asked-for elements are there, which came unasked, how well painted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ..jobs import EvaluationError, Job
from ..store import Store
from .pictures import Outcome, batches, painted, pixels, unpainted

NAME = "oracle"
BATCH = 64


class Reading(Protocol):
    """What the oracle saw in n pictures."""

    @property
    def present(self) -> np.ndarray:
        """Probability that an element is there, (n, elements)."""
        ...

    @property
    def quality(self) -> np.ndarray:
        """0..1, (n,)."""
        ...

    @property
    def overloaded(self) -> np.ndarray:
        """0..1, (n,): above 0.5 adapters broke the picture to pieces."""
        ...


Read = Callable[[np.ndarray], Reading]
"""Pictures, uint8 (n, height, width, 3) -> a reading."""


def judge(
    jobs: Sequence[Job],
    store: Store,
    read: Read,
    names: Sequence[str],
    done: Callable[[int, int], None],
    version: str = "",
) -> Outcome:
    """Scores the painted pictures that an oracle of this version has not scored yet.

    `names` are the oracle's elements in its order, `version` tells its weights from others'. Raises EvaluationError
    where a job asks for an element, or has a size, that the oracle cannot read.
    """
    there = painted(jobs, store)
    asked = {name for entry in there.values() for name in entry.job.set.elements}
    if strange := sorted(asked - set(names)):
        raise EvaluationError(
            f"The oracle reads the stand-in's elements only and does not know {', '.join(strange)}. "
            "Use --judge clip or --judge vlm."
        )
    scored = store.scored(NAME)  # a picture that was painted again has lost its scores
    todo = [key for key in there if key not in scored or scored_by(store, key) != version]
    outcome = Outcome(NAME, known=len(there) - len(todo), notes=unpainted(jobs, store))
    for keys in batches(todo, BATCH):
        try:
            reading = read(np.stack([pixels(there[key].path) for key in keys]))
        except ValueError as error:  # another size than the stand-in's, or several
            raise EvaluationError(f"Some of {there[keys[0]].path} and the next {len(keys) - 1}: {error}") from error
        columns = (reading.present, reading.quality, reading.overloaded)
        for key, present, quality, overloaded in zip(keys, *columns, strict=True):
            found = dict(zip(names, present.tolist(), strict=True))
            asked = there[key].job.set.elements
            store.add_scores(key, NAME, scores(found, asked, float(quality), float(overloaded)))
            note_version(store, key, version)  # after the scores: a kill between the two repeats them
        outcome.judged += len(keys)
        done(outcome.judged, len(todo))
    return outcome


def scored_by(store: Store, key: str) -> str | None:
    """The version of the oracle that scored a picture; None where none has."""
    return store.answer(_stamp(key))


def note_version(store: Store, key: str, version: str) -> None:
    """Notes which version of the oracle scored a picture."""
    store.add_answer(_stamp(key), NAME, version, {})


def _stamp(key: str) -> str:
    return hashlib.sha256(f"{NAME} {key}".encode()).hexdigest()


def scores(
    present: dict[str, float], asked: Sequence[str], quality: float, overloaded: float
) -> dict[tuple[str, str], float]:
    """A picture's scores from its probabilities; what is more probable than not counts as so."""
    seen = {name for name, probability in present.items() if probability > 0.5}
    hits = len(seen.intersection(asked))
    return {
        **{("element", name): present[name] for name in asked},
        ("all", ""): float(hits == len(asked)),
        ("share", ""): hits / len(asked),
        ("unasked", ""): float(len(seen.difference(asked))),
        ("quality", ""): quality,
        ("overloaded", ""): float(overloaded > 0.5),
    }
