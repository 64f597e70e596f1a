"""A stack and a composition -> a MODEL that any sampler runs with it."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from . import execution
from .adapter import Adapter, match
from .composition import Composition
from .files.lora_file import Identity, LoraFile
from .stack import StyleStack

_matched: weakref.WeakKeyDictionary[Any, dict[Identity, weakref.ref[Adapter]]] = weakref.WeakKeyDictionary()


def composed(model: Any, stack: StyleStack, composition: Composition, executor: str = execution.AUTOMATIC) -> Any:
    """A clone of a MODEL in which the stack's adapters speak as the composition says.

    Strengths of the stack count for the UNet; the text encoders are the prompt's business (`text.encode_per_adapter`).
    Raises AdapterError for a file that does not fit the model or a composition that does not fit the stack.
    """
    voices = [execution.Voice(matched(model, entry.file), entry.strength_model) for entry in stack.entries]
    return execution.attach(model, voices, composition, executor)


def matched(model: Any, file: LoraFile) -> Adapter:
    """The file matched to the MODEL's UNet; a second queue with the same file and model gets the same adapter."""
    known = _matched.setdefault(model.model, {})
    adapter = known[file.identity]() if file.identity in known else None
    if adapter is None:
        adapter = match(file, execution.unet_target(model), None)
        known[file.identity] = weakref.ref(adapter)
        if adapter.left_out:
            logging.warning(
                "MixLoRA: %s is applied in part: %d of its %d tensors have no place in this model (for example %s).",
                *(file.name, len(adapter.left_out), len(file.tensors), adapter.left_out[0]),
            )
    return adapter
