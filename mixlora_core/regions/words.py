"""Which tokens of a prompt name which adapter. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..prompt.names import file_names, telling, words

Positions = tuple[tuple[int, ...], ...]
"""For each adapter, the positions of its tokens in the encoded text, in order; empty where it is not named."""

Tokenize = Callable[[str], Mapping[str, Sequence[Sequence[Any]]]]
"""A CLIP's: a text -> for each text encoder, batches of (token, weight, ...)."""


def naming(tokenize: Tokenize, prompt: str, named: Sequence[tuple[str, Sequence[str]]]) -> Positions:
    """Where a prompt names each adapter, given as (file name, trigger words).

    The whole trigger phrase counts; where the prompt does not have it, the file's name; else words of both that no
    other adapter has. All occurrences count. Text encoders of a model read the same words at the same positions.
    """
    reader = _Reader(tokenize, prompt)
    calls = [_calls(*one) for one in named]
    shared = Counter(word for some in calls for word in {word for call in some for word in words(call)})
    found = []
    for some in calls:
        own = list(dict.fromkeys(word for call in some for word in words(call) if telling(word) and shared[word] == 1))
        tiers = [*([call] for call in some), own]
        places = ({at for call in tier for at in reader.places(call)} for tier in tiers)
        found.append(next((tuple(sorted(at)) for at in places if at), ()))
    return tuple(found)


class _Reader:
    """Finds words in one prompt by their tokens; start, end and padding are no words, so a line may break anywhere."""

    def __init__(self, tokenize: Tokenize, prompt: str) -> None:
        self.tokenize = tokenize
        self.special = {token for _, token in self._tokens("")}
        self.said = self._words(prompt)

    def places(self, call: str) -> set[int]:
        """Where words stand; of "a kite" or "monet style" only where "kite" or "monet" does."""
        spoken = words(call)
        core = [place for place, word in enumerate(spoken) if telling(word)]
        whole = self._runs(call)
        return whole & self._runs(" ".join(spoken[core[0] : core[-1] + 1])) or whole

    def _runs(self, call: str) -> set[int]:
        """The positions of all occurrences of a run of tokens."""
        wanted = [token for _, token in self._words(call)]
        starts = range(len(self.said) - len(wanted) + 1) if wanted else ()
        runs = (self.said[start : start + len(wanted)] for start in starts)
        return {place for run in runs if [token for _, token in run] == wanted for place, _ in run}

    def _words(self, text: str) -> list[tuple[int, int | None]]:
        return [(place, token) for place, token in self._tokens(text) if token not in self.special]

    def _tokens(self, text: str) -> list[tuple[int, int | None]]:
        """Positions and tokens of the first text encoder; None for what is no number, such as an embedding."""
        batches = next(iter(self.tokenize(text).values()))
        entries = (entry[0] for batch in batches for entry in batch)
        return [(place, token if isinstance(token, int) else None) for place, token in enumerate(entries)]


def _calls(name: str, triggers: Sequence[str]) -> list[str]:
    """What an adapter may be called, the best first."""
    phrases = [part.strip() for trigger in triggers for part in trigger.split(",")]
    return list(dict.fromkeys(call for call in [*phrases, " ".join(words(file_names(name)[2]))] if telling(call)))
