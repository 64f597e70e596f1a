"""One prompt encoded once for each adapter, with that adapter's own text-encoder LoRA."""

from __future__ import annotations

from typing import Any

from . import execution
from .adapter import TEXT_ENCODER_PREFIXES, match
from .stack import StyleStack


def encode_per_adapter(clip: Any, stack: StyleStack, prompt: str, base: bool = False) -> list:
    """A CONDITIONING with a part for each adapter of the stack, marked as that adapter's own.

    `base` adds the text without any adapter, for branches that are no single adapter's (`Branch.text` None).

    Switch and Composite give each branch its adapter's part; samplers that know nothing of it average the parts. The
    paper's code encodes once, with the first adapter's text encoder or all of them together. Raises AdapterError.
    """
    target, tokens = execution.clip_target(clip), clip.tokenize(prompt)
    parts = []
    plain = None
    for index, entry in enumerate(stack.entries):
        patches = {}
        if any(name.startswith(TEXT_ENCODER_PREFIXES) for name in entry.file.tensors):
            patches = match(entry.file, None, target).clip_patches
        speaks = entry.strength_clip != 0 and patches
        if speaks:
            encoded = execution.patched(clip, [(patches, entry.strength_clip)]).encode_from_tokens_scheduled(tokens)
        else:
            encoded = plain = plain or clip.encode_from_tokens_scheduled(tokens)
        parts += _marked(encoded, index, stack)
    if base:
        parts += _marked(plain or clip.encode_from_tokens_scheduled(tokens), None, stack)
    return parts


def _marked(encoded: list, index: int | None, stack: StyleStack) -> list:
    mark = {execution.TEXT: (index, len(stack.entries))}
    return [[states, {**fields, **mark}] for states, fields in encoded]
