"""`scores`: writes what judges said of plans to one small file, or takes it over from one.

So that a long plan can be painted in several places, and so that tables can be made again from the scores that are
published beside them, without a picture. What both have painted tells how far two machines agree. The file is gzipped
JSON, a line for each picture under its job's key; by its `origin`, where that is known, times can be compared as far as
one run measured them.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..mixlora_core.files.writing import write_atomically
from ..standin.element_oracle import ElementOracle
from .chain import PLANS
from .experiments import EXPERIMENTS
from .jobs import EvaluationError, Job
from .judges import oracle
from .plan import read_plan
from .reading import DIGITS
from .report import existing_results
from .runner import open_results
from .store import Score, Store

FORMAT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `scores`."""
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, metavar="FILE", help="write the scores of the plans there")
    way.add_argument("--from", type=Path, metavar="FILE", dest="source", help="take over scores; `run` skips them")
    parser.add_argument("plans", nargs="*", type=Path, metavar="PLAN", help="default: all plans of docs/evidence.md")
    parser.add_argument("--results", type=Path, default=Path("evaluation_output") / "standin", metavar="FOLDER")


def run(arguments: argparse.Namespace) -> int:
    """Writes or takes over, and says how much."""
    plans = arguments.plans or [PLANS / f"{name}.toml" for name in EXPERIMENTS]
    jobs = [job for path in plans for job in read_plan(path).jobs()]
    if arguments.to:
        with existing_results(arguments.results) as store:
            written, stale = export(store, jobs, arguments.to)
        again = f"; {stale} were scored by another oracle and left out, `judge` the plans again" if stale else ""
        print(f"{arguments.to}: scores of {written} pictures{again}")
        return 0
    with open_results(arguments.results) as store:
        taken, known, strange = adopt(store, jobs, arguments.source)
        both = compare(store, arguments.source)
    print(f"{taken} pictures' scores taken over, {known} were known, {strange} belong to no picture of these plans")
    if both.pictures:
        print(
            f"{both.pictures} of those known were painted and judged here: they differ from the file in "
            f"{both.differing} of {both.elements} elements asked for, and by up to {both.soundness:.2g} in soundness"
        )
    return 0


def export(store: Store, jobs: Iterable[Job], path: Path) -> tuple[int, int]:
    """Writes the scores of jobs to a file, the same bytes for the same scores.

    Returns of how many pictures, and how many are left out because the oracle was another one then.
    """
    scored = {job.key for job in jobs} & store.scored(oracle.NAME)
    wanted = {key for key in scored if oracle.scored_by(store, key) == ElementOracle.version()}
    found: dict[str, list[list[Any]]] = {}
    for score in store.scores():
        if score.key in wanted:
            value = round(score.value, DIGITS)
            found.setdefault(score.key, []).append([score.judge, score.measure, score.element, value])
    lines: list[dict[str, Any]] = [{"format": FORMAT, "oracle": ElementOracle.version()}]
    for key, picture in store.pictures(found).items():
        origin = {"origin": picture.origin} if picture.origin else {}
        lines.append({"key": key, "seconds": round(picture.seconds, 3), **origin, "scores": found[key]})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, gzip.compress(text.encode(), mtime=0))
    return len(found), len(scored) - len(wanted)


def adopt(store: Store, jobs: Iterable[Job], path: Path) -> tuple[int, int, int]:
    """Takes over what a file says of jobs; returns how many pictures that were, were known already, and are no job's.

    A picture that was painted here keeps its own scores. Raises EvaluationError for a file that is none of ours, or
    whose scores another oracle gave.
    """
    wanted, known = {job.key: job for job in jobs}, store.pictures()
    taken = strange = 0
    rows = _read(path)
    for row in rows:
        key = row["key"]
        if key not in wanted:
            strange += 1
        elif key not in known:
            scores = [Score(key, *one) for one in row["scores"]]
            store.adopt(wanted[key], row["seconds"], scores, row.get("origin", ""))
            oracle.note_version(store, key, ElementOracle.version())
            taken += 1
    return taken, len(rows) - taken - strange, strange


class Agreement(NamedTuple):
    """How far pictures that were painted and judged here are read as a file says."""

    pictures: int
    elements: int
    """Asked for in them."""
    differing: int
    """Of these, seen in one of both only."""
    soundness: float
    """The largest difference, 0..1."""


def compare(store: Store, path: Path) -> Agreement:
    """Holds the oracle's scores of pictures that lie here against those that a file has of the same pictures.

    Their keys are alike, so what differs is rounding (another machine, another number of threads) or another version of
    the pack, ComfyUI or torch. Raises EvaluationError as `adopt` does.
    """
    own = {key for key, picture in store.pictures().items() if picture.path} & store.scored(oracle.NAME)
    here = {(one.key, one.measure, one.element): one.value for one in store.scores([oracle.NAME]) if one.key in own}
    seen: list[bool] = []
    apart: list[float] = []
    for row in _read(path):
        for judge, measure, element, theirs in row["scores"]:
            ours = here.get((row["key"], measure, element))
            if ours is None or judge != oracle.NAME:
                continue
            if measure == "element":
                seen.append((ours > 0.5) != (theirs > 0.5))
            elif measure == "quality":
                apart.append(abs(ours - theirs))
    return Agreement(len(apart), len(seen), sum(seen), max(apart, default=0.0))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        about, *rows = map(json.loads, gzip.decompress(path.read_bytes()).decode().splitlines())
        form = about["format"]
    except (gzip.BadGzipFile, EOFError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is no file that `scores --to` wrote ({error}).") from error
    if form != FORMAT:
        raise EvaluationError(f"{path} has format {form}, this pack reads {FORMAT}. Use the pack that wrote it.")
    if about.get("oracle") != ElementOracle.version():
        raise EvaluationError(
            f"{path}: its scores were given by another oracle than standin/weights/elements.safetensors of this "
            "checkout, so they cannot stand beside scores made here. Check out its version, or paint again."
        )
    return rows
