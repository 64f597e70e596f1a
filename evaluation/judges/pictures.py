"""The painted pictures of a plan, as judges want them: each once, and read as pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..jobs import EvaluationError, Job
from ..store import Store


@dataclass
class Outcome:
    """What a judge did."""

    judge: str
    """Its name in the store."""
    judged: int = 0
    """Now, in this call."""
    known: int = 0
    """Before."""
    failed: list[str] = field(default_factory=list)
    """What it could not judge, in words."""
    notes: list[str] = field(default_factory=list)
    """What the user should know."""


@dataclass(frozen=True)
class Painted:
    """A job whose picture is there."""

    job: Job
    path: Path


def painted(jobs: Iterable[Job], store: Store) -> dict[str, Painted]:
    """The jobs with a picture here, by key, each picture once, in the order of the plan.

    Raises EvaluationError where there is none at all, or where a picture's file is gone.
    """
    wanted: dict[str, Job] = {}
    for job in jobs:
        wanted.setdefault(job.key, job)
    known = store.pictures(wanted)
    if wanted and not known:
        raise EvaluationError(f"None of the plan's {len(wanted)} pictures is in {store.folder}. `run` the plan first.")
    there = {key: picture.path for key, picture in known.items() if picture.path is not None}
    if gone := [path for path in there.values() if not path.is_file()]:
        raise EvaluationError(
            f"{len(gone)} pictures that {store.path} knows are gone, for instance {gone[0]}. "
            "Bring them back, or `run` the plan again."
        )
    return {key: Painted(job, there[key]) for key, job in wanted.items() if key in there}


def unpainted(jobs: Iterable[Job], store: Store) -> list[str]:
    """A note on the pictures that are missing, if any."""
    wanted = {job.key for job in jobs}
    missing = len(wanted - store.pictures(wanted).keys())
    return [f"{missing} pictures of the plan are not painted yet; `run` it, then judge again."] if missing else []


def pixels(path: Path) -> np.ndarray:
    """A picture as uint8 (height, width, 3). Raises EvaluationError for a file that is none."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise EvaluationError(f"{path} is no readable picture ({error}). Delete it, then `run` the plan.") from error


def batches(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    """Keys in pieces of at most `size`."""
    return [keys[start : start + size] for start in range(0, len(keys), size)]
