"""A vision-language model's answer -> scores, or the reason why it gives none. Nothing is guessed."""

from __future__ import annotations

import re
from typing import NamedTuple

from .rubric import HIGHEST, STEP

_DECORATION = re.compile(r"[*_`#>]|^\s*[-•]\s+")
"""Markdown that models like to put around the lines."""
_BEGINNING = re.compile(r"image [12]: composition quality", re.IGNORECASE)
_LINE = re.compile(
    r"image ([12]): composition quality: (\d+(?:\.\d+)?) ?/ ?10[,;] image quality: (\d+(?:\.\d+)?) ?/ ?10\.?",
    re.IGNORECASE,
)


class MalformedError(Exception):
    """An answer without scores in the asked form; the message says what is wrong with it."""


class Scores(NamedTuple):
    """What one picture got, each 0..10 in steps of 0.5."""

    composition: float
    quality: float


def parse(text: str, finish: str) -> tuple[Scores, Scores]:
    """The scores of Image 1 and Image 2. `finish` is why the model stopped; only "stop" is the end of an answer.

    Raises MalformedError unless each picture has exactly one line of scores that are possible.
    """
    if finish != "stop":
        raise MalformedError(
            "cut off at the limit of tokens (raise --max-tokens)" if finish == "length" else f"ended with {finish!r}"
        )
    found: dict[str, Scores] = {}
    for line in map(_plain, text.splitlines()):
        if not _BEGINNING.match(line):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise MalformedError(f"no scores in {line[:80]!r}")
        number, scores = match[1], Scores(float(match[2]), float(match[3]))
        if number in found:
            raise MalformedError(f"several lines of scores for Image {number}")
        if any(score > HIGHEST or score % STEP for score in scores):
            raise MalformedError(f"{line[:80]!r}: expected 0 to 10 in steps of 0.5")
        found[number] = scores
    if missing := [f"Image {number}" for number in "12" if number not in found]:
        raise MalformedError(f"no line of scores for {' and '.join(missing)}")
    return found["1"], found["2"]


def _plain(line: str) -> str:
    return " ".join(_DECORATION.sub("", line).split())
