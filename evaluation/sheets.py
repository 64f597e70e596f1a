"""Contact sheets of a report: the same set by every method, as small JPEG pictures within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .findings import PRESENT, Findings
from .jobs import EvaluationError
from .reading import Reading
from .store import seen_from
from .tables import markdown_row
from .testbeds import draw

SIDE = 160
"""Pixels of a picture's longer side, at most."""
QUALITY = 85
BUDGET = 3_500_000
"""Bytes of all pictures in a report, as text."""
COLUMNS = 12
"""Methods beside each other, at most."""
EXAMPLES, EXTREMES = 2, 4
"""Fixed examples of each size; best and worst cases of each comparison."""


@dataclass(frozen=True)
class Print:
    """One picture with what the judge saw."""

    label: str
    image: str
    """A data URI; "" where there is no picture."""
    lost: tuple[str, ...] | None
    """The elements that are not there; None where nobody has looked."""
    note: str = ""
    """Its soundness, or what it lacks."""
    file: Path | None = None
    """Where the picture itself lies."""


@dataclass(frozen=True)
class Strip:
    """One case by all methods."""

    elements: tuple[str, ...]
    size: int
    remark: str
    prints: tuple[Print, ...]


@dataclass(frozen=True)
class Sheet:
    """Strips below a heading."""

    title: str
    note: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Chosen:
    """A case that is to be shown, and why."""

    place: int
    remark: str = ""


@dataclass(frozen=True)
class Choice:
    """What a sheet is to show, before pictures are read."""

    title: str
    note: str
    chosen: tuple[Chosen, ...]


def choices(findings: Findings) -> list[Choice]:
    """Fixed examples of every size, then where each method does best and worst against the merge."""
    found = [
        Choice(
            "Fixed examples",
            "A few sets of every size, drawn by lot: their names decide, not their pictures.",
            tuple(Chosen(place) for place in examples(findings)),
        )
    ]
    measures = findings.main()
    if measures and findings.merge is not None:
        for label in _challengers(findings):
            found += extremes(findings, label, findings.merge)
    return [one for one in found if one.chosen]


def examples(findings: Findings) -> list[int]:
    """Up to EXAMPLES cases of each size, of both worlds in turn, which no result has a say in."""
    found = []
    lots = [(draw(case.set.elements, "example"), case.seed, place) for place, case in enumerate(findings.reading.cases)]
    for size in sorted(set(findings.sizes.tolist())):
        worlds: dict[str, list[int]] = {str(world): [] for world in dict.fromkeys(findings.worlds.tolist())}
        for *_, place in sorted(lots):
            if findings.sizes[place] == size:
                worlds[str(findings.worlds[place])].append(place)
        turns = [group[turn] for turn in range(EXAMPLES) for group in worlds.values() if turn < len(group)]
        found += turns[:EXAMPLES]
    return found


def extremes(findings: Findings, label: str, baseline: str) -> list[Choice]:
    """The cases in which a method gains and loses most over a baseline by the first main measure, then by the next."""
    measures = findings.main()
    gaps = [
        (findings.values(measure, label) - findings.values(measure, baseline)) * (1 if measure.higher else -1)
        for measure in measures
    ]
    there = [int(place) for place in np.flatnonzero(~np.isnan(gaps[0]))]
    ranked = sorted(there, key=lambda place: tuple(float(np.nan_to_num(gap[place])) for gap in gaps), reverse=True)
    best = [place for place in ranked if gaps[0][place] > 0][:EXTREMES]
    worst = [place for place in reversed(ranked) if gaps[0][place] < 0][:EXTREMES]

    def told(place: int) -> Chosen:
        first = measures[0]
        unit = " points" if first.unit == "%" else ""
        return Chosen(place, f"{label}: {first.text(float(gaps[0][place]), sign=True)}{unit}")

    why = f"by {measures[0].title}, then by {measures[-1].title}" if len(measures) > 1 else f"by {measures[0].title}"
    return [
        Choice(f"Where {label} gains most over {baseline}", f"Picked {why}: the best it can do, not what to expect.",
               tuple(map(told, best))),
        Choice(f"Where {label} loses most against {baseline}", f"Picked {why}: the worst it did.",
               tuple(map(told, worst))),
    ]  # fmt: skip


def shown(findings: Findings) -> list[str]:
    """The methods that sheets show: all of them, of many the baselines, the challengers and some between."""
    labels = list(findings.reading.labels)
    if len(labels) <= COLUMNS:
        return labels
    wanted = [*findings.baselines, *(_challengers(findings) if findings.measures else [])]
    step = len(labels) / COLUMNS
    wanted += [labels[int(place * step)] for place in range(COLUMNS)]
    kept = set(list(dict.fromkeys(wanted))[:COLUMNS])
    return [label for label in labels if label in kept]


def _challengers(findings: Findings) -> list[str]:
    """Of each kind that is no baseline the method with the best mean; without any, the best other method."""
    measure = findings.main()[0]

    def rank(label: str) -> float:
        return np.nan_to_num(findings.mean(measure, label).value, nan=-np.inf) * (1 if measure.higher else -1)

    labels = [label for label in findings.labels(measure) if label != findings.merge]
    by_kind: dict[str, list[str]] = {}
    for label in labels:
        by_kind.setdefault(findings.reading.kind(label), []).append(label)
    kinds = [kind for kind in by_kind if kind not in ("none", "merge")]
    return [max(by_kind[kind], key=rank) for kind in kinds] or [max(labels, key=rank)] if labels else []


def sheets(findings: Findings, shown: Sequence[str]) -> list[Sheet]:
    """The sheets with their pictures, as far as they fit into BUDGET; each sheet loses its last strips alike."""
    chosen = choices(findings)
    total = sum(len(one.chosen) for one in chosen) * len(shown)
    each = BUDGET / max(total, 1)
    share = min(1.0, each / _typical(findings, chosen, shown))
    found = []
    for one in chosen:
        kept = one.chosen[: max(1, int(len(one.chosen) * share))]
        left = len(one.chosen) - len(kept)
        note = f"{one.note} {left} more are left out to keep this page small." if left else one.note
        found.append(Sheet(one.title, note, tuple(strip(findings, case, shown) for case in kept)))
    return found


def _typical(findings: Findings, chosen: Sequence[Choice], shown: Sequence[str]) -> float:
    """The mean size of some of the pictures, as text."""
    places = [case.place for one in chosen for case in one.chosen][:4]
    files = [file for place in places for label in shown if (file := findings.reading.file(label, place)) is not None]
    sizes = [len(thumbnail(file)) for file in files[:12]]
    return max(1.0, sum(sizes) / max(len(sizes), 1))


def strip(findings: Findings, chosen: Chosen, shown: Sequence[str]) -> Strip:
    """One case by the methods that are shown."""
    case = findings.reading.cases[chosen.place]
    names = tuple(name.replace("_", " ") for name in case.set.elements)
    return Strip(names, case.set.size, chosen.remark, tuple(_print(findings, label, chosen.place) for label in shown))


def _print(findings: Findings, label: str, place: int) -> Print:
    reading = findings.reading
    file = reading.file(label, place)
    job = reading.jobs.get((label, place))
    if job is None or job.key not in reading.files:
        return Print(label, "", None, "not painted" if job else "not in the plan")
    row = reading.row(label)
    lost = None
    if findings.recalled is not None:
        seen = reading.single[findings.recalled][row, place]
        by_name = {one.name: seen[at] for at, one in enumerate(reading.elements)}
        asked = [name for name in reading.cases[place].set.elements if not np.isnan(by_name[name])]
        lost = tuple(name.replace("_", " ") for name in asked if by_name[name] <= PRESENT) if asked else None
    return Print(label, thumbnail(file) if file else "", lost, _note(reading, row, place), file)


def _note(reading: Reading, row: int, place: int) -> str:
    """That a picture is overloaded, which is why it lost everything, or else how sound it is."""
    overloaded, sound = (reading.values.get(("oracle", name)) for name in ("overloaded", "quality"))
    if overloaded is not None and overloaded[row, place] > PRESENT:
        return "overloaded"
    return f"soundness {sound[row, place]:.2f}" if sound is not None and not np.isnan(sound[row, place]) else ""


def in_markdown(strip: Strip, folder: Path) -> str:
    """A strip as a table for a document in `folder`: pictures by their files, and what each lost."""
    cells = []
    for one in strip.prints:
        place = one.file and seen_from(folder, one.file)
        cells.append(f"![{', '.join(strip.elements)} by {one.label}]({place})" if place else one.note)
    lost = [
        "" if one.lost is None else f"lost: {', '.join(one.lost)}" if one.lost else "all there" for one in strip.prints
    ]
    labels = [one.label for one in strip.prints]
    return "\n".join(map(markdown_row, (labels, ["---"] * len(labels), cells, lost)))


def thumbnail(path: Path) -> str:
    """A picture as a small JPEG in a data URI. Raises EvaluationError for a file that is gone or no picture."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    except OSError as error:
        raise EvaluationError(f"{path} is no readable picture ({error}). Delete it, then `run` the plan.") from error
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
