"""How alike texts are, and whose words are most like some others, as the text encoder of the graph sees it.

W-Switch and W-Composite (arXiv 2606.03792) compare prompt and trigger words by the cosine of mean-pooled CLIP states;
so does this, but over the words' own tokens: start, end and padding are the same in every text and would make all
alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .names import Known, file_names, words

NEUTRAL = "a picture"
"""Words that mean nobody: who is not more like an adapter's words than like these, does not mean it."""

MARGIN = 0.05
"""By how much a cosine must exceed that of the next adapter, and of NEUTRAL. Cosines of CLIP states are all high, so
only differences tell. Chosen; on the stand-in's text encoder "monet lighting" exceeds the next by 0.30, "van gogh
texture" by 0.38, and words that mean none of its three styles stay below 0.04. Not measured on a trained CLIP."""


class ClipSimilarity:
    """Answers for `names.Names` whom words mean, by a CLIP (without these LoRAs) and the adapters' trigger words."""

    def __init__(self, clip: Any, known: Sequence[Known]) -> None:
        self._clip, self._known = clip, known

    def __call__(self, text: str) -> tuple[int, float] | None:
        """The adapter and the cosine of the best of its trigger words; None where none stands out by MARGIN."""
        own = self._pooled(text)
        likeness = [max((cosine(own, one) for one in vectors), default=-1.0) for vectors in self._vectors]
        ranked = sorted(range(len(likeness)), key=lambda index: -likeness[index])
        others = [cosine(own, self._neutral), *(likeness[index] for index in ranked[1:2])]
        if not ranked or likeness[ranked[0]] < max(others) + MARGIN:
            return None
        return ranked[0], likeness[ranked[0]]

    @cached_property
    def _vectors(self) -> list[list[Tensor]]:
        """For each adapter its trigger words; where its file records none, its name."""
        texts = [one.triggers or (" ".join(words(file_names(one.name)[2])),) for one in self._known]
        return [[self._pooled(text) for text in own if words(text)] for own in texts]

    @cached_property
    def _neutral(self) -> Tensor:
        return self._pooled(NEUTRAL)

    def _pooled(self, text: str) -> Tensor:
        return pooled(self._clip, text)


def pooled(clip: Any, text: str) -> Tensor:
    """The mean state of a text's own tokens, (width,); for a text without words that of all tokens."""
    tokens, empty = (clip.tokenize(one) for one in (text, ""))
    half = "l" if "l" in tokens else next(iter(tokens))  # CLIP-L pads with its end token: only words differ
    padding = empty[half][0] * len(tokens[half])  # a long text comes in several pieces
    pairs = zip((token for piece in tokens[half] for token in piece), padding, strict=False)
    places = [place for place, (one, other) in enumerate(pairs) if one[0] != other[0]]
    states = clip.encode_from_tokens(tokens)[0].float()
    return states[places].mean(0) if places else states.mean(0)


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of two vectors, -1 to 1."""
    return torch.nn.functional.cosine_similarity(one, other, dim=0).item()
