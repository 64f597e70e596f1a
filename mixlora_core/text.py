"""One prompt encoded once for each adapter, with that adapter's own text-encoder LoRA."""

from __future__ import annotations

from typing import Any

from . import execution
from .adapter import TEXT_ENCODER_PREFIXES, match
from .files.lora_file import LoraFile
from .regions.words import naming
from .stack import StyleStack


def text_tensors(file: LoraFile) -> int:
    """How many of a file's tensors are for the text encoder."""
    return sum(name.startswith(TEXT_ENCODER_PREFIXES) for name in file.tensors)


def only_text(file: LoraFile) -> bool:
    """Whether a file has nothing for the UNet."""
    return text_tensors(file) == len(file.tensors)


def unused_texts(stack: StyleStack, *conditionings: list) -> str:
    """Says how many text-encoder parts of a stack none of the CONDITIONINGs was encoded with; "" if there is none."""
    count = sum(entry.strength_clip != 0 and text_tensors(entry.file) > 0 for entry in stack.entries)
    if not count or any(execution.TEXT in fields for one in conditionings for _, fields in one):
        return ""
    parts = "has a text-encoder part" if count == 1 else "have text-encoder parts"
    return (
        f"{count} of {len(stack.entries)} LoRAs {parts} that this node does not use: Encode Text per LoRA applies them"
    )


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
        patches = match(entry.file, None, target).clip_patches if text_tensors(entry.file) else {}
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
