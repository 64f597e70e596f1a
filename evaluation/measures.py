"""What judges' measures are called for people, what they mean, and which differences are ties."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

ALIKE = "all alike"
"""Every set gave the same number, so that none drawn again can differ: no certainty, only no spread."""


@dataclass(frozen=True)
class Measure:
    """A column of the tables."""

    judge: str
    """As in the store: "oracle", "clip:ViT-B-16", "vlm:..."."""
    name: str
    title: str
    explanation: str
    factor: float = 1.0
    """Shown is the stored number times this."""
    unit: str = ""
    digits: int = 2
    higher: bool = True
    """Whether more is better."""
    tie: float = 0.0
    """Two pictures of a set whose stored numbers differ by no more are a tie."""
    span: tuple[float, float] | None = None
    """The stored numbers that are possible, for bars; None: what was found."""

    def text(self, value: float, sign: bool = False) -> str:
        """A stored number for people; a difference with its sign, and with a digit more where means have none."""
        if math.isnan(value):
            return "–"
        digits = max(self.digits, 1) if sign else self.digits
        shown = round(value * self.factor, digits) + 0.0  # no "-0"
        return f"{shown:{'+' if sign and shown else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")

    def range(self, low: float, high: float, sign: bool = False) -> str:
        """An interval for people; nothing where there is none, and words where every set gave the same."""
        if math.isnan(low):
            return ""
        return ALIKE if low == high else f"{self.text(low, sign)} to {self.text(high, sign)}"


_PERCENT = {"factor": 100.0, "unit": "%", "digits": 0, "span": (0.0, 1.0)}
KNOWN = (
    Measure(
        "oracle", "share", "elements there",
        "The share of the elements asked for that the oracle sees in the picture. 100 % is all of them.", **_PERCENT,
    ),
    Measure(
        "oracle", "all", "everything there",
        "The share of the pictures in which the oracle sees every element asked for.", **_PERCENT,
    ),
    Measure(
        "oracle", "quality", "soundness",
        "How sound the picture is: 1 is as sound as a typical picture by one LoRA alone, 0 is destroyed. It says "
        "nothing about what is in the picture.", tie=0.02, span=(0.0, 1.0),
    ),
    Measure(
        "oracle", "overloaded", "overloaded",
        "The share of the pictures that too much of the LoRAs broke to pieces: patches instead of a scene. Nothing "
        "counts as there in them. Fewer are better.", higher=False, **_PERCENT,
    ),
    Measure(
        "oracle", "unasked", "not asked for",
        "How many elements the oracle sees that nobody asked for, per picture. Fewer is better.", higher=False,
    ),
    Measure(
        "clip", "text", "CLIPScore",
        "How well the picture fits the words of its elements, 0 to 100, by CLIP. It depends on the set more than on "
        "the method: compare methods on the same sets only. It does not know what an adapter was trained on.",
        digits=1, tie=0.5,
    ),
    Measure(
        "clip", "fidelity", "likeness to each adapter",
        "How alike the picture is to pictures that each of its adapters makes alone, by CLIP, averaged over the "
        "adapters: cosine, 1 is equal.", digits=3, tie=0.005,
    ),
    Measure(
        "vlm", "composition", "composition",
        "Points from 0 to 10 that a vision-language model gives by the paper's rubric: is everything there, and right?",
    ),
    Measure(
        "vlm", "quality", "picture quality",
        "Points from 0 to 10 that a vision-language model gives by the paper's rubric: deformities, texture, light.",
    ),
)  # fmt: skip
RECALL = Measure(
    "oracle", "element", "element there",
    "The share of the pictures that ask for an element in which the oracle sees it (more probable than not).",
    **_PERCENT,
)  # fmt: skip
"""Of single elements, and of categories."""


def known(judge: str, name: str) -> Measure:
    """What is known of a judge's measure; what nobody has described is shown as it is stored."""
    family, _, model = judge.partition(":")
    for one in KNOWN:
        if (one.judge, one.name) == (family, name):
            return replace(one, judge=judge, title=f"{one.title} ({model})" if model else one.title)
    return Measure(judge, name, f"{judge}: {name}", f"{name}, as the judge {judge} gives it.", digits=3)


def in_order(found: set[tuple[str, str]]) -> list[Measure]:
    """Measures by (judge, name): the known ones as above, then others by name."""
    places = {(one.judge, one.name): place for place, one in enumerate(KNOWN)}

    def place(one: Measure) -> tuple[int, str, str]:
        return places.get((one.judge.partition(":")[0], one.name), len(KNOWN)), one.judge, one.name

    return sorted((known(*one) for one in found), key=place)
