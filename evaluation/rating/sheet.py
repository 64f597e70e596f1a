"""A rater's answers, kept in the ratings file as soon as a picture has both."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import ratings
from ..jobs import Element, EvaluationError, Job
from ..judges.pictures import Painted
from ..ratings import ASPECTS, Rating
from ..store import seen_from
from .pairs import Pair

SCALE = (1, 2, 3, 4, 5)


class Sheet:
    """Pairs to rate and one rater's answers. Several raters may share a file, also at the same time."""

    def __init__(self, path: Path, rater: str, pairs: Sequence[Pair], elements: Mapping[str, Element]) -> None:
        """Reads what the rater has answered before. Raises EvaluationError for a file that is none of ratings."""
        from filelock import FileLock  # comes with torch

        self.path, self.rater, self.pairs, self.elements = path, rater, pairs, elements
        self._lock, self._threads = FileLock(path.with_name(f".{path.name}.lock")), threading.Lock()
        self._pictures = list({shown.job.key: shown for pair in pairs for shown in (pair.left, pair.right)}.values())
        self._answers: dict[str, Mapping[str, float]] = {}
        with self._threads, self._lock:
            kept = ratings.read(path) if path.exists() else []
            for rating in kept:
                for person, name in rating.raters.items():
                    if name == rater and person in rating.people:
                        self._answers[rating.key] = rating.people[person]

    def state(self) -> dict[str, Any]:
        """Everything that the page shows; pictures are numbers, and no method's name is in it."""
        numbers = {shown.job.key: number for number, shown in enumerate(self._pictures)}
        return {
            "rater": self.rater,
            "file": self.path.name,
            "answers": [self._answers.get(shown.job.key, {}) for shown in self._pictures],
            "pairs": [
                {
                    "elements": [
                        {"category": element.category, "name": element.name, "trigger": element.trigger}
                        for element in self._members(pair.left.job)
                    ],
                    "left": numbers[pair.left.job.key],
                    "right": numbers[pair.right.job.key],
                }
                for pair in self.pairs
            ],
        }

    def picture(self, number: int) -> Path:
        """Where a picture lies. Raises KeyError for a number that there is not."""
        return self._shown(number).path

    def rate(self, number: int, given: Mapping[str, Any] | None) -> None:
        """Keeps both answers about a picture, {"composition": 1..5, "image": 1..5}, or takes them back with None.

        Raises KeyError for a number that there is not, ValueError for other answers, OSError and EvaluationError where
        the file cannot be changed.
        """
        shown = self._shown(number)
        if given is not None and (given.keys() != set(ASPECTS) or any(not _on_scale(v) for v in given.values())):
            raise ValueError(f"expected whole numbers from {SCALE[0]} to {SCALE[-1]} for {' and '.join(ASPECTS)}")
        answers = None if given is None else {aspect: float(given[aspect]) for aspect in ASPECTS}
        with self._threads, self._lock:
            kept = ratings.read(self.path) if self.path.exists() else []
            person = _person(kept, self.rater)
            entry = next((one for one in kept if one.key == shown.job.key), None)
            changed = _with(entry or self._rating(shown), person, self.rater, answers)
            new = [changed] if changed.people or changed.judges else []
            place = next((number for number, one in enumerate(kept) if one is entry), len(kept))
            ratings.write(self.path, [*kept[:place], *new, *kept[place + 1 :]])
            if answers is None:
                self._answers.pop(shown.job.key, None)
            else:
                self._answers[shown.job.key] = answers

    def _shown(self, number: int) -> Painted:
        if not 0 <= number < len(self._pictures):
            raise KeyError(f"no picture {number}")
        return self._pictures[number]

    def _members(self, job: Job) -> list[Element]:
        """In the testbed's order, for methods may have stacks of another one."""
        return [element for name, element in self.elements.items() if name in job.set.elements]

    def _rating(self, shown: Painted) -> Rating:
        job, members = shown.job, enumerate(self._members(shown.job), 1)
        prompt = [f"{number}. {one.category} ({one.name}): {one.trigger}" for number, one in members]
        path = seen_from(self.path.parent, shown.path)
        return Rating(path, job.label, tuple(prompt), set=job.set.name, seed=job.seed, key=job.key)


def _on_scale(value: Any) -> bool:
    return type(value) is int and value in SCALE


def _person(kept: Sequence[Rating], rater: str) -> str:
    """The rater's "human_N": the one that bears the name already, else the first free one."""
    for rating in kept:
        for person, name in rating.raters.items():
            if name == rater:
                return person
    taken = {person for rating in kept for person in (*rating.people, *rating.raters)}
    return next(person for number in range(1, len(taken) + 2) if (person := f"human_{number}") not in taken)


def _with(rating: Rating, person: str, rater: str, answers: Mapping[str, float] | None) -> Rating:
    people = {name: given for name, given in rating.people.items() if name != person}
    raters = {name: given for name, given in rating.raters.items() if name != person}
    if answers is not None:
        people[person], raters[person] = answers, rater
    return replace(rating, people=people, raters=raters)


def open_sheet(path: Path, rater: str, pairs: Sequence[Pair], elements: Mapping[str, Element]) -> Sheet:
    """A sheet in a folder that is made if need be. Raises EvaluationError for an empty name or another kind of file."""
    if not rater.strip():
        raise EvaluationError("--rater is empty; give a name that tells your ratings from others'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return Sheet(path, rater.strip(), pairs, elements)
