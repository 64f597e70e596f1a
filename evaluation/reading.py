"""Reads what was found about a plan's jobs into arrays: methods x cases, no number where something is missing.

A case is what all methods paint: a set with one noise. Comparisons go over the cases that all of them have; what is
missing is counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .jobs import Element, ElementSet, EvaluationError, Job
from .statistics import Array
from .store import Store

Column = tuple[str, str]
"""Judge and measure."""
DIGITS = 6
"""Decimals of a score that count, and that `exchange` writes: what is equal is so wherever it was judged."""


@dataclass(frozen=True)
class Case:
    """A set with one noise."""

    set: ElementSet
    """Its elements in the order in which the first method has them."""
    seed: int


@dataclass(frozen=True, eq=False)
class Reading:
    """What is known about a plan's pictures."""

    labels: tuple[str, ...]
    """Of the methods, in the order of the plan."""
    cases: tuple[Case, ...]
    elements: tuple[Element, ...]
    """Those that are asked for, in the order of the testbed."""
    jobs: Mapping[tuple[str, int], Job]
    """By label and place of the case; not every method need paint every case."""
    seconds: Array
    """(methods, cases): how long sampling took."""
    values: Mapping[Column, Array]
    """(methods, cases) for each measure of whole pictures."""
    single: Mapping[Column, Array]
    """(methods, cases, elements) for each measure of single elements."""
    files: Mapping[str, Path | None]
    """Painted pictures by their job's key."""
    origins: NDArray[np.str_]
    """(methods, cases): which run painted it on which machine, "" where nobody knows, or nothing is painted."""

    @property
    def sets(self) -> NDArray[np.int64]:
        """(cases,): which set a case is of."""
        names: dict[str, int] = {}
        return np.array([names.setdefault(case.set.name, len(names)) for case in self.cases])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(cases,): N."""
        return np.array([case.set.size for case in self.cases])

    @property
    def planned(self) -> NDArray[np.bool_]:
        """(methods, cases): whether the plan asks for the picture."""
        return np.array([[(label, place) in self.jobs for place in range(len(self.cases))] for label in self.labels])

    def row(self, label: str) -> int:
        """The place of a method. Raises EvaluationError for an unknown one."""
        if label not in self.labels:
            raise EvaluationError(f"{label!r} is no method of the plan; expected one of {', '.join(self.labels)}.")
        return self.labels.index(label)

    def file(self, label: str, case: int) -> Path | None:
        """A method's picture of a case, if it is painted."""
        job = self.jobs.get((label, case))
        return self.files.get(job.key) if job else None

    def common(self, column: Column) -> NDArray[np.bool_]:
        """(cases,): whether all methods that have this measure at all have it here."""
        return complete(self.values[column])

    def kind(self, label: str) -> str:
        """Of a method: none, merge, switch, ..."""
        return self.first_job(label).method.kind

    def first_job(self, label: str) -> Job:
        """One of a method's jobs."""
        return next(job for (of_label, _), job in self.jobs.items() if of_label == label)


def complete(values: Array) -> NDArray[np.bool_]:
    """(cases,): where every row of (methods, cases[, elements]) that has any number has one (of some element)."""
    there = np.asarray(~np.isnan(values))
    there = np.any(there, axis=2) if values.ndim == 3 else there
    rows = there[np.any(there, axis=1)]
    return np.all(rows, axis=0) if len(rows) else np.zeros(values.shape[1], bool)


def read(jobs: Sequence[Job], elements: Mapping[str, Element], store: Store) -> Reading:
    """Everything that the store has about the jobs. Raises EvaluationError where there is no job, or no picture."""
    if not jobs:
        raise EvaluationError("The plan has no pictures: nothing to report.")
    labels = tuple(dict.fromkeys(job.label for job in jobs))
    places: dict[tuple[str, int], int] = {}
    cases: list[Case] = []
    by_place: dict[tuple[str, int], Job] = {}
    of_key: dict[str, list[tuple[int, int]]] = {}
    for job in jobs:
        place = places.setdefault((job.set.name, job.seed), len(places))
        if place == len(cases):
            cases.append(Case(job.set, job.seed))
        by_place[job.label, place] = job
        of_key.setdefault(job.key, []).append((labels.index(job.label), place))
    pictures = store.pictures(of_key)
    if not pictures:
        raise EvaluationError(f"None of the plan's {len(of_key)} pictures is in {store.folder}. `run` the plan first.")
    asked = {name for case in cases for name in case.set.elements}
    listed = tuple(one for name, one in elements.items() if name in asked)
    columns = {one.name: column for column, one in enumerate(listed)}
    shape = (len(labels), len(cases))
    seconds, origins = np.full(shape, np.nan), np.full(shape, "", object)
    for key, picture in pictures.items():
        for spot in of_key[key]:
            seconds[spot], origins[spot] = picture.seconds, picture.origin
    values: dict[Column, Array] = {}
    single: dict[Column, Array] = {}
    for score in store.scores():
        for spot in of_key.get(score.key, ()):
            if not score.element:
                values.setdefault((score.judge, score.measure), np.full(shape, np.nan))[spot] = score.value
            elif score.element in columns:
                table = single.setdefault((score.judge, score.measure), np.full((*shape, len(listed)), np.nan))
                table[(*spot, columns[score.element])] = score.value
    files = {key: picture.path for key, picture in pictures.items()}
    return Reading(labels, tuple(cases), listed, by_place, seconds, values, single, files, origins.astype(str))


@dataclass(frozen=True)
class Missing:
    """Pictures of a method that are not there, or that a judge has not scored."""

    label: str
    what: str
    """ "not painted", or the judge."""
    missing: int
    expected: int


def missing(reading: Reading) -> list[Missing]:
    """What is missing, by method: pictures first, then scores of painted pictures for each judge of this plan."""
    painted = ~np.isnan(reading.seconds)
    found = [
        Missing(label, "not painted", int((wanted & ~there).sum()), int(wanted.sum()))
        for label, wanted, there in zip(reading.labels, reading.planned, painted, strict=True)
    ]
    for judge in dict.fromkeys(judge for judge, _ in reading.values):
        scored = np.any([~np.isnan(one) for (of, _), one in reading.values.items() if of == judge], axis=0)
        found += [
            Missing(label, judge, int((there & ~known).sum()), int(there.sum()))
            for label, there, known in zip(reading.labels, painted, scored, strict=True)
        ]
    return [one for one in found if one.missing]


def observations(reading: Reading) -> Iterator[dict[str, object]]:
    """The tidy table: a row for each number, with everything that it belongs to."""
    categories = {one.name: one.category for one in reading.elements}
    names = [one.name for one in reading.elements]
    for (label, place), job in reading.jobs.items():
        if job.key not in reading.files:
            continue
        row, case = reading.row(label), reading.cases[place]
        about: dict[str, object] = {
            "method": label, "kind": job.method.kind, "strength": job.method.strength, "steps": job.sampling.steps,
            "set": case.set.name, "world": case.set.world, "size": case.set.size,
            "order": " + ".join(job.set.elements), "noise": job.seed, "key": job.key,
            "seconds": float(reading.seconds[row, place]),
        }  # fmt: skip
        numbers = [(*column, "", "", table[row, place]) for column, table in reading.values.items()]
        for column, table in reading.single.items():
            numbers += [
                (*column, names[at], categories[names[at]], table[row, place, at])
                for at in np.flatnonzero(~np.isnan(table[row, place]))
            ]
        for judge, measure, element, category, value in numbers:
            if not np.isnan(value):
                yield about | {
                    "judge": judge, "measure": measure, "element": element, "category": category, "value": float(value),
                }  # fmt: skip


def write_observations(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Writes the tidy table as CSV and returns how many rows it has. Raises OSError as the system does."""
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = None
        for row in rows:
            writer = writer or csv.DictWriter(file, list(row))
            if not count:
                writer.writeheader()
            writer.writerow(row)
            count += 1
    return count
