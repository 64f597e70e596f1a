"""CLIP as a judge: does the picture fit the words, and is each adapter's own hand to be seen in it?

"text" is CLIPScore (arXiv 2104.08718) as torchmetrics has it, 100 max(cos, 0), of the triggers alone, as in Multi-LoRA
Composition (arXiv 2402.16843). "fidelity" of an element is the mean cosine to the pictures of its adapter alone. Both
depend on the set more than on the method: compare methods within a set.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from ..jobs import Element, EvaluationError, Job
from ..store import Store
from .pictures import Outcome, Painted, batches, painted, pixels, unpainted

BATCH = 16


class Encoder(Protocol):
    """ClipModel, or what behaves like it."""

    name: str

    def pictures(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors of pictures, (n, width)."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, (n, width)."""
        ...

    def fits(self, text: str) -> bool:
        """Whether it reads all of a text."""
        ...


def judge(
    jobs: Sequence[Job],
    elements: Mapping[str, Element],
    store: Store,
    clip: Encoder,
    done: Callable[[int, int], None],
    reference: str | None = None,
) -> Outcome:
    """Scores all painted pictures. Their vectors are kept in the store, so that only new pictures cost time.

    `reference` is the label whose sets of one element are the adapters alone; without it the first merge, else the
    first method with adapters. A picture is never held against itself. Raises EvaluationError for an unknown label.
    """
    there = painted(jobs, store)
    outcome = Outcome(clip.name, notes=unpainted(jobs, store))
    vectors = _vectors(there, store, clip, done, outcome)
    alone = references(jobs, reference)
    texts = {key: ", ".join(elements[name].trigger for name in entry.job.set.elements) for key, entry in there.items()}
    distinct = list(dict.fromkeys(texts.values()))
    meanings = dict(zip(distinct, _in_batches(clip, distinct), strict=True))
    without = 0
    for key, entry in there.items():
        asked = entry.job.set.elements
        values = {("text", ""): clip_score(vectors[key], meanings[texts[key]])}
        others = {name: [one for one in alone.get(name, ()) if one in vectors and one != key] for name in asked}
        known = {name: [vectors[one] for one in keys] for name, keys in others.items()}
        values |= {("fidelity", name): fidelity(vectors[key], found) for name, found in known.items() if found}
        if all(known.values()):
            values["fidelity", ""] = float(np.mean([values["fidelity", name] for name in asked]))
        else:
            without += entry.job.set.size > 1  # the only picture of an adapter alone has none to be like
        store.add_scores(key, clip.name, values)
    outcome.notes += _notes(without, len(there), [text for text in distinct if not clip.fits(text)])
    return outcome


def clip_score(picture: np.ndarray, text: np.ndarray) -> float:
    """100 max(cos, 0) of two unit vectors."""
    return 100 * max(float(np.dot(picture, text)), 0.0)


def fidelity(picture: np.ndarray, alone: Sequence[np.ndarray]) -> float:
    """The mean cosine of a unit vector to others."""
    return float(np.mean([np.dot(picture, other) for other in alone]))


def references(jobs: Sequence[Job], label: str | None = None) -> dict[str, list[str]]:
    """The keys of the pictures that show one adapter alone, by element; see `judge` for `label`."""
    labels = list(dict.fromkeys(job.label for job in jobs))
    if label is not None and label not in labels:
        raise EvaluationError(f"--reference {label!r} is no method of the plan; expected one of {', '.join(labels)}.")
    if label is None:
        with_adapters = [job for job in jobs if job.method.kind != "none"]
        merges = [job for job in with_adapters if job.method.kind == "merge"]
        label = next((job.label for job in merges or with_adapters), None)
    alone: dict[str, list[str]] = {}
    for job in jobs:
        if job.label == label and job.set.size == 1:
            alone.setdefault(job.set.elements[0], []).append(job.key)
    return alone


def _vectors(
    there: Mapping[str, Painted], store: Store, clip: Encoder, done: Callable[[int, int], None], outcome: Outcome
) -> dict[str, np.ndarray]:
    """Every picture's vector, from the store or computed now and kept there, by the digest of its file."""
    digests = {key: hashlib.sha256(entry.path.read_bytes()).hexdigest() for key, entry in there.items()}
    requests = {key: hashlib.sha256(f"vector {clip.name} {one}".encode()).hexdigest() for key, one in digests.items()}
    kept = {key: store.answer(request) for key, request in requests.items()}
    vectors = {key: np.frombuffer(base64.b64decode(text), "<f4") for key, text in kept.items() if text is not None}
    todo, outcome.known = [key for key in there if key not in vectors], len(vectors)
    for keys in batches(todo, BATCH):
        for key, vector in zip(keys, clip.pictures([pixels(there[key].path) for key in keys]), strict=True):
            vectors[key] = vector.astype("<f4")
            store.add_answer(requests[key], clip.name, base64.b64encode(vectors[key].tobytes()).decode(), {})
        outcome.judged += len(keys)
        done(outcome.judged, len(todo))
    return vectors


def _in_batches(clip: Encoder, texts: Sequence[str]) -> list[np.ndarray]:
    return [vector for part in batches(texts, BATCH) for vector in clip.texts(part)]


def _notes(without: int, total: int, cut: Sequence[str]) -> list[str]:
    notes = []
    if without:
        notes.append(
            f"fidelity: {without} of {total} pictures ask for adapters whose pictures alone are missing. Write "
            "`singles = true` under [sets] in the plan, `run` it, then judge again; the text is scored already."
        )
    if cut:
        notes.append(f"{len(cut)} texts are longer than CLIP reads; their ends are not judged. The first: {cut[0]!r}")
    return notes
