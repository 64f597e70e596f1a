"""A stack and a composition -> a MODEL that any sampler runs with it."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from . import execution
from .adapter import Adapter, match
from .composition import Composition
from .errors import NoMatchError
from .files.lora_file import Identity, LoraFile
from .stack import StyleStack
from .text import only_text

_matched: weakref.WeakKeyDictionary[Any, dict[Identity, weakref.ref[Adapter]]] = weakref.WeakKeyDictionary()


def composed(model: Any, stack: StyleStack, composition: Composition, executor: str = execution.AUTOMATIC) -> Any:
    """A clone of a MODEL in which the stack's adapters speak as the composition says.

    Strengths of the stack count for the UNet; the text encoders are the prompt's business (`text.encode_per_adapter`).
    Raises AdapterError for a file that does not fit the model or a composition that does not fit the stack.
    """
    adapters = [matched(model, entry.file, texts_apart=True) for entry in stack.entries]
    if adapters and not any(adapter.model_patches for adapter in adapters):
        raise NoMatchError(
            "No LoRA of the stack has a part for the diffusion model, only for the text encoder, so there is nothing "
            "to compose. Use Mix LoRA Weights with a CLIP."
        )
    strengths = [entry.strength_model for entry in stack.entries]
    voices = [execution.Voice(*one) for one in zip(adapters, strengths, strict=True)]
    return execution.attach(model, voices, composition, executor)


def matched(model: Any, file: LoraFile, texts_apart: bool = False) -> Adapter:
    """The file matched to the MODEL's UNet; a second queue with the same file and model gets the same adapter.

    `texts_apart`: its part for the text encoder is applied elsewhere, so a file that has no other is welcome, too.
    """
    known = _matched.setdefault(model.model, {})
    adapter = known[file.identity]() if file.identity in known else None
    if adapter is None or not (adapter.model_patches or texts_apart):
        empty = texts_apart and only_text(file)
        adapter = Adapter(file, {}, {}, {}, (), len(file.tensors)) if empty else _match(model, file)
        known[file.identity] = weakref.ref(adapter)
    return adapter


def _match(model: Any, file: LoraFile) -> Adapter:
    adapter = match(file, execution.unet_target(model), None)
    if adapter.left_out:
        logging.warning(
            "MixLoRA: %s is applied in part: %d of its %d tensors have no place in this model (for example %s).",
            *(file.name, len(adapter.left_out), len(file.tensors), adapter.left_out[0]),
        )
    return adapter
