"""A learned mix as a small file: one coefficient for each adapter and group of layers, and for whom they are.

Coefficients belong to the very adapters that they were fitted to, which are known by the hash of their tensors. The
file names them, the base's family, how layers are grouped, and how it was learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LearnedMixError
from ..files import hashes
from ..files.lora_file import Identity, LoraFile
from ..files.writing import serialise, write_atomically
from ..stack import StyleStack
from . import blocks

FORMAT = "mixlora-learned-mix-1"
_COEFFICIENTS = "coefficients"
_FAMILIES = {"SD15": "sd1", "SDXL": "sdxl"}
"""ComfyUI's class of a model's configuration -> the family's name here and in the trainer."""


class Named(NamedTuple):
    """An adapter that coefficients are for."""

    name: str
    """The file's name when it was fitted; only for messages."""
    sha256: str
    """Of its tensors, as hexadecimal digits: the file without its header."""


@dataclass(frozen=True, eq=False)
class LearnedMix:
    """Coefficients (N adapters, G groups), multiples of each adapter's strength in the stack.

    Raises LearnedMixError for shapes that do not fit together, numbers that are not finite, an adapter named twice.
    """

    coefficients: Tensor
    adapters: tuple[Named, ...]
    groups: tuple[str, ...]
    grouping: str = blocks.BLOCK
    """One of `blocks.GROUPINGS`."""
    family: str = "sd1"
    """Of the base: "sd1", "sdxl"."""
    about: Mapping[str, str] = field(default_factory=dict)
    """How it was learned, for people."""

    def __post_init__(self) -> None:
        shape, expected = tuple(self.coefficients.shape), (len(self.adapters), len(self.groups))
        if shape != expected or 0 in shape:
            raise LearnedMixError(f"A learned mix has the shape {shape}; expected {expected} (adapters, groups).")
        if not torch.isfinite(self.coefficients).all():
            raise LearnedMixError("A learned mix has coefficients that are not finite: its fitting diverged.")
        if len({one.sha256 for one in self.adapters}) != len(self.adapters):
            raise LearnedMixError("A learned mix names the same adapter twice; each may be there once.")
        if self.grouping not in blocks.GROUPINGS:
            raise LearnedMixError(f"A learned mix groups layers by {self.grouping!r}; this version does not know how.")

    def write(self, path: Path | str) -> None:
        """Writes a safetensors file of a few kB, atomically; equal mixes give equal bytes. Raises OSError."""
        about = {
            **self.about,
            "format": FORMAT,
            "adapters": json.dumps([one._asdict() for one in self.adapters]),
            "groups": json.dumps(list(self.groups)),
            "grouping": self.grouping,
            "family": self.family,
        }
        write_atomically(Path(path), serialise({_COEFFICIENTS: self.coefficients.detach().float()}, about))

    def rows_for(self, stack: StyleStack) -> list[int]:
        """For each entry of the stack, in any order, its row. Raises LearnedMixError for other adapters than these."""
        row = {one.sha256: index for index, one in enumerate(self.adapters)}
        found = [tensor_hash(entry.file) for entry in stack.entries]
        strange = [entry.lora_name for entry, sha in zip(stack.entries, found, strict=True) if sha not in row]
        missing = [one.name for one in self.adapters if one.sha256 not in found]
        if strange or missing or len(set(found)) != len(found):
            problems = [
                *(f"{name} is in the stack, but the mix was not fitted to it" for name in strange),
                *(f"{name} is missing in the stack" for name in missing),
                *(f"{name} stands in the stack more than once" for name in stack.repeated),
            ]
            named = ", ".join(f"{one.name} ({one.sha256[:10]})" for one in self.adapters)
            raise LearnedMixError(
                f"This learned mix is for {named}: {'; '.join(problems)}. Stack exactly these files, in any order, or "
                "fit a mix to the others. A file that was trained or saved again counts as another."
            )
        return [row[sha] for sha in found]

    def strengths(self, row: int, keys: Sequence[Any], strength: float) -> dict[Any, float]:
        """For each key of a patch the coefficient of its group times `strength`. Raises LearnedMixError.

        Every group that the adapter touches must be there, or this model is not the base that the mix is for.
        """
        column = {name: index for index, name in enumerate(self.groups)}
        group_of = blocks.grouping(self.grouping)
        if unknown := blocks.in_order({group_of(key) for key in keys}.difference(column)):
            raise LearnedMixError(
                f"{self.adapters[row].name} touches {', '.join(unknown)} of the connected model, for which the learned "
                f"mix has no coefficient; it has {', '.join(self.groups)}. It was fitted on another base "
                f"({self.family}): use a model of that kind, or fit again."
            )
        values = self.coefficients[row].tolist()
        return {key: values[column[group_of(key)]] * strength for key in keys}


def read(path: Path | str) -> LearnedMix:
    """The mix in a file. Raises LearnedMixError for a file that is none, or that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata() or {})
            names = list(file.keys())
            found = file.get_tensor(_COEFFICIENTS) if _COEFFICIENTS in names else None
    except (SafetensorError, OSError) as error:
        raise LearnedMixError(f"{path}: cannot be read as a learned mix ({error}).") from error
    kind = about.pop("format", None)
    if kind != FORMAT or found is None:
        raise LearnedMixError(
            f"{path}: no learned mix: expected a safetensors file of the format {FORMAT} with a tensor "
            f"{_COEFFICIENTS}, found {kind or 'no format'} with {', '.join(names[:2])}. training/learn_mix.py writes "
            "one; a LoRA file belongs into the stack."
        )
    try:
        adapters = tuple(Named(str(one["name"]), str(one["sha256"])) for one in json.loads(about.pop("adapters")))
        groups = tuple(map(str, json.loads(about.pop("groups"))))
        return LearnedMix(found.float(), adapters, groups, about.pop("grouping"), about.pop("family"), about)
    except (KeyError, TypeError, ValueError) as error:  # LearnedMixError is a ValueError
        raise LearnedMixError(f"{path}: a damaged learned mix ({error}). Write it again.") from error


def applied(model: Any, stack: StyleStack, mix: LearnedMix) -> Any:
    """A clone of a MODEL with the stack's adapters in its weights, each at the learned coefficient of each layer.

    ComfyUI's own patches: all families of LoRA files, and no cost beyond theirs. The text encoders' halves are not
    learned and not touched. Raises LearnedMixError for other adapters or another base, AdapterError for files that do
    not fit.
    """
    from .. import execution
    from ..compose import matched

    rows = mix.rows_for(stack)
    kind = _family(model)
    if kind != mix.family:
        raise LearnedMixError(f"This learned mix is for a base of the family {mix.family}, the model is {kind}.")
    sets = []
    for entry, row in zip(stack.entries, rows, strict=True):
        patches = matched(model, entry.file).model_patches
        sets.append((patches, mix.strengths(row, list(patches), entry.strength_model)))
    return execution.patched(model, sets)


def _family(model: Any) -> str:
    """The family of a MODEL's base, or what ComfyUI calls it."""
    names = [one.__name__ for one in type(model.model.model_config).__mro__]
    return next((_FAMILIES[name] for name in names if name in _FAMILIES), names[0])


def tensor_hash(file: LoraFile) -> str:
    """SHA-256 of a LoRA file's tensors, as `Named` has it: metadata may change, the adapter stays the same.

    Raises LearnedMixError where the file is gone.
    """
    return _hash(file.identity)


@lru_cache(maxsize=256)
def _hash(identity: Identity) -> str:
    try:
        return hashes.of_file(identity.path)[1]
    except OSError as error:
        raise LearnedMixError(f"{identity.path}: cannot be read ({error}).") from error
