"""Branches as ComfyUI's conditionings: whose entries each branch gets, marked as its own and weighed as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy.hooks import EnumHookType

from ..composition import NEGATIVE, POSITIVE, Branch
from ..errors import CompositionError
from ..regions.masks import WHOLE, Regions, Window
from .executor import BranchId, Speech

TEXT = "mixlora_text"
"""Key of a conditioning that is meant for one adapter only: (index, number of adapters). Index None: for no adapter."""

WORDS = "mixlora_words"
"""Key of where a conditioning's text names each adapter: `words.Positions`."""

Entries = Sequence[Mapping[str, Any]]
"""The conditionings of one prediction, as ComfyUI's `calc_cond_batch` takes them."""


def sides(conds: Sequence[Entries | None], known: Mapping[str, Entries] | None) -> list[str]:
    """Which side of the guidance each list of conditionings is for; "" for one that is missing.

    A guider keeps its lists by name; what bears no name of its, such as another pack's, counts as POSITIVE. Without a
    guider (`known` is None) the second list is the negative one, as in ComfyUI's `sampling_function`.
    """
    if known is None:
        negative = [position == 1 for position in range(len(conds))]
    else:
        named = [own for name, own in known.items() if "negative" in name]
        negative = [any(entries is own for own in named) for entries in conds]
    found = [NEGATIVE if one else POSITIVE for one in negative]
    return [side if entries else "" for side, entries in zip(found, conds, strict=True)]


def copies(
    entries: Entries, branches: Sequence[Branch], engine: str, side: str, place: int, size: Sequence[int]
) -> list[dict[str, Any]]:
    """The branches' own conditionings as one list, which ComfyUI averages by the branches' weights.

    `place` is that of the entries among the sampler's lists, `size` that of the latent: areas are parts of it.
    """
    even = len({branch.weight for branch in branches}) == 1
    copied = []
    for branch in branches:
        own = [entry for entry in entries if _text(entry, branch) == branch.text]
        if entries and not own:
            raise CompositionError(
                f"No conditioning is left for {_named(branch)}: its part of the text encoded for each LoRA does "
                "not reach the sampler. Connect all parts, or encode the text once for all (CLIP Text Encode)."
            )
        for entry in own:
            weight = {} if even else {"strength": entry.get("strength", 1.0) * branch.weight}
            name = BranchId(entry["uuid"], engine, _speech(branch, entry, side, size), place)
            copied.append({**entry, **weight, "uuid": name})
    return copied


def _speech(branch: Branch, entry: Mapping[str, Any], side: str, size: Sequence[int]) -> Speech:
    if branch.regions is None:
        return Speech(branch.coefficients)
    if isinstance(branch.regions, Regions):
        return Speech(branch.coefficients, branch.regions, _window(entry, size))
    return Speech(branch.coefficients, words=entry.get(WORDS) if _heard(entry, side) else None)


def _window(entry: Mapping[str, Any], size: Sequence[int]) -> Window:
    """The part of the picture that a conditioning is for, as ComfyUI cuts it out of the latent."""
    if "area" not in entry:
        return WHOLE
    height, width, top, left = entry["area"]
    bottom, right = min(top + height, size[0]), min(left + width, size[1])
    return top / size[0], left / size[1], bottom / size[0], right / size[1]


def _heard(entry: Mapping[str, Any], side: str) -> bool:
    """Whether a conditioning can tell where things are: it is for the whole picture, and of what it shall show."""
    return side == POSITIVE and "area" not in entry


def check_words(conds: Sequence[Entries | None], sides: Sequence[str], adapters: int) -> None:
    """Raises CompositionError where no conditioning says which of its words name which adapter."""
    heard = [
        entry for entries, side in zip(conds, sides, strict=True) for entry in entries or () if _heard(entry, side)
    ]
    told = [entry[WORDS] for entry in heard if WORDS in entry]
    if not told:
        raise CompositionError(
            "The positive prompt does not say which of its words name which LoRA, so there is nothing to find masks "
            "by. Connect the positive output of LoRA Regions from Prompt, or give masks by hand."
        )
    if wrong := [len(words) for words in told if len(words) != adapters]:
        raise CompositionError(
            f"The words of the prompt were looked up for a stack of {wrong[0]} LoRAs, this one has {adapters}. "
            "Connect the same stack to the text encoder and to the sampler."
        )


def check(conds: Sequence[Entries | None], adapters: int, rewriting: bool) -> None:
    """Raises CompositionError for conditionings that do not fit a stack or an executor that rewrites weights."""
    for entry in (entry for entries in conds for entry in entries or ()):
        count = entry.get(TEXT, (0, adapters))[1]
        if count != adapters:
            raise CompositionError(
                f"The text was encoded for a stack of {count} LoRAs, this one has {adapters}. "
                "Connect the same stack to the text encoder and to the sampler."
            )
        hooks = entry.get("hooks")
        if rewriting and hooks is not None and hooks.get_type(EnumHookType.Weight):
            raise CompositionError(
                "A conditioning carries LoRA hooks (Create Hook LoRA), which rewrite weights, and so does this "
                "composition. Put that LoRA into the stack, or use LoRA Composite with LoRA files of the LoRA family."
            )


def own_texts(conds: Sequence[Entries | None]) -> bool:
    """Whether a text was encoded for each adapter."""
    return any(TEXT in entry for entries in conds for entry in entries or ())


def _text(entry: Mapping[str, Any], branch: Branch) -> int | None:
    """Which adapter a conditioning is meant for, where it says so; else any, hence this branch's."""
    return entry.get(TEXT, (branch.text,))[0]


def _named(branch: Branch) -> str:
    return "all LoRAs together" if branch.text is None else f"LoRA {branch.text + 1} of the stack"
