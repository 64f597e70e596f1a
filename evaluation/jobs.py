"""What a testbed is made of, and one picture to paint: plain values that everything in this room shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


class EvaluationError(Exception):
    """A plan, file, judge or result that the testbed cannot work with; the message says which and what to do."""


@dataclass(frozen=True)
class Element:
    """One thing that an adapter brings: a character, a garment, a style."""

    name: str
    """Unique in its testbed, for example "lighthouse"."""
    world: str
    """Elements of two worlds are never composed: "anime" and "reality" in ComposLoRA."""
    category: str
    trigger: str
    """The words that call it in a prompt."""


@dataclass(frozen=True)
class ElementSet:
    """Elements to be composed in one picture, in the order of the stack."""

    name: str
    """Unique in its testbed."""
    world: str
    elements: tuple[str, ...]

    @property
    def size(self) -> int:
        """N, the number of adapters."""
        return len(self.elements)


@dataclass(frozen=True)
class Method:
    """A way to compose: a kind that methods.py knows, and its parameters."""

    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strength: float = 1.0
    """λ of every adapter."""


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled; the names are those of ComfyUI's KSampler."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    width: int
    height: int


@dataclass(frozen=True)
class Job:
    """One picture to paint."""

    label: str
    """What the plan calls the method; it is no part of `key`."""
    method: Method
    set: ElementSet
    prompt: str
    negative: str
    seed: int
    sampling: Sampling
    files: tuple[str, ...]
    """SHA-256 of the checkpoint and of each adapter in the order of the set: a file that changed is another job."""

    @property
    def key(self) -> str:
        """A digest of everything that the picture depends on; equal jobs of different plans share their picture."""
        what = asdict(self)
        del what["label"], what["set"]["name"]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
