"""Made-up findings for tests: tiny pictures, and scores that follow from a rule, so that answers are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mixlora.evaluation.jobs import Element, ElementSet, Job, Method, Sampling
from mixlora.evaluation.store import Store
from PIL import Image

ELEMENTS = {
    one.name: one
    for one in [
        Element("tower", "north", "landmark", "a tower"),
        Element("mill", "north", "landmark", "a mill"),
        Element("frost", "north", "weather", "in the frost"),
        Element("ink", "north", "style", "in ink"),
        Element("gate", "south", "landmark", "a gate"),
        Element("rain", "south", "weather", "in the rain"),
        Element("photo", "south", "style", "an old photo"),
    ]
}
SETS = tuple(
    ElementSet(" + ".join(names), ELEMENTS[names[0]].world, names)
    for names in [
        ("tower", "frost"), ("mill", "frost"), ("tower", "ink"), ("gate", "rain"), ("gate", "photo"),
        ("tower", "frost", "ink"), ("mill", "frost", "ink"), ("gate", "rain", "photo"),
    ]
)  # fmt: skip
METHODS = {
    "no LoRA": Method("none"),
    "merge": Method("merge", {"mode": "sum", "limit": 0.0}),
    "merge, w/N": Method("merge", {"mode": "mean", "limit": 0.0}),
    "switch": Method("switch", {"every": 5}),
    "composite": Method("composite"),
}
SAMPLING = Sampling(30, 7.0, "euler", "normal", 16, 16)

Seen = Callable[[Job, str], float]
"""The probability that an element is there in a job's picture."""


def jobs(
    sets: Sequence[ElementSet] = SETS, methods: dict[str, Method] = METHODS, seeds: Iterable[int] = (0,)
) -> list[Job]:
    return [
        Job(label, method, one, ", ".join(one.elements), "", seed, SAMPLING, ("base", *one.elements))
        for one in sets
        for seed in seeds
        for label, method in methods.items()
    ]


def chance(*of: object) -> float:
    """A number in 0..1 that depends on nothing but what it is of."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:6], "big") / 2**48


RATES = {"none": 0.05, "merge": 0.6, "switch": 0.75, "composite": 0.85}


def seen(job: Job, element: str) -> float:
    """There as often as RATES say, less often the more there are."""
    rate = RATES.get(job.method.kind, 0.7) - 0.05 * (job.set.size - 2)
    return 0.9 if chance(job.set.name, job.seed, element, job.label) < rate else 0.1


def begun(folder: Path) -> Store:
    """A store that does not wait for the disk."""
    store = Store(folder)
    store._database.execute("PRAGMA synchronous = OFF")
    return store


def paint(store: Store, job: Job, side: int = 16, origin: str = "", pace: float = 1.0) -> None:
    """A picture of one colour, and how long it took: a composite N times `pace`, everything else once."""
    path = store.picture_path(job.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(int(255 * chance(job.key, channel)) for channel in "rgb")
    Image.new("RGB", (side, side), colour).save(path)
    store.add_picture(job, pace * (job.set.size if job.method.kind == "composite" else 1), origin)


def judge(store: Store, job: Job, seen: Seen = seen, quality: float | None = None) -> None:
    """The oracle's scores of a job's picture."""
    present = {name: seen(job, name) for name in job.set.elements}
    hits = sum(one > 0.5 for one in present.values())
    values = {("element", name): one for name, one in present.items()} | {
        ("share", ""): hits / len(present),
        ("all", ""): float(hits == len(present)),
        ("unasked", ""): float(chance(job.key, "unasked") < 0.2),
        ("overloaded", ""): float(chance(job.key, "overloaded") < 0.1),
        ("quality", ""): 0.5 + 0.4 * chance(job.key, "quality") if quality is None else quality,
    }
    store.add_scores(job.key, "oracle", values)


def fill(folder: Path, planned: Sequence[Job], seen: Seen = seen) -> Store:
    """A store in which everything of a plan is painted and judged."""
    store = begun(folder)
    for job in planned:
        paint(store, job)
        judge(store, job, seen)
    return store


def array(store: Store, planned: Sequence[Job], label: str, measure: str) -> np.ndarray:
    """A method's scores case by case, read the slow way."""
    found = {one.key: one.value for one in store.scores() if one.measure == measure and not one.element}
    return np.array([found[job.key] for job in planned if job.label == label])


def plan(folder: Path, planned: Sequence[Job], text: str = 'testbed = "standin"') -> Any:
    """A plan of these jobs, as far as a report looks at one."""
    path = folder / "made up.toml"
    path.write_text(text, "utf-8")
    testbed = SimpleNamespace(name="standin", elements=ELEMENTS, strength=1.0)
    seeds = sorted({job.seed for job in planned})
    return SimpleNamespace(path=path, name=path.stem, testbed=testbed, seeds=seeds, jobs=lambda: list(planned))


class Page(HTMLParser):
    """Reads a page: its elements, whether each is closed, and its text."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.words, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]
