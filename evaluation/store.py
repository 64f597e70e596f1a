"""What a run found, in one SQLite file: pictures, their scores, comparisons of two, and a judge's answers.

Written by one process, each finding in a transaction of its own: a kill loses at most the one in hand. A picture is
known by its job's key, so that plans which share jobs share pictures and scores.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from .jobs import EvaluationError, Job

VERSION = 1
_APPLICATION = 0x4D69784C  # "MixL": tells our files from other SQLite files
_SCHEMA = """
CREATE TABLE pictures(
    key TEXT PRIMARY KEY, file TEXT NOT NULL, seconds REAL NOT NULL, job TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE scores(
    key TEXT NOT NULL REFERENCES pictures, judge TEXT NOT NULL, measure TEXT NOT NULL, element TEXT NOT NULL,
    value REAL NOT NULL, PRIMARY KEY(key, judge, measure, element)) WITHOUT ROWID;
CREATE TABLE comparisons(
    first TEXT NOT NULL REFERENCES pictures, second TEXT NOT NULL REFERENCES pictures, judge TEXT NOT NULL,
    measure TEXT NOT NULL, first_score REAL NOT NULL, second_score REAL NOT NULL,
    PRIMARY KEY(first, second, judge, measure)) WITHOUT ROWID;
CREATE TABLE answers(
    request TEXT PRIMARY KEY, model TEXT NOT NULL, answer TEXT NOT NULL, usage TEXT NOT NULL) WITHOUT ROWID;
"""
_ORIGINS = "CREATE TABLE IF NOT EXISTS origins(key TEXT PRIMARY KEY, origin TEXT NOT NULL) WITHOUT ROWID"
"""A table that files of version 1 may lack, for earlier versions of the pack read and write the others alone. Under the
key "" stands the origin of what was painted here and has none of its own, as what they painted."""
_PICTURES = "SELECT key, file, seconds, origin FROM pictures LEFT JOIN origins USING (key) ORDER BY key"


@dataclass(frozen=True)
class Picture:
    """A painted picture: its job's key, where it lies, and how long sampling took in seconds."""

    key: str
    path: Path | None
    """None where it was painted elsewhere and only its scores are here."""
    seconds: float
    origin: str = ""
    """Of one run on one machine, "" where nobody knows which: only times of one origin can be compared."""


@dataclass(frozen=True)
class Score:
    """One number that a judge gave to one picture; `element` is "" where it is about the whole picture."""

    key: str
    judge: str
    measure: str
    element: str
    value: float


@dataclass(frozen=True)
class Comparison:
    """What a judge gave to two pictures that it saw together, `first` before `second`."""

    first: str
    second: str
    judge: str
    measure: str
    first_score: float
    second_score: float


class Store:
    """The findings in a folder: results.sqlite, and pictures/ beside it."""

    def __init__(self, folder: Path) -> None:
        """Opens or begins the findings. Raises EvaluationError for a file that is none of ours or of this version."""
        self.folder, self.path = folder, folder / "results.sqlite"
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self.path, isolation_level=None, timeout=60)
        try:
            self._begin()
        except sqlite3.OperationalError as error:
            self._database.close()
            raise EvaluationError(
                f"{self.path} cannot be used now ({error}). Does another program hold it, and may it be written to?"
            ) from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise EvaluationError(f"{self.path} is no results file ({error}). Give another folder.") from error
        except EvaluationError:
            self._database.close()
            raise

    def _begin(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            kind, version = (self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in _PRAGMAS)
            if (kind, version) == (0, 0) and not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._database.execute(f"PRAGMA user_version = {VERSION}")
            elif kind != _APPLICATION:
                raise EvaluationError(f"{self.path} is a database of another program. Give another folder.")
            elif version != VERSION:
                raise EvaluationError(
                    f"{self.path} has version {version} of our results, this pack reads and writes version {VERSION}. "
                    "Give another folder, or use the version of the pack that wrote it."
                )
            self._database.execute(_ORIGINS)
            self._database.execute("INSERT OR IGNORE INTO origins VALUES ('', ?)", (uuid.uuid4().hex,))
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def picture_path(self, key: str) -> Path:
        """Where the picture of a job lies, or is to be put."""
        return self.folder / "pictures" / key[:2] / f"{key}.png"

    def add_picture(self, job: Job, seconds: float, origin: str = "") -> None:
        """Notes that a job's picture lies at its path; what judges said of one that lay there before is forgotten."""
        file = self.picture_path(job.key).relative_to(self.folder).as_posix()
        scores = ("DELETE FROM scores WHERE key = ?", [(job.key,)])
        comparisons = ("DELETE FROM comparisons WHERE ? IN (first, second)", [(job.key,)])
        self._insert(*_rows(job, file, seconds, origin), scores, comparisons)

    def adopt(self, job: Job, seconds: float, scores: Iterable[Score], origin: str = "") -> None:
        """Keeps the scores of a picture that was painted and judged elsewhere; all of it or nothing."""
        judged = ("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", map(astuple, scores))
        self._insert(*_rows(job, "", seconds, origin), judged)

    def pictures(self, keys: Iterable[str] | None = None) -> dict[str, Picture]:
        """What is painted, by key: all of it, or what `keys` name as far as it is there."""
        wanted = None if keys is None else set(keys)
        (here,) = self._database.execute("SELECT origin FROM origins WHERE key = ''").fetchone()
        return {
            key: Picture(key, self.folder / file if file else None, seconds, origin or (here if file else ""))
            for key, file, seconds, origin in self._database.execute(_PICTURES)
            if wanted is None or key in wanted
        }

    def add_scores(self, key: str, judge: str, values: Mapping[tuple[str, str], float]) -> None:
        """Keeps a picture's scores, {(measure, element): value}, all or none, in place of the judge's former."""
        rows = [(key, judge, measure, element, value) for (measure, element), value in values.items()]
        former = ("DELETE FROM scores WHERE key = ? AND judge = ?", [(key, judge)])
        self._insert(former, ("INSERT INTO scores VALUES (?, ?, ?, ?, ?)", rows))

    def scores(self, judges: Collection[str] | None = None) -> Iterator[Score]:
        """Every score, or those of some judges, ordered by picture."""
        for row in self._database.execute("SELECT * FROM scores ORDER BY key, judge, measure, element"):
            if judges is None or row[1] in judges:
                yield Score(*row)

    def scored(self, judge: str) -> set[str]:
        """The keys of the pictures that a judge has scored."""
        return {key for (key,) in self._database.execute("SELECT DISTINCT key FROM scores WHERE judge = ?", (judge,))}

    def add_comparisons(self, comparisons: Iterable[Comparison]) -> None:
        """Keeps comparisons, all of them or none."""
        rows = [tuple(asdict(comparison).values()) for comparison in comparisons]
        self._insert(("INSERT OR REPLACE INTO comparisons VALUES (?, ?, ?, ?, ?, ?)", rows))

    def comparisons(self, judge: str | None = None) -> list[Comparison]:
        """Every comparison, or those of one judge."""
        rows = self._database.execute("SELECT * FROM comparisons ORDER BY first, second, judge, measure")
        return [Comparison(*row) for row in rows if judge in (None, row[2])]

    def answer(self, request: str) -> str | None:
        """What was answered to a request, known by its digest."""
        row = self._database.execute("SELECT answer FROM answers WHERE request = ?", (request,)).fetchone()
        return row[0] if row else None

    def add_answer(self, request: str, model: str, answer: str, usage: Mapping[str, int]) -> None:
        """Keeps an answer that was paid for."""
        row = (request, model, answer, json.dumps(dict(usage)))
        self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)

    def _insert(self, *changes: tuple[str, Iterable[tuple]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in changes:
                self._database.executemany(statement, rows)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def seen_from(folder: Path, file: Path) -> str:
    """The path of a file as it is written into one in `folder`: relative, but for another drive of Windows."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:
        return file.resolve().as_posix()


def _rows(job: Job, file: str, seconds: float, origin: str) -> list[tuple[str, Iterable[tuple]]]:
    """What is written of a picture; one that is painted again has its new origin alone."""
    return [
        ("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)",
         [(job.key, file, seconds, json.dumps(asdict(job), sort_keys=True))]),
        ("DELETE FROM origins WHERE key = ?", [(job.key,)]),
        ("INSERT INTO origins VALUES (?, ?)", [(job.key, origin)] if origin else []),
    ]  # fmt: skip


_PRAGMAS = ("application_id", "user_version")
