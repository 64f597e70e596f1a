"""A stack with masks, or with a prompt that names its LoRAs -> a MODEL in which each speaks in its own region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..compose import composed
from ..composition import Regional
from ..errors import NoMatchError, PromptError
from ..mixing.weighted_mix import MixSettings, mix
from ..stack import StyleStack
from ..text import encode_naming, only_text
from .attention_masks import FromAttention
from .masks import Regions


def by_hand(model: Any, clip: Any, stack: StyleStack, masks: Sequence[Tensor | None], overlap: str) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP (which may be None): each LoRA speaks where its mask says, None everywhere.

    Text has no place: in the CLIP all LoRAs speak at their strengths. Raises AdapterError.
    """
    made = composed(model, stack, Regional(len(stack.entries), Regions(tuple(masks), overlap)))
    return made, with_texts(model, clip, stack)


def from_prompt(model: Any, clip: Any, stack: StyleStack, prompt: str, wish: FromAttention) -> tuple[Any, list, Any]:
    """MODEL, positive CONDITIONING and CLIP: each LoRA speaks where the words are seen that name it.

    Raises AdapterError.
    """
    if clip is None:
        raise PromptError("There is no CLIP, so the prompt cannot be encoded. Connect the one of the checkpoint.")
    made = composed(model, stack, Regional(len(stack.entries), wish))
    clip = with_texts(model, clip, stack)
    return made, encode_naming(clip, stack, prompt), clip


def with_texts(model: Any, clip: Any, stack: StyleStack) -> Any:
    """The CLIP with the text-encoder parts of all LoRAs at their strengths; None where there is none.

    Raises NoMatchError for a LoRA that then would do nothing at all.
    """
    if clip is None:
        for entry in stack.entries:
            if only_text(entry.file):
                raise NoMatchError(f"{entry.lora_name}: all its tensors are for the text encoder: connect CLIP.")
        return None
    texts = StyleStack(tuple(replace(entry, strength_model=0.0) for entry in stack.entries))
    return mix(model, clip, texts, MixSettings()).clip
