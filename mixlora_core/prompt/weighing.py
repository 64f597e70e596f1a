"""How much each adapter of a stack matters to a prompt, by CLIP: the weights of W-Switch and W-Composite.

Source: arXiv 2606.03792; texts are pooled as in `similarity`. The formulas are `composition.prompt_aware`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from ..composition import presence, relevance
from ..composition.prompt_aware import FLOOR
from ..stack import StyleStack
from .similarity import cosine, pooled


def by_presence(clip: Any, stack: StyleStack, prompt: str, floor: float = FLOOR) -> tuple[float, ...]:
    """PAW, for turns: by how much the prompt changes without an adapter's trigger words. Sum to 1, all above 0.

    An adapter whose words are not in the prompt has the least weight, one whose file records no words the mean of the
    others. `clip` is the checkpoint's, without these LoRAs; `floor` as in `presence`.
    """
    _warn(stack)
    whole = pooled(clip, prompt)
    changed = [without(prompt, entry.words) if entry.words else None for entry in stack.entries]
    return presence([None if text is None else cosine(whole, pooled(clip, text)) for text in changed], floor)


def by_relevance(clip: Any, stack: StyleStack, prompt: str) -> tuple[float, ...]:
    """PTW, for a mean of predictions: how like the prompt an adapter's trigger words are. Else as `by_presence`."""
    _warn(stack)
    whole = pooled(clip, prompt)
    triggers = [", ".join(entry.words) for entry in stack.entries]
    return relevance([cosine(whole, pooled(clip, text)) if text else None for text in triggers])


def without(prompt: str, triggers: Sequence[str]) -> str:
    """The prompt with an adapter's trigger words taken out, in any case; as it is where it has none of them.

    A phrase with commas that does not stand there as a whole is looked for part by part.
    """
    left = prompt
    for trigger in sorted(triggers, key=len, reverse=True):
        rest, found = _taken_out(left, trigger)
        if not found:
            for part in trigger.split(","):
                rest, _ = _taken_out(rest, part)
        left = rest
    if left == prompt:
        return prompt
    pieces = (" ".join(piece.split()) for piece in left.split(","))
    return ", ".join(piece for piece in pieces if piece)


def _taken_out(text: str, phrase: str) -> tuple[str, int]:
    words = phrase.split()
    if not words:
        return text, 0
    pattern = r"\s+".join(map(re.escape, words))
    return re.subn(rf"(?<!\w){pattern}(?!\w)", "", text, flags=re.IGNORECASE)


def _warn(stack: StyleStack) -> None:
    unknown = [entry.lora_name for entry in stack.entries if not entry.words]
    if unknown:
        logging.warning(
            "MixLoRA: no trigger words are recorded in %s, so the prompt cannot tell how much they matter; they count "
            "as the mean of the others.",
            ", ".join(unknown),
        )
