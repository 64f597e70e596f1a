"""One prompt encoded once for each adapter, with that adapter's own text-encoder LoRA."""

from __future__ import annotations

from typing import Any

from . import execution
from .adapter import TEXT_ENCODER_PREFIXES, match
from .regions.words import naming
from .stack import StyleStack


def encode_per_adapter(clip: Any, stack: StyleStack, prompt: str, shared: bool = False) -> list:
    """A CONDITIONING with a part for each adapter of the stack, marked as that adapter's own.

    Switch and Composite give each branch its adapter's part; samplers that know nothing of it average the parts. The
    paper's code encodes once, with the first adapter's text encoder or all of them together. `shared` adds the text as
    the CLIP itself reads it, for branches that are no adapter's own: the base model's, merges. Raises AdapterError.
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
        mark = {execution.TEXT: (index, len(stack.entries))}
        parts += [[states, {**fields, **mark}] for states, fields in encoded]
    if shared:
        mark = {execution.TEXT: (None, len(stack.entries))}
        parts += [[states, {**fields, **mark}] for states, fields in plain or clip.encode_from_tokens_scheduled(tokens)]
    return parts


def encode_naming(clip: Any, stack: StyleStack, prompt: str) -> list:
    """A CONDITIONING that says which of its words name which adapter of the stack, by trigger words or file name.

    The text is encoded once with the CLIP as it is; samplers that know nothing of regions see an ordinary prompt.
    """
    positions = naming(clip.tokenize, prompt, [(entry.lora_name, entry.words) for entry in stack.entries])
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return [[states, {**fields, execution.WORDS: positions}] for states, fields in encoded]
