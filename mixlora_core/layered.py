"""Things over scenery: what covers a picture is merged, and each thing that stands in it is added alone."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from .compose import composed
from .composition import Centred
from .errors import CompositionError
from .mixing.weighted_mix import MixSettings, mix
from .prompt.names import HINT, Known, Names
from .regions.regional import with_texts
from .stack import StyleStack


def layered(model: Any, clip: Any, stack: StyleStack, things: Collection[int], scenery: float = 1.0) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP (which may be None): e = e_S + Σ (e_S+i - e_S) over the things i.

    S is the merge of all others, in the weights, at `scenery` times their strength; `things` are places in the stack,
    from 0. Styles, weather and ground want to be merged: they change what is there, and meet each other in it. Things
    want to be alone: in one merge they break each other. To first order all of it is the merge of everyone, which is
    also the side without the prompt, one evaluation. With one thing or none it is that merge, at its cost. In the CLIP
    all speak at their strengths. Raises CompositionError for places that are not in the stack or twice there, and a
    scenery that is not finite or below 0; AdapterError as a mix does.
    """
    number, places = len(stack.entries), sorted(things)
    if places != sorted(set(places)) or not set(places) <= set(range(number)):
        raise CompositionError(
            f"things are {', '.join(str(place + 1) for place in places)}; expected different places in a stack of "
            f"{number}, from 1 to {number}."
        )
    if not (math.isfinite(scenery) and scenery >= 0):
        raise CompositionError(f"scenery is {scenery}; expected a finite number, 0 or more.")
    alone = places if len(places) > 1 else []
    merged = tuple(
        entry if place in places else replace(entry, strength_model=entry.strength_model * scenery)
        for place, entry in enumerate(stack.entries)
        if place not in alone
    )
    made = mix(model, None, StyleStack(merged), MixSettings()).model if merged else model
    if alone:
        made = composed(made, StyleStack(tuple(stack.entries[place] for place in alone)), Centred(len(alone)))
    return made, with_texts(model, clip, stack)


def things_of(text: str, stack: StyleStack) -> tuple[int, ...]:
    """The places, from 0, of those whom a text calls: "castle, balloon" or "1, 3"; of all for an empty text.

    Between commas stands a place in the stack, from 1, or a file name or trigger words. Raises CompositionError for
    words that call no one of the stack, PromptError for words that several have.
    """
    if not text.strip():
        return tuple(range(len(stack.entries)))
    only_places = re.fullmatch(r"[\d\s,;]+", text)
    calls = [call.strip() for call in re.split(r"[\s,;]+" if only_places else r"[,;\n]", text) if call.strip()]
    names = Names([Known(entry.lora_name, entry.words) for entry in stack.entries])
    return tuple(int(call) - 1 if call.isdecimal() else _called(call, names) for call in calls)


def _called(call: str, names: Names) -> int:
    match = names.exactly(call) or names.find(call)
    if match is None:
        near = names.near(call, HINT) or [one.name for one in names.known]
        raise CompositionError(
            f"things: {call!r} is no LoRA of the stack; expected places such as 1, 3, or names such as "
            f"{', '.join(near)}, with commas between."
        )
    return match.adapter


def describe(stack: StyleStack, things: Collection[int]) -> str:
    """The report of ApplyLoRALayered: who is a thing, who is merged, what it costs. A Markdown list."""
    alone = sorted(things) if len(things) > 1 else []
    heading = (
        f"{len(alone)} of {len(stack.entries)} LoRAs are things, each alone over the merge of the others; "
        f"{len(alone) + 2} predictions a step where a picture without LoRAs has 2"
        if alone
        else f"All {len(stack.entries)} LoRAs are merged, at no cost: layers need two things or more"
    )
    rows = [
        f"- {place}. {entry.lora_name}: {'thing' if place - 1 in things else 'merged'}, "
        f"model {entry.strength_model:.4g}, clip {entry.strength_clip:.4g}"
        for place, entry in enumerate(stack.entries, start=1)
    ]
    return "\n".join([heading, *rows])
