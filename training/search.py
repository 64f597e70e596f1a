"""The best strengths for any score: a black-box search with a budget, by CMA-ES (the package cmaes).

CMA-ES (Hansen, arXiv 1604.00772) needs no gradient and bears noise; with two to a few dozen numbers and tens of
evaluations it is what the field uses. The known rules 1, 1/sqrt(N) and 1/N, or strengths that one names, are tried
first, so the result is never worse than the best of them by this score.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .files import write_atomically
from .settings import TrainingError

Strengths = tuple[float, ...]
Objective = Callable[[Strengths], float]
"""Strengths, one for each adapter (or for each of anything) -> a score; higher is better. The same each time, at best:
the same prompts and noise for all strengths."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Where to search and how long. Raises TrainingError for values out of range."""

    budget: int = 40
    """Evaluations of the objective, with the first ones."""
    lowest: float = 0.0
    highest: float = 1.5
    spread: float = 0.2
    """Standard deviation of the strengths that are then tried around the best of the first ones."""
    seed: int = 0
    starts: tuple[float, ...] = ()
    """What is tried first, each for all adapters alike; empty: the known rules 1, 1/sqrt(N) and 1/N."""

    def __post_init__(self) -> None:
        numbers = (self.lowest, self.highest, self.spread, *self.starts)
        if self.budget < 1 or not all(map(math.isfinite, numbers)) or self.lowest >= self.highest or self.spread <= 0:
            raise TrainingError(
                f"Search: budget {self.budget}, from {self.lowest} to {self.highest}, spread {self.spread}; expected 1 "
                "or more evaluations, a lowest below the highest, a spread above 0, all finite."
            )


class Log(NamedTuple):
    """A JSON file that keeps every score of one search as it comes."""

    path: Path
    about: Mapping[str, Any]
    """All that the scores depend on besides the strengths, as JSON has it: what is scored and how. Scores of one search
    are none of another's, so a file is read only where it says the same."""


@dataclass(frozen=True)
class Found:
    """All that was tried, in order, with its score."""

    tried: tuple[tuple[Strengths, float], ...]

    @property
    def best(self) -> tuple[Strengths, float]:
        """The strengths of the highest score; of equal ones the first."""
        return max(self.tried, key=lambda one: one[1])


def search(
    objective: Objective,
    adapters: int,
    settings: SearchSettings,
    log: Log | None = None,
    on_try: Callable[[int, Strengths, float], None] = lambda number, strengths, score: None,
) -> Found:
    """Strengths with a high score. The same objective and seed give the same search.

    With a `log`, a search that was killed goes on without asking the objective again. Raises TrainingError for a score
    that is not finite, a log of another search, and where cmaes is not installed.
    """
    if adapters < 1:
        raise TrainingError("There is nothing to search: no adapter.")
    journal = _Journal(log, adapters, settings)

    def score(strengths: Strengths) -> float:
        number = len(journal.tried) + 1
        found = journal.again(strengths)
        if found is None:
            found = float(objective(strengths))
            if not math.isfinite(found):
                raise TrainingError(f"The score of {_shown(strengths)} is {found}; expected a finite number.")
        journal.add(strengths, found)
        on_try(number, strengths, found)
        return found

    starts = settings.starts or [1 / n for n in (1.0, math.sqrt(adapters), float(adapters))]
    alike = dict.fromkeys(_within(start, adapters, settings) for start in starts)
    for strengths in list(alike)[: settings.budget]:
        score(strengths)
    if len(journal.tried) < settings.budget:
        _evolve(score, journal, adapters, settings)
    return Found(tuple(journal.tried))


def _evolve(score: Objective, journal: _Journal, adapters: int, settings: SearchSettings) -> None:
    best = max(journal.tried, key=lambda one: one[1])[0]
    # One number more where there is one alone: the package's CMA needs two, the other counts for nothing.
    mean = np.array([*best, *([0.0] if adapters == 1 else [])])
    bounds = np.array([[settings.lowest, settings.highest]] * adapters + ([[-10.0, 10.0]] if adapters == 1 else []))
    optimizer = _cma()(mean=mean, sigma=settings.spread, bounds=bounds, seed=settings.seed)
    while not optimizer.should_stop():
        told = []
        for _ in range(optimizer.population_size):
            if len(journal.tried) >= settings.budget:
                return
            asked = optimizer.ask()
            told.append((asked, -score(tuple(float(value) for value in asked[:adapters]))))
        optimizer.tell(told)


def _cma() -> Any:
    try:
        return importlib.import_module("cmaes").CMA
    except ImportError as error:
        raise TrainingError(f"The search needs the package cmaes ({error}): pip install cmaes.") from error


class _Journal:
    """What was tried, here and in the run that this one continues."""

    def __init__(self, log: Log | None, adapters: int, settings: SearchSettings) -> None:
        self.path, self.tried = log and log.path, []
        what = {**(log.about if log else {}), "adapters": adapters, **vars(settings)}
        del what["budget"]  # a larger one continues a search; anything else makes another one
        self._what = json.loads(json.dumps(what))  # as it is read back
        self._former: list[tuple[Strengths, float]] = []
        if self.path is not None and self.path.exists():
            self._former = self._read(self.path)

    def again(self, strengths: Strengths) -> float | None:
        """The score that the former run gave these strengths; None after its end."""
        if len(self.tried) >= len(self._former):
            return None
        known, score = self._former[len(self.tried)]
        if not np.allclose(known, strengths, rtol=0, atol=1e-9):
            raise TrainingError(
                f"{self.path}: evaluation {len(self.tried) + 1} was of {_shown(known)}, this search asks for "
                f"{_shown(strengths)}: another version of cmaes wrote it. Delete the file to start again."
            )
        return score

    def add(self, strengths: Strengths, score: float) -> None:
        """Keeps one more, on the disk where there is a path."""
        self.tried.append((strengths, score))
        if self.path is not None and len(self.tried) > len(self._former):
            write_atomically(self.path, json.dumps({"search": self._what, "tried": self.tried}, indent=1).encode())

    def _read(self, path: Path) -> list[tuple[Strengths, float]]:
        try:
            kept = json.loads(path.read_text("utf-8"))
            what, tried = dict(kept["search"]), [(tuple(map(float, one)), float(score)) for one, score in kept["tried"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path}: not a readable log of a search ({error}). Delete it to start again."
            ) from error
        if what != self._what:
            raise TrainingError(f"{path}: {self._apart(what)}. Give another file, or delete it.")
        return tried

    def _apart(self, what: Mapping[str, Any]) -> str:
        """How the search that a log is of differs from this one."""
        if unknown := sorted(self._what.keys() - what.keys()):
            return f"an earlier version wrote it, which did not note {', '.join(unknown)}"
        apart = [name for name in {**what, **self._what} if what.get(name) != self._what.get(name)]
        return f"a log of another search; they differ in {', '.join(sorted(apart))}"


def _within(value: float, adapters: int, settings: SearchSettings) -> Strengths:
    return (min(max(value, settings.lowest), settings.highest),) * adapters


def _shown(strengths: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in strengths)
