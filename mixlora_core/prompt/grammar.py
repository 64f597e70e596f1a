"""What a prompt says about adapters, and where: tags, marks, shares and mixes. Pure; regular expressions, never eval.

    tag     <lora:name:0.6>   <lora:name:0.6:0.3@0-40%>   <lora:name:te=0.3:unet=0.6>
    mark    name:0.8   name:0.8@0-40%   name@0-40%
    share   70 % monet, 30 % ghibli   monet: 70 %, ghibli: 30 %   2 parts monet and 1 part ghibli
    mix     equal mix of van gogh texture, monet lighting and studio ghibli animation style

Tags and marks give strengths; shares and mixes give a part of the strength that the adapter has in the stack. Whether
words name an adapter is not known here: `plan` asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from ..errors import PromptError
from .numbers import NUMBER, PARTS, PERCENT, WHOLE, Window, percentage, strength, window

TAG, MARK, SHARE, MIX = "tag", "mark", "share", "mix"

_TAG = re.compile(r"<\s*(?:lora|lyco)\s*:([^<>]*)>", re.IGNORECASE)
_OPEN_TAG = re.compile(r"<\s*(?:lora|lyco)\s*:[^<>,\n]*", re.IGNORECASE)
_WHEN = re.compile(r"(.*?)(?:@([-+–\s\d.%]*))?", re.DOTALL)
# What follows an @ is taken even where it is no window, to say so. "(monet style:1.2)" is ComfyUI's emphasis, no mark.
_PART = rf"{NUMBER}\s*%?\s*[-–]\s*{NUMBER}(?:\s*%)?(?!\w)"
_MARK = re.compile(
    rf"(?<=\w)(?::\s*(?P<strength>[+-]?{NUMBER})@\s*(?P<window>{_PART}|[^\s,;()<>]*)"
    rf"|@\s*(?P<when>{_PART}|[-+\d.][^\s,;()<>]*)"
    rf"|:(?P<alone>[+-]?{NUMBER})(?![\w.:%])(?!\s*[)%]))"
)
_SHARE = re.compile(
    rf"(?<![\w.–-])(?<!\d,)(?P<number>[+-]?\d+,\d+|[+-]?{NUMBER})\s*(?P<unit>%|per\s?cent\b|parts?\b)", re.IGNORECASE
)
_MIX = re.compile(
    r"\b(?:(?:(?:equal|even|balanced)\s+)?(?:mix|mixture|blend|combination|fusion)\s+(?:of|between)"
    r"|equal\s+parts(?:\s+of)?)\s+",
    re.IGNORECASE,
)
_AND, _COMMA, _END = "and", "comma", "end"
_JOINT = re.compile(
    r"(?P<and>(?<=\s)(?:and|plus|&|\+)(?=\s))|(?P<comma>,(?!\d)|(?<!\d),)"
    r"|(?P<end>[;|\n\0()\[\]{}<>]|[.!?](?=\s|$))",
    re.IGNORECASE,
)


class Span(NamedTuple):
    """From which character to which (exclusive)."""

    start: int
    end: int


@dataclass(frozen=True)
class Said:
    """One thing that a prompt says: whom it means, and how strongly or when it shall speak."""

    kind: str
    span: Span
    """All of it; for a mark without the words before it."""
    words: Span
    """Where its words stand that may name somebody; for a mark they are the last of them."""
    model: float | None = None
    """Strength for the diffusion model; None: what the stack says."""
    clip: float | None = None
    share: tuple[float, str] | None = None
    """A number and its unit, for `numbers.shares`."""
    window: Window = WHOLE
    bound: bool = True
    """Whether its words must name somebody; else they may be the text that goes on after a mix."""
    fault: str = ""
    """What is wrong with a mark, should its words name somebody: "me@5pm" and "anno:1920" are text."""


def tags(prompt: str, problems: list[str]) -> list[Said]:
    """All tags of a prompt; what is wrong with one goes to `problems`."""
    found = []
    for tag in _TAG.finditer(prompt):
        try:
            found.append(_tag(tag))
        except PromptError as error:
            problems.append(str(error))
    rest = masked(prompt, tag_spans(prompt))
    problems += [f"{tag[0].strip()!r} at character {tag.start() + 1} has no >." for tag in _OPEN_TAG.finditer(rest)]
    return found


def tag_spans(prompt: str) -> list[Span]:
    """Where tags stand, be they right or wrong."""
    return [Span(*tag.span()) for tag in _TAG.finditer(prompt)]


def _tag(tag: re.Match[str]) -> Said:
    head, when = _WHEN.fullmatch(tag[1]).groups()  # type: ignore[union-attr]  # matches everything
    name, *arguments = head.split(":")
    if not name.strip():
        raise PromptError(f"{tag[0]!r} names no file; expected <lora:name:0.6>.")
    given: dict[str, float] = {}
    for place, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        half = {"unet": "model", "te": "clip"}.get(key.strip().lower()) if equals else _HALVES.get(place)
        if half is None or half in given:
            raise PromptError(
                f"{tag[0]!r}: {argument.strip()!r} is not understood. Expected <lora:name:strength>, "
                "<lora:name:model:clip>, or unet= and te= with a strength each."
            )
        given[half] = strength(value if equals else argument, tag[0])
    model = given.get("model", 1.0)
    start = tag.start(1)
    during = WHOLE if when is None else window(when, tag[0])
    words = Span(start, start + len(name))
    return Said(TAG, Span(*tag.span()), words, model, given.get("clip", model), window=during)


_HALVES = {0: "model", 1: "clip"}


def marks(text: str) -> list[Said]:
    """All marks of a text without tags. Those without a strength may belong to a share or mix that they stand in."""
    found = []
    for mark in _MARK.finditer(text):
        begin = max((joint.end() for joint in _JOINT.finditer(text, 0, mark.start())), default=0)
        value, when = mark["strength"] or mark["alone"], mark["when"] or mark["window"]
        quote = " ".join(text[begin : mark.end()].split())
        loud, during, fault = None if value is None else 0.0, WHOLE, ""
        try:
            loud = None if value is None else strength(value, quote)
            during = WHOLE if when is None else window(when, quote)
        except PromptError as error:
            fault = str(error)
        words = Span(begin, mark.start())
        found.append(Said(MARK, Span(*mark.span()), words, loud, loud, window=during, fault=fault))
    return found


def phrases(text: str) -> Iterator[list[Said]]:
    """Shares and mixes of a text without tags and marks: all shares as one list, then each mix as one."""
    clauses = list(_clauses(text))
    numbers = {clause: list(_SHARE.finditer(text, clause.start, clause.end)) for clause in clauses}
    shares = [said for clause in clauses if numbers[clause] for said in _shares(text, clause, numbers[clause])]
    if shares:
        yield shares
    for place, clause in enumerate(clauses):
        opening = _MIX.search(text, clause.start, clause.end)
        if opening and not numbers[clause]:
            rest = takewhile(lambda one: not numbers[one], _listed(clauses[place + 1 :]))
            yield [_item(one, opening) for one in (_Clause(opening.end(), clause.end, _AND), *rest)]


class _Clause(NamedTuple):
    start: int
    end: int
    joint: str
    """What stands before it: _AND, _COMMA or _END."""


def _clauses(text: str) -> Iterator[_Clause]:
    start, joint = 0, _END
    for found in _JOINT.finditer(text):
        if text[start : found.start()].strip() or found.lastgroup == _END or joint == _END:
            yield _Clause(start, found.start(), joint)
        start, joint = found.end(), str(found.lastgroup)
    yield _Clause(start, len(text), joint)


def _shares(text: str, clause: _Clause, numbers: Sequence[re.Match[str]]) -> Iterator[Said]:
    """Numbers before their words ("70 % monet"), or after them where the clause ends with a number ("monet: 70 %")."""
    after = not text[numbers[-1].end() : clause.end].strip()
    edges = [clause.start, *(number.end() for number in numbers)]
    if not after:
        edges = [*(number.start() for number in numbers), clause.end]
    for place, number in enumerate(numbers):
        words = Span(edges[place], number.start()) if after else Span(number.end(), edges[place + 1])
        span = Span(min(words.start, number.start()), max(words.end, number.end()))
        unit = PARTS if number["unit"].lower().startswith("part") else PERCENT
        yield Said(SHARE, span, words, share=(percentage(number["number"]), unit))


def _listed(clauses: Sequence[_Clause]) -> Iterator[_Clause]:
    """The clauses that may continue a list: up to the sentence's end, and no further than the one after an "and"."""
    for place, clause in enumerate(clauses):
        if clause.joint == _END or (clause.joint == _COMMA and place and clauses[place - 1].joint == _AND):
            return
        yield clause


def _item(clause: _Clause, opening: re.Match[str]) -> Said:
    span = Span(clause.start, clause.end)
    return Said(MIX, span, span, share=(1.0, f"mix at {opening.start()}"), bound=clause.joint == _AND)


def masked(text: str, spans: Sequence[Span], by: str = "\0") -> str:
    """The text with what stands in the spans replaced, character by character, so that places stay the same."""
    for start, end in spans:
        text = text[:start] + by * (end - start) + text[end:]
    return text


def cut(text: str, spans: Sequence[Span]) -> str:
    """The text without the spans, and without the commas and spaces that stood there for them alone."""
    kept, last = "", 0
    for start, end in sorted(spans):
        kept += text[last:start]
        left, right = kept.rstrip(" \t"), text[end:].lstrip(" \t")
        apart = len(left) < len(kept) or len(right) < len(text) - end or (left + right[:1])[-2:].isalnum()
        if right.startswith(",") and (not left or left[-1] in ",\n"):
            right = right[1:].lstrip(" \t")
        elif left.endswith(",") and (not right or right[0] in "\n"):
            left = left[:-1]
        close = not left or not right or left[-1] in "\n(" or right[0] in "\n),.;"
        kept, last = left + (" " if apart and not close else ""), len(text) - len(right)
    return kept + text[last:]
