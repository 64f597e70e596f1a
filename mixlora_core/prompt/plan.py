"""A prompt and the adapters of a stack -> who speaks how strongly and when, and the text that is left. Pure.

The prompt decides as far as it says something. Where it gives strengths, only those whom it gives one speak (or, as
asked, the others as stacked); where it gives none, those whose trigger words or names it mentions speak as stacked;
where it mentions nobody, all do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import PromptError
from . import grammar
from .names import Known, Match, Names, Similar
from .numbers import ROUNDING, WHOLE, Window, shares
from .reading import ERROR, UNKNOWN, Found, Reading

SILENT, STACKED = "silent", "as stacked"
OTHERS = (SILENT, STACKED)
"""What adapters do to which the prompt gives no strength where it gives some to others."""

SAID, MENTIONED, NOTHING = "said", "mentioned", "nothing"
"""Who decides: strengths in the prompt, names in it, or the stack alone."""


@dataclass(frozen=True)
class Speech:
    """One adapter in one part of the run."""

    adapter: int
    """Its place in the stack."""
    model: float
    clip: float
    window: Window = WHOLE
    quote: str = ""
    """What the prompt says of it; "" where the stack decides."""
    place: int = 0
    """At which character of the prompt that stands."""
    match: Match | None = None


@dataclass(frozen=True)
class Plan:
    """What a prompt asks for."""

    text: str
    """The prompt without tags and marks: what is encoded."""
    speeches: tuple[Speech, ...]
    """In the order of the stack, then of the run; an adapter can have several, at different times."""
    source: str
    """SAID, MENTIONED or NOTHING."""
    notes: tuple[str, ...]
    """What was not understood, and what was changed."""

    @property
    def whole(self) -> bool:
        """Whether everyone speaks in the whole run or not at all."""
        return all(speech.window == WHOLE for speech in self.speeches)

    def of(self, adapter: int) -> tuple[Speech, ...]:
        """An adapter's own speeches."""
        return tuple(speech for speech in self.speeches if speech.adapter == adapter)

    def mean(self, adapter: int) -> tuple[float, float]:
        """An adapter's strengths for model and text encoder, averaged over the run."""
        own = [(speech, speech.window[1] - speech.window[0]) for speech in self.of(adapter)]
        return sum(one.model * share for one, share in own), sum(one.clip * share for one, share in own)


def read(
    prompt: str,
    known: Sequence[Known],
    others: str = SILENT,
    unknown: str = ERROR,
    similar: Similar | None = None,
    shelf: Sequence[str] = (),
) -> Plan:
    """What the prompt asks of the adapters; always the same for the same prompt and stack.

    `unknown` is what comes of words that should name an adapter and name none: ERROR, or TEXT, with a note. `similar`
    is asked where neither names nor words answer; `shelf` are files to suggest. Raises PromptError with everything
    that is wrong.
    """
    if others not in OTHERS or unknown not in UNKNOWN:
        raise PromptError(f"others is {others!r}, unknown {unknown!r}; expected one of {OTHERS}, one of {UNKNOWN}.")
    names = Names(known, similar, shelf)
    reading = Reading(prompt, names, unknown)
    speeches = _speeches(reading.found, known, reading)
    if reading.problems:
        raise PromptError("The prompt's strengths are not clear:\n" + "\n".join(f"- {one}" for one in reading.problems))
    text = grammar.cut(prompt, reading.removed)
    given, mentioned = {speech.adapter for speech in speeches}, names.mentioned(text)
    if speeches:
        source, rest = SAID, [(place, None) for place in range(len(known)) if others == STACKED and place not in given]
    elif mentioned:
        source, rest = MENTIONED, [(match.adapter, match) for match in mentioned]
    else:
        source, rest = NOTHING, [(place, None) for place in range(len(known))]
    speeches += [
        Speech(place, known[place].strength_model, known[place].strength_clip, match=match) for place, match in rest
    ]
    speeches.sort(key=lambda speech: (speech.adapter, speech.window))
    return Plan(text, tuple(speeches), source, tuple(reading.notes))


def _speeches(found: Sequence[Found], known: Sequence[Known], reading: Reading) -> list[Speech]:
    """Strengths of all that was found. What contradicts itself goes to the reading's problems."""
    given = [one.said.share for one in found if one.said.share]
    try:
        scaled, whole = shares(given)
    except PromptError as error:
        reading.problems.append(str(error))
        return []
    if whole > 1 + ROUNDING:
        reading.notes.append(f"the shares add up to {100 * whole:.4g} %: they are scaled down to 100 %")
    parts, speeches = iter(scaled), []
    for one in found:
        said, own = one.said, known[one.match.adapter]
        share = next(parts) if said.share else 1.0
        model = share * own.strength_model if said.model is None else said.model
        clip = share * own.strength_clip if said.clip is None else said.clip
        speeches.append(Speech(one.match.adapter, model, clip, said.window, one.quote, said.span.start, one.match))
    ordered = sorted(speeches, key=lambda speech: (speech.adapter, speech.window, speech.place))
    for one, other in pairwise(ordered):
        if one.adapter == other.adapter and other.window[0] < one.window[1]:
            reading.problems.append(
                f"{known[one.adapter].name} is given two strengths at once: {one.quote!r} and {other.quote!r}. Keep "
                "one, or let one end where the other begins, such as @0-40% and @40-100%."
            )
    return speeches
