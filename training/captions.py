"""Captions: trigger words, orders of their tags, and how many tokens they are. Pure but for the tokenizer given."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch

from .draw import generator


def with_trigger(caption: str, trigger: str) -> str:
    """The caption, with the trigger words at its end unless they are in it already (as whole words, in any case)."""
    if not trigger or re.search(_whole_words(trigger), caption, re.IGNORECASE):
        return caption
    return f"{caption}, {trigger}"


def orders(caption: str, count: int, keep: int = 0, trigger: str = "") -> list[str]:
    """The caption as written, then up to `count - 1` other orders of its comma-separated tags, all different.

    The first `keep` tags stay in front; the trigger words stay together, whatever commas are in them. The orders depend
    on nothing else, so their encodings can be kept on disk for every run to come: a fresh order for every sample would
    mean a pass of the text encoder for every sample.
    """
    tags = _tags(caption, trigger)
    first, rest = tags[:keep], tags[keep:]
    found = {caption: None}
    wanted, source = min(count, math.factorial(min(len(rest), 12))), generator(0, "tags", caption)
    for _ in range(20 * wanted):  # equal tags make fewer orders than counted
        if len(found) >= wanted:
            break
        order = torch.randperm(len(rest), generator=source).tolist()
        if order != sorted(order):
            found[", ".join(first + [rest[i] for i in order])] = None
    return list(found)


def _tags(caption: str, trigger: str) -> list[str]:
    """What stands between commas, but for those within the trigger words."""
    pieces = f"(?:{_whole_words(trigger)}|[^,])+" if trigger else "[^,]+"
    return [tag for part in re.findall(pieces, caption, re.IGNORECASE) if (tag := part.strip())]


def _whole_words(text: str) -> str:
    """A pattern that finds the text, but not as a part of longer words."""
    return rf"(?<!\w){re.escape(text)}(?!\w)"


def tokenize(tokenizer: Any, text: str) -> dict[str, Any]:
    """A caption's tokens, all of weight 1: "(word:1.3)" is a prompt's syntax, in a caption it is just brackets."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a ComfyUI CLIP has one
    return tokenizer.tokenize_with_weights(text, return_word_ids=False, disable_weights=True)


def count_chunks(tokenizer: Any) -> Callable[[str], int]:
    """A counter, from a ComfyUI tokenizer, of the chunks of 75 tokens that the text encoder reads a caption in."""
    return lambda text: max(len(chunks) for chunks in tokenize(tokenizer, text).values())
