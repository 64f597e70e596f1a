"""Goes through a prompt once: what `grammar` finds is given to whom `names` knows, or noted as not understood. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import PromptError
from . import grammar
from .grammar import MIX, Said, Span
from .names import HINT, Known, Match, Names, contains, file_names, joined, telling, words
from .numbers import WHOLE

ERROR, TEXT = "error", "leave in the text"
UNKNOWN = (ERROR, TEXT)
"""What comes of words that should name an adapter and name none."""

LONGEST = 6
"""How many words before a mark can belong to a name."""


@dataclass(frozen=True)
class Found:
    """What was said, whom it means, and how it stands in the prompt."""

    said: Said
    match: Match
    quote: str


class Reading:
    """A prompt that was read: `found`, the spans `removed` from its text, `notes`, and `problems` that forbid to go on.

    Tags come first, then marks with a strength, then shares and mixes, which may hold marks that only say when.
    """

    def __init__(self, prompt: str, names: Names, unknown: str = ERROR) -> None:
        self.prompt, self.names, self.unknown = prompt, names, unknown
        self.found: list[Found] = []
        self.removed: list[Span] = grammar.tag_spans(prompt)
        self.notes: list[str] = []
        self.problems: list[str] = []
        text = grammar.masked(prompt, self.removed)
        marks = grammar.marks(text)
        self._plain = grammar.masked(prompt, [mark.span for mark in marks], " ")
        for tag in grammar.tags(prompt, self.problems):
            self._attempt(self._tag, tag)
        for mark in marks:
            if mark.model is not None:
                self._attempt(self._mark, mark)
        text = grammar.masked(text, [one.said.span for one in self.found])
        whens = [mark for mark in marks if mark.model is None]
        for group in grammar.phrases(grammar.masked(text, [mark.span for mark in whens], " ")):
            self._attempt(self._phrase, group, whens)
        for mark in whens:
            self._attempt(self._mark, mark)

    def _attempt(self, step: Callable[..., None], *given: object) -> None:
        try:
            step(*given)
        except PromptError as error:
            self.problems.append(str(error))

    def _tag(self, said: Said) -> None:
        name = self._words(said)
        match = self.names.named(name)
        if match:
            self.found.append(Found(said, match, self._quote(said.span)))
        else:
            self._missing(name, said.span, "the tag is left out")

    def _mark(self, said: Said) -> None:
        """The longest words before a mark that are a name, else the last telling word if only one adapter has it.

        A file's name goes from the text with its mark; words that are for the model to read stay.
        """
        if said.span in self.removed:
            return  # it stood in a share or a mix
        starts = [word.start() for word in re.compile(r"\S+").finditer(self._plain, *said.words)]
        calls = [(start, self._plain[start : said.words.end]) for start in starts[-LONGEST:]]
        if not calls or calls[-1][1].lower().startswith("embedding:"):
            return
        exact = ((start, call, self.names.exactly(call)) for start, call in calls)
        start, call, match = next((one for one in exact if one[2]), (0, "", None))
        if not match:
            start, call = next((one for one in reversed(calls) if telling(one[1])), calls[-1])
            match = self.names.find(call)
        span = Span(start, said.span.end)
        if match and said.fault:
            raise PromptError(said.fault)
        if match:
            self.removed.append(span if self._is_file(call, self.names.known[match.adapter]) else said.span)
            self.found.append(Found(replace(said, span=span), match, self._quote(span)))
        elif (said.window != WHOLE and not said.fault) or self.names.near(call):
            self._missing(call, span, "it stays in the text")
        elif re.search(r"[^\W\d_]", call):
            self._note(span)

    def _phrase(self, group: Sequence[Said], whens: Sequence[Said]) -> None:
        """Shares, or the items of a mix, as far as its list goes on."""
        matches = [self.names.find(self._words(said)) for said in group]
        if group[0].kind == MIX and any(matches):
            end = max(place for place, match in enumerate(matches) if match) + 1
            following = group[end : end + 1]
            end += any(said.bound or self.names.near(self._words(said)) for said in following)
            group, matches = group[:end], matches[:end]
        elif group[0].kind == MIX:
            group, matches = group[:1], matches[:1]
        matches = [match or self.names.alike(self._words(said)) for said, match in zip(group, matches, strict=True)]
        for said, match in zip(group, matches, strict=True):
            if match:
                self.found.append(Found(self._during(said, whens), match, self._quote(said.span)))
            elif any(matches) or self.names.near(self._words(said)):
                self._missing(self._words(said), said.span, "it stays in the text")
            else:
                self._note(said.span)

    def _during(self, said: Said, whens: Sequence[Said]) -> Said:
        """With the window that stands in it, if one does."""
        own = [mark for mark in whens if said.span.start <= mark.span.start < said.span.end]
        if len(own) > 1:
            raise PromptError(f"{self._quote(said.span)!r} says twice when; expected one @0-40%.")
        if own and own[0].fault:
            raise PromptError(own[0].fault)
        self.removed += [mark.span for mark in own]
        return replace(said, window=own[0].window) if own else said

    @staticmethod
    def _is_file(call: str, known: Known) -> bool:
        reads = any(contains(words(one), words(call)) for one in known.triggers)
        return "_" in call or (joined(call) in map(joined, file_names(known.name)) and not reads)

    def _words(self, said: Said) -> str:
        """The words without what only joins them to their number."""
        return re.sub(r"^\s*of\s", "", self._plain[said.words.start : said.words.end]).strip(" \t\n:=")

    def _quote(self, span: Span) -> str:
        return " ".join(self.prompt[span.start : span.end].split())

    def _note(self, span: Span) -> None:
        self.notes.append(f"{self._quote(span)!r} names no LoRA of the stack; it stays in the text")

    def _missing(self, name: str, span: Span, fallback: str) -> None:
        near, all_names = self.names.near(name, HINT), [one.name for one in self.names.known]
        hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(all_names) or 'none'}."
        message = f"{self._quote(span)!r}: {name!r} names no LoRA of the stack. {hint}"
        if self.unknown == ERROR:
            self.problems.append(message)
        else:
            self.notes.append(f"{message} By the setting, {fallback}.")
