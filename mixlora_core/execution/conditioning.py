"""Branches as ComfyUI's conditionings: whose entries each branch gets, marked as its own and weighed as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy.hooks import EnumHookType

from ..composition import NEGATIVE, POSITIVE, Branch
from ..errors import CompositionError
from ..regions.masks import WHOLE, Regions, Window
from .executor import BranchId, Origin, Speech

TEXT = "mixlora_text"
"""Key of a conditioning that is meant for one adapter only: (index, number of adapters). Index None: for no adapter."""

WORDS = "mixlora_words"
"""Key of where a conditioning's text names each adapter: `words.Positions`."""

Entries = Sequence[Mapping[str, Any]]
"""The conditionings of one prediction, as ComfyUI's `calc_cond_batch` takes them."""


def origins(conds: Sequence[Entries | None], known: Mapping[str, Entries] | None) -> list[Origin]:
    """Where each list of conditionings comes from.

    What a composition around this one has made says it itself. A guider keeps its lists by name, and copies of them
    have the same uuids; what bears no name of its, such as another pack's, counts as POSITIVE. Without a guider
    (`known` is None) the second list is the negative one, as in ComfyUI's `sampling_function`.
    """
    named = [own for name, own in (known or {}).items() if "negative" in name]
    found = []
    for place, entries in enumerate(conds):
        name = entries[0]["uuid"] if entries else None
        negative = place == 1 if known is None else any(_same(entries or (), own) for own in named)
        side = "" if not entries else NEGATIVE if negative else POSITIVE
        found.append(name.origin if isinstance(name, BranchId) else Origin(place, len(conds), side))
    return found


def uuids(entries: Entries | None) -> tuple[Any, ...]:
    """The names of the conditionings of a list, which their copies keep."""
    return tuple(entry["uuid"] for entry in entries or ())


def _same(entries: Entries, own: Entries) -> bool:
    return entries is own or uuids(entries) == uuids(own)


def copies(
    entries: Entries, branches: Sequence[Branch], engine: str, origin: Origin, size: Sequence[int]
) -> list[dict[str, Any]]:
    """The branches' own conditionings as one list, which ComfyUI averages by the branches' weights.

    `origin` is that of the entries, `size` that of the latent: areas are parts of it.
    """
    even = len({branch.weight for branch in branches}) == 1
    copied = []
    for branch in branches:
        own = [entry for entry in entries if _text(entry, branch) == branch.text]
        if entries and not own:
            raise CompositionError(_without_text(branch))
        for entry in own:
            weight = {} if even else {"strength": entry.get("strength", 1.0) * branch.weight}
            name = BranchId(entry["uuid"], engine, _speech(branch, entry, origin.side, size), origin)
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


def by_themselves(entries: Entries) -> bool:
    """Whether each branch needs a list of its own, because ComfyUI does not average what is in one.

    A default conditioning has the share of the picture that the others of its list leave over, all branches' together.
    """
    return any("default" in entry for entry in entries)


def manner(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of its transformer options tells a model call from others for the same text: patches, a window of frames.

    Functions count by name, for some nodes make theirs anew in every call.
    """
    window = getattr(options.get("context_window"), "index_list", None)
    return _names(options.get("patches")), _names(options.get("patches_replace")), _names(window)


def _names(content: Any) -> Any:
    if isinstance(content, Mapping):
        return tuple((str(key), _names(value)) for key, value in content.items())
    if isinstance(content, list | tuple):
        return tuple(map(_names, content))
    return content if isinstance(content, int) else getattr(content, "__qualname__", type(content).__name__)


def _text(entry: Mapping[str, Any], branch: Branch) -> int | None:
    """Which adapter a conditioning is meant for, where it says so; else any, hence this branch's."""
    return entry.get(TEXT, (branch.text,))[0]


def _without_text(branch: Branch) -> str:
    if branch.text is None:
        return (
            "No conditioning is left for the base model or a merge, which are no LoRA's own: the text was encoded for "
            "each LoRA only. Connect all that Encode Text per LoRA gives, or encode the text once for all (CLIP Text "
            "Encode)."
        )
    return (
        f"No conditioning is left for LoRA {branch.text + 1} of the stack: its part of the text encoded for each LoRA "
        "does not reach the sampler. Connect all parts, or encode the text once for all (CLIP Text Encode)."
    )
