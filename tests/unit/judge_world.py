"""A plan of painted pictures for the tests of judges and of the rating page, without a model."""

from __future__ import annotations

import numpy as np
from mixlora.evaluation.jobs import Element, ElementSet, Job, Method, Sampling
from mixlora.evaluation.painting import Painted, png
from mixlora.evaluation.runner import keep
from mixlora.evaluation.store import Store

CATEGORIES = ("landmark", "weather", "style")
ELEMENTS = {
    name: Element(name, "north", category, trigger)
    for name, category, trigger in [
        ("tower", "landmark", "a stone tower, round windows"),
        ("snow", "weather", "snow"),
        ("ink", "style", "ink drawing, fine lines"),
    ]
}
SETS = (ElementSet("tower + snow", "north", ("tower", "snow")), ElementSet("tower + ink", "north", ("tower", "ink")))
SINGLES = tuple(ElementSet(name, "north", (name,)) for name in ELEMENTS)
METHODS = {
    "merge": Method("merge", {"mode": "sum"}),
    "switch": Method("switch", {"every": 1}),
    "composite": Method("composite"),
    "none": Method("none"),
}


def jobs(sets=SETS, labels=("merge", "switch"), size=64):
    """Set by set, a noise for each."""
    sampling = Sampling(30, 3.0, "euler", "normal", size, size)
    return [
        Job(label, METHODS[label], one, f"a hill, {one.name}", "", number, sampling, ("0" * 64,))
        for number, one in enumerate(sets)
        for label in labels
    ]


def picture(job):
    """Pixels that differ from job to job."""
    size, draw = job.sampling.width, np.random.default_rng(int(job.key[:8], 16))
    return np.kron(draw.integers(0, 256, (8, 8, 3)), np.ones((size // 8, size // 8, 1))).astype(np.uint8)


def painted(folder, jobs):
    """An open store with pictures of all the jobs."""
    store = Store(folder)
    there = store.pictures()
    for job in (job for job in jobs if job.key not in there):
        keep(store, Painted(job, png(picture(job)), 0.5))
    return store


def nothing(number, total):
    """Progress that nobody looks at."""
