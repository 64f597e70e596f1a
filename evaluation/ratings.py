"""Ratings by people in the layout that Multi-LoRA Composition publishes as `human_eval/results.json`.

A JSON list with one object for each picture: "index", "path", "method", "number of elements", "prompt" (a line for
each element), one object for each rater, "human_1", "human_2", ..., with "composition" and "image" from 1 to 5, their
mean as "avg_human_score", and judges' scores such as {"clipscore": {"score": 34.57}}. Files of ours have four fields
more: "set", "seed" and "key" of the job, and the "raters" by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..mixlora_core.files.writing import write_atomically
from .jobs import EvaluationError

COMPOSITION, IMAGE = "composition", "image"
ASPECTS = (COMPOSITION, IMAGE)
"""What people rate; "image" is the quality of the picture."""

MEAN = "avg_human_score"
_PERSON = re.compile(r"human_[1-9]\d*")
_OWN = {"index", "path", "method", "number of elements", "prompt", "set", "seed", "key", "raters"}


@dataclass(frozen=True)
class Rating:
    """One picture, and what people and judges gave it."""

    path: str
    """Of the picture, relative to the ratings file or to a folder that the file's maker knows."""
    method: str
    prompt: tuple[str, ...]
    """A line for each element."""
    people: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """{"human_1": {"composition": 3.0, "image": 5.0}, ...}; a file with means only has them under "avg_human_score"."""
    judges: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """{"clipscore": {"score": 34.57}, ...}"""
    raters: Mapping[str, str] = field(default_factory=dict)
    """{"human_1": name, ...} in files of ours."""
    set: str = ""
    seed: int | None = None
    key: str = ""
    """Of the job, by which the store knows the picture; "" in others' files."""

    @property
    def group(self) -> tuple[object, ...]:
        """Equal for pictures of the same elements and noise: what correlations within a prompt are centred by."""
        return self.prompt, self.seed

    @property
    def mean(self) -> dict[str, float]:
        """Of all people, by aspect. Empty where nobody has rated it."""
        given = self.people.values()
        return {aspect: sum(one[aspect] for one in given) / len(given) for aspect in ASPECTS if given}


def read(path: Path) -> list[Rating]:
    """The ratings in a file. Raises EvaluationError with all that is wrong with it, OSError as the system does."""
    try:
        entries = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise EvaluationError(f"{path} is no JSON file ({error}).") from error
    if not isinstance(entries, list):
        raise EvaluationError(f"{path}: expected a list of rated pictures, found {type(entries).__name__}.")
    problems: list[str] = []
    ratings = [_rating(entry, f"entry {number}", problems) for number, entry in enumerate(entries, 1)]
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise EvaluationError("\n  ".join([f"{path}:", *problems[:10]]) + more)
    return ratings


def write(path: Path, ratings: Iterable[Rating]) -> None:
    """Replaces a file of ratings in one step. Raises OSError as the system does."""
    entries = [_entry(index, rating) for index, rating in enumerate(ratings, 1)]
    write_atomically(path, (json.dumps(entries, indent=4, ensure_ascii=False) + "\n").encode())


def _entry(index: int, rating: Rating) -> dict[str, Any]:
    ours = {"set": rating.set, "seed": rating.seed, "key": rating.key, "raters": dict(rating.raters)}
    return {
        "index": index,
        "path": rating.path,
        "method": rating.method,
        "number of elements": len(rating.prompt),
        "prompt": list(rating.prompt),
        **{name: dict(given) for name, given in sorted(rating.people.items(), key=lambda item: _number(item[0]))},
        **({MEAN: rating.mean} if rating.people else {}),
        **{name: dict(given) for name, given in rating.judges.items()},
        **({name: value for name, value in ours.items() if value not in (None, "", {})} if rating.key else {}),
    }


def _rating(entry: Any, where: str, problems: list[str]) -> Rating:
    """An entry; what is wrong with it is added to `problems`."""
    if not isinstance(entry, dict):
        problems.append(f"{where}: expected an object, found {type(entry).__name__}")
        return Rating("", "", ())
    where = f"{where} ({entry['path']})" if isinstance(entry.get("path"), str) else where
    for name, kind in [("path", str), ("method", str), ("prompt", list), ("raters", dict), ("set", str), ("key", str)]:
        if not isinstance(entry.get(name, kind()), kind) or (
            name in ("path", "method", "prompt") and name not in entry
        ):
            problems.append(f"{where}: expected {name!r}, a {kind.__name__}, found {entry.get(name)!r}")
            return Rating("", "", ())
    people: dict[str, dict[str, float]] = {}
    judges: dict[str, dict[str, float]] = {}
    for name, given in entry.items():
        if name in _OWN:
            continue
        human = _PERSON.fullmatch(name) or name == MEAN
        if not isinstance(given, dict) or not all(map(_is_number, given.values())):
            problems.append(f"{where}: {name!r} is {given!r}; expected an object of numbers")
        elif human and not given.keys() >= set(ASPECTS):
            problems.append(f"{where}: {name!r} lacks {' or '.join(sorted(set(ASPECTS) - given.keys()))}")
        else:
            (people if human else judges)[name] = {aspect: float(value) for aspect, value in given.items()}
    if len(people) > 1:
        people.pop(MEAN, None)  # what it says follows from the others
    raters = {name: str(rater) for name, rater in entry.get("raters", {}).items()}
    seed = entry.get("seed")
    return Rating(
        entry["path"], entry["method"], tuple(map(str, entry["prompt"])), people, judges, raters,
        entry.get("set", ""), seed if isinstance(seed, int) else None, entry.get("key", ""),
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(name: str) -> int:
    return int(name.removeprefix("human_")) if _PERSON.fullmatch(name) else 0
