"""Things over scenery: what covers a picture is merged, and each thing that stands in it is added alone."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from .compose import composed
from .composition import Centred
from .errors import CompositionError
from .mixing.weighted_mix import MixSettings, mix
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
