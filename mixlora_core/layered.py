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
from .prompt.names import HINT, Known, Names, file_names, joined
from .regions.regional import with_texts
from .stack import StyleStack
from .text import only_text


def layered(model: Any, clip: Any, stack: StyleStack, things: Collection[int], scenery: float = 1.0) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP (which may be None): e = e_S + Σ (e_S+i - e_S) over the things i.

    S is the merge of all others, in the weights, at `scenery` times their strength; `things` are places in the stack,
    from 0. Styles, weather and ground want to be merged: they change what is there, and meet each other in it. Things
    want to be alone: in one merge they break each other. To first order all of it is the merge of everyone, which is
    also the side without the prompt, one evaluation. With one thing or none it is that merge, at its cost. In the CLIP
    all speak at their strengths. Raises CompositionError for places that are not in the stack or twice there, and a
    scenery that is not finite or below 0; AdapterError as a mix does.
    """
    places = sorted(things)
    _check([place + 1 for place in places], len(stack.entries))
    if not (math.isfinite(scenery) and scenery >= 0):
        raise CompositionError(f"scenery is {scenery}; expected a finite number, 0 or more.")
    alone = _alone(stack, places)
    merged = tuple(
        entry if place in places else replace(entry, strength_model=entry.strength_model * scenery)
        for place, entry in enumerate(stack.entries)
        if place not in alone and not only_text(entry.file)
    )
    made = mix(model, None, StyleStack(merged), MixSettings()).model if merged else model
    if alone:
        made = composed(made, StyleStack(tuple(stack.entries[place] for place in alone)), Centred(len(alone)))
    return made, with_texts(model, clip, stack)


def _alone(stack: StyleStack, things: Collection[int]) -> list[int]:
    """The places of those that are added alone: things with a part for the UNet, where there are several."""
    alone = [place for place in sorted(things) if not only_text(stack.entries[place].file)]
    return alone if len(alone) > 1 else []


def things_of(text: str, stack: StyleStack) -> tuple[int, ...]:
    """The places in `entries` of those whom a text calls: "castle, balloon" or "1, 3"; of all for an empty text.

    Between commas stands a number in the stack, from 1, or a file name or trigger words; who is silent is passed over.
    Raises CompositionError for what calls no one of the stack or calls one twice, PromptError for words that several
    have.
    """
    if not text.strip():
        return tuple(range(len(stack.entries)))
    only_places = re.fullmatch(r"[\d\s,;]+", text)
    calls = [call.strip() for call in re.split(r"[\s,;]+" if only_places else r"[,;\n]", text) if call.strip()]
    names = Names([Known(entry.lora_name, entry.words) for entry in stack.entries])
    found = [int(call) if call.isdecimal() else _called(call, names, stack) for call in calls]
    _check(found, stack.size)
    return tuple(stack.numbers.index(number) for number in found if number in stack.numbers)


def _called(call: str, names: Names, stack: StyleStack) -> int:
    """The number of whom a name calls, those that speak before the silent ones."""
    match = names.exactly(call) or names.find(call)
    if match is not None:
        return stack.numbers[match.adapter]
    silent = [number for number, row in stack.silent if joined(call) in map(joined, file_names(row[0]))]
    if silent:
        return silent[0]
    near = names.near(call, HINT) or [one.name for one in names.known]
    raise CompositionError(
        f"things: {call!r} is no LoRA of the stack; expected places such as 1, 3, or names such as "
        f"{', '.join(near)}, with commas between."
    )


def _check(numbers: Collection[int], size: int) -> None:
    if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(1, size + 1)):
        raise CompositionError(
            f"things are {', '.join(map(str, numbers))}; expected different places in a stack of {size}, from 1 to "
            f"{size}."
        )


def describe(stack: StyleStack, things: Collection[int]) -> str:
    """The report of ApplyLoRALayered: who is a thing, who is merged, what it costs. A Markdown list."""
    alone = _alone(stack, things)
    heading = (
        f"{len(alone)} of {len(stack.entries)} LoRAs are things, each alone over the merge of the others; "
        f"{len(alone) + 2} predictions a step where a picture without LoRAs has 2"
        if alone
        else f"All {len(stack.entries)} LoRAs are merged, at no cost: layers need two things or more"
    )
    rows = [
        (
            number,
            f"{entry.lora_name}: {'thing' if place in things else 'merged'}, "
            f"model {entry.strength_model:.4g}, clip {entry.strength_clip:.4g}",
        )
        for place, (number, entry) in enumerate(zip(stack.numbers, stack.entries, strict=True))
    ]
    rows += [(number, f"{row[0]}: silent, both strengths are 0") for number, row in stack.silent]
    return "\n".join([heading, *(f"- {number}. {text}" for number, text in sorted(rows))])
