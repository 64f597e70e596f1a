"""Which adapter some words of a prompt mean: by file name, trigger words, a word that only it has. Pure."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

from ..errors import PromptError

NAME, TRIGGER, WORD, SIMILARITY = "file name", "trigger words", "a word that only it has", "CLIP similarity"

GENERIC = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at by with and or for to from as like style styles styled texture textures lighting light "
        "look art artwork painting painted paint drawing animation film movie picture photo manner mood colour colours "
        "color colors palette brush strokes lora locon lycoris safetensors",
    )
)
"""Words that never tell one adapter from another."""

_VERSION = re.compile(r"(v|ver|sd|sdxl|xl|r|rank|dim|e|ep|epoch|step|steps)?\d*")
MISSPELT, HINT = 0.82, 0.6
"""Likeness (difflib's ratio) from which words count as a misspelt name ("monnet" and "ghilbi" do, "money" does not),
and from which a name is worth suggesting."""

Words = tuple[str, ...]
Similar = Callable[[str], tuple[int, float] | None]
"""Words -> the adapter whose words are most like them, and how much; None where no one stands out."""


@dataclass(frozen=True)
class Known:
    """An adapter as a prompt can call it, and how loud it is where the prompt gives no number."""

    name: str
    """The file's name as ComfyUI lists it."""
    triggers: tuple[str, ...] = ()
    strength_model: float = 1.0
    strength_clip: float = 1.0


@dataclass(frozen=True)
class Match:
    """The adapter that was meant (its place in the stack), and how that was found."""

    adapter: int
    by: str
    likeness: float | None = None
    """For SIMILARITY: the cosine."""


@dataclass(frozen=True)
class _Call:
    """One way to call an adapter."""

    adapter: int
    by: str
    words: Words
    whole: bool
    """Whether it is the full file name or trigger phrase, not only its core."""


class Names:
    """All adapters of a stack by what a prompt may call them; `shelf` lists files besides, for hints only."""

    def __init__(self, known: Sequence[Known], similar: Similar | None = None, shelf: Sequence[str] = ()) -> None:
        self.known, self._shelf = tuple(known), tuple(shelf)
        self._similar = similar
        self._calls = [call for index, one in enumerate(known) for call in _calls(index, one)]
        own = [{word for call in self._calls if call.adapter == index for word in call.words} for index in self._all]
        shared = Counter(word for some in own for word in some)
        self._distinctive = [{word for word in some if shared[word] == 1 and telling(word)} for some in own]

    def named(self, name: str) -> Match | None:
        """The adapter of a file name: with or without its folder and ending, spelt with spaces or underscores.

        Raises PromptError where several have it.
        """
        wanted = joined(name)
        found = [index for index in self._all if wanted and wanted in map(joined, file_names(self.known[index].name))]
        return self._only(found, name, NAME)

    def exactly(self, text: str) -> Match | None:
        """The adapter that is called precisely so; trigger words before file names. Raises PromptError for several."""
        wanted = joined(text)
        for by in (TRIGGER, NAME):
            found = [call.adapter for call in self._calls if call.by == by and "".join(call.words) == wanted]
            if found:
                return self._only(found, text, by)
        return self.named(text)

    def find(self, text: str) -> Match | None:
        """The adapter that words such as "monet lighting" mean. Raises PromptError where several fit alike.

        The longest call (name, trigger words, or their core without general words) that stands in the text wins; else
        who has most of its words alone.
        """
        said = words(text)
        inside = [call for call in self._calls if contains(said, call.words)]
        if inside:
            longest = max(len("".join(call.words)) for call in inside)
            best = [call for call in inside if len("".join(call.words)) == longest]
            return self._only([call.adapter for call in best], text, best[-1].by)
        counts = [len(set(said) & distinctive) for distinctive in self._distinctive]
        most = max(counts, default=0)
        return self._only([index for index in self._all if most and counts[index] == most], text, WORD)

    def alike(self, text: str) -> Match | None:
        """The adapter whose words a CLIP finds most like these, where one was given and one stands out."""
        similar = self._similar(text) if self._similar and words(text) else None
        return Match(similar[0], SIMILARITY, similar[1]) if similar else None

    def mentioned(self, text: str) -> list[Match]:
        """Adapters whose whole file name or trigger phrase stands in a text, in the order of the stack."""
        said, found = words(text), {}
        for call in self._calls:
            if call.whole and contains(said, call.words):
                found.setdefault(call.adapter, Match(call.adapter, call.by))
        return [found[index] for index in self._all if index in found]

    def near(self, text: str, ratio: float = MISSPELT) -> list[str]:
        """Files that a misspelt text may have meant, the likeliest first, those of the stack before others."""
        pieces = [joined(text), *(word for word in words(text) if len(word) > 3)]
        stack = {}
        for index, one in enumerate(self.known):
            calls = {"".join(call.words) for call in self._calls if call.adapter == index} | self._distinctive[index]
            stack[one.name] = _closeness(pieces, calls | set(map(joined, file_names(one.name))))
        shelf = {name: _closeness(pieces[:1], map(joined, file_names(name))) for name in self._shelf}
        ranked = [sorted((-close, name) for name, close in some.items() if close >= ratio) for some in (stack, shelf)]
        return list(dict.fromkeys(name for some in ranked for _, name in some))[:3]

    @property
    def _all(self) -> range:
        return range(len(self.known))

    def _only(self, found: Sequence[int], text: str, by: str) -> Match | None:
        if len(set(found)) > 1:
            names = ", ".join(self.known[index].name for index in sorted(set(found)))
            raise PromptError(f"{text.strip()!r} fits several LoRAs alike: {names}. Use a file's whole name.")
        return Match(found[0], by) if found else None


def words(text: str) -> Words:
    """The words of a text: letters and digits, in small letters."""
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def joined(text: str) -> str:
    """A text as one word, for comparing names: "Van Gogh", "van_gogh" and "vangogh" are the same."""
    return "".join(words(text))


def contains(text: Words, part: Words) -> bool:
    """Whether `part` stands in `text` word by word."""
    return any(text[start : start + len(part)] == part for start in range(len(text) - len(part) + 1))


def file_names(name: str) -> tuple[str, str, str]:
    """What a file may be called: its name with folder and ending, without ending, and alone."""
    path = PureWindowsPath(name)  # knows both slashes
    stem = path.stem if path.suffix.lower() == ".safetensors" else path.name  # "style_v1.5" has no ending
    return name, str(path.with_name(stem)), stem


def _closeness(pieces: Sequence[str], calls: Iterable[str]) -> float:
    return max(difflib.SequenceMatcher(None, call, piece).ratio() for call in calls for piece in pieces)


def _calls(index: int, known: Known) -> list[_Call]:
    phrases = [(NAME, words(file_names(known.name)[2]))]
    phrases += [(TRIGGER, words(part)) for trigger in known.triggers for part in trigger.split(",")]
    calls = []
    for by, phrase in phrases:
        core = _core(phrase)
        if len("".join(core)) > 2:  # a file called "a" or "style" is meant only where its whole name is given
            calls.append(_Call(index, by, phrase, whole=True))
            if core != phrase:
                calls.append(_Call(index, by, core, whole=False))
    return calls


def _core(phrase: Words) -> Words:
    """The phrase without general words at its ends: "van gogh" of "in van gogh style"."""
    places = [place for place, word in enumerate(phrase) if telling(word)]
    return phrase[places[0] : places[-1] + 1] if places else ()


def telling(text: str) -> bool:
    """Whether a text has a word that can tell one adapter from another."""
    return any(word not in GENERIC and len(word) > 1 and not _VERSION.fullmatch(word) for word in words(text))
