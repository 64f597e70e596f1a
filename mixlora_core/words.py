"""Which tokens of a prompt name which adapter. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .prompt.names import file_names, telling, words

Positions = tuple[tuple[int, ...], ...]
"""For each adapter, the positions of its tokens in the encoded text, in order; empty where it is not named."""

Tokenize = Callable[[str], Mapping[str, Sequence[Sequence[Any]]]]
"""A CLIP's: a text -> for each text encoder, batches of (token, weight, ...)."""


def naming(tokenize: Tokenize, prompt: str, named: Sequence[tuple[str, Sequence[str]]]) -> Positions:
    """Where a prompt names each adapter, given as (file name, trigger words).

    The whole trigger phrase counts; where the prompt does not have it, the file's name; else words of both that no
    other adapter has. All occurrences count. Text encoders of a model read the same words at the same positions.
    """
    special = set(_tokens(tokenize, ""))
    said = _tokens(tokenize, prompt)
    calls = [_calls(*one) for one in named]
    shared = Counter(word for some in calls for word in {word for call in some for word in words(call)})
    found = []
    for some in calls:
        own = list(dict.fromkeys(word for call in some for word in words(call) if telling(word) and shared[word] == 1))
        tiers = [*([call] for call in some), own]
        places = ({at for call in tier for at in _places(said, tokenize, call, special)} for tier in tiers)
        found.append(next((tuple(sorted(at)) for at in places if at), ()))
    return tuple(found)


def _calls(name: str, triggers: Sequence[str]) -> list[str]:
    """What an adapter may be called, the best first."""
    phrases = [part.strip() for trigger in triggers for part in trigger.split(",")]
    return list(dict.fromkeys(call for call in [*phrases, " ".join(words(file_names(name)[2]))] if telling(call)))


def _tokens(tokenize: Tokenize, text: str) -> list[int | None]:
    """The tokens of a text with start, end and padding, one after another; None for those that are no number."""
    batches = next(iter(tokenize(text).values()))
    return [entry[0] if isinstance(entry[0], int) else None for batch in batches for entry in batch]


def _places(said: Sequence[int | None], tokenize: Tokenize, call: str, special: set[int | None]) -> set[int]:
    """Where the words stand; of "a kite" or "monet style" only where "kite" or "monet" does."""
    spoken = words(call)
    telling_at = [place for place, word in enumerate(spoken) if telling(word)]
    core = " ".join(spoken[telling_at[0] : telling_at[-1] + 1])
    whole = _runs(said, [token for token in _tokens(tokenize, call) if token not in special])
    return whole & _runs(said, [token for token in _tokens(tokenize, core) if token not in special]) or whole


def _runs(said: Sequence[int | None], wanted: Sequence[int | None]) -> set[int]:
    """The positions of all occurrences of a run of tokens."""
    size = len(wanted)
    starts = range(len(said) - size + 1) if size else ()
    return {at for start in starts if said[start : start + size] == wanted for at in range(start, start + size)}
