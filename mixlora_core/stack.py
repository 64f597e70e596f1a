"""Ordered LoRA files with their strengths: the pack's own STYLE_STACK, and the community's LORA_STACK in and out.

LORA_STACK is a list of rows (lora_name, strength_model, strength_clip). In the wild the rows are tuples or lists,
names have either slash, and unused rows say "None" or have both strengths 0; all of that is read, tuples are written.
A row with both strengths 0 keeps its place, so that the numbers of the others are those that a user counts.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from .errors import CompositionError, LoraNameError, StrengthError
from .files import lora_file
from .files.lora_file import LoraFile
from .files.metadata import guessed_words, trigger_words

Row = tuple[str, float, float]

CONCEPT, STYLE = "concept", "style"
ROLES = ("", CONCEPT, STYLE)
"""What a file is for: what is shown, how it is painted, or ("") not said. Only methods that ask for it look at it."""


@dataclass(frozen=True, eq=False)
class StackEntry:
    """One file of a stack and how strongly it speaks to the UNet and to the text encoders."""

    lora_name: str
    """The name as ComfyUI lists it, relative to the `loras` folder it lies in."""
    file: LoraFile
    strength_model: float
    strength_clip: float
    role: str = ""
    """One of ROLES; anything else raises CompositionError."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise CompositionError(
                f"{self.lora_name}: its role is {self.role!r}; expected {CONCEPT!r}, {STYLE!r} or '' for neither."
            )

    @property
    def words(self) -> tuple[str, ...]:
        """The file's trigger words, as far as they are recorded."""
        return trigger_words(self.file.metadata)

    @property
    def row(self) -> Row:
        """The entry as a row of a LORA_STACK."""
        return (self.lora_name, self.strength_model, self.strength_clip)


@dataclass(frozen=True, eq=False)
class StyleStack:
    """Adapters in the order in which they are applied. Never changed: `plus` gives a longer one."""

    entries: tuple[StackEntry, ...] = ()
    silent: tuple[tuple[int, Row], ...] = ()
    """Rows with both strengths 0, each with its number: they do nothing, but the others keep theirs."""

    @classmethod
    def of(cls, entries: Iterable[StackEntry]) -> StyleStack:
        """A stack of these in which those with both strengths 0 are silent."""
        numbered = list(enumerate(entries, start=1))
        silent = tuple((number, entry.row) for number, entry in numbered if says_nothing(entry.row))
        return cls(tuple(entry for _, entry in numbered if not says_nothing(entry.row)), silent)

    def plus(self, rows: Iterable[Row]) -> StyleStack:
        """A stack with the rows' files after these. Raises AdapterError for a name or file that is no good."""
        return StyleStack(self.entries + tuple(open_row(row) for row in rows), self.silent)

    def continued(self, rows: Iterable[Row]) -> StyleStack:
        """As `plus`, but a row with both strengths 0 only takes a number; its file is not looked for."""
        stack = self
        for row in rows:
            muted = StyleStack(stack.entries, (*stack.silent, (stack.size + 1, row)))
            stack = muted if says_nothing(row) else stack.plus([row])
        return stack

    @property
    def size(self) -> int:
        """How many rows it has, with those that are silent."""
        return len(self.entries) + len(self.silent)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The number of each entry in the stack as a user counts it, from 1."""
        silent = {number for number, _ in self.silent}
        return tuple(number for number in range(1, self.size + 1) if number not in silent)

    @property
    def rows(self) -> list[Row]:
        """The whole stack as a LORA_STACK."""
        own = zip(self.numbers, (entry.row for entry in self.entries), strict=True)
        return [row for _, row in sorted([*own, *self.silent])]

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The trigger words of all files in order, or what they may be, each once."""
        told = (entry.words or guessed_words(entry.file.metadata) for entry in self.entries)
        return tuple(dict.fromkeys(word for words in told for word in words))

    @property
    def repeated(self) -> tuple[str, ...]:
        """Names that stand in the stack more than once; they are applied that often, as chained loaders would."""
        names = [entry.lora_name for entry in self.entries]
        return tuple(name for name in dict.fromkeys(names) if names.count(name) > 1)


def gather(stack: StyleStack | None, lora_stack: Sequence[Any] | None) -> StyleStack:
    """One stack of both inputs of a node, either of which may be missing: `stack` first."""
    return (stack or StyleStack()).continued(parse_rows(lora_stack or ()))


def parse_rows(rows: Sequence[Any]) -> list[Row]:
    """The rows of a LORA_STACK that name a file. Raises StrengthError, with the row's number, for a malformed one."""
    parsed = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, (tuple, list)) or len(row) != 3:
            raise StrengthError(
                f"Row {number} of the LORA_STACK is {row!r}; expected (lora_name, strength_model, strength_clip)."
            )
        name, strength_model, strength_clip = row
        if name in (None, "", "None"):
            continue
        if not isinstance(name, str):
            raise LoraNameError(f"Row {number} of the LORA_STACK has the name {name!r}; expected a file name.")
        parsed.append(
            (name, finite(strength_model, name, "strength_model"), finite(strength_clip, name, "strength_clip"))
        )
    return parsed


def says_nothing(row: Row) -> bool:
    """Whether both strengths are 0."""
    return row[1:] == (0.0, 0.0)


def open_row(row: Row) -> StackEntry:
    """The entry for a row: its file is resolved and read. Raises AdapterError."""
    name, path = resolve(row[0])
    return StackEntry(name, lora_file.read(path), *row[1:])


def finite(value: Any, lora_name: str, what: str) -> float:
    """`value` as a float. Raises StrengthError for NaN, infinity, and what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise StrengthError(f"{lora_name}: {what} is {value!r}; expected a finite number, such as 1.0.")
    return number


def relative_parts(lora_name: str) -> tuple[str, ...]:
    """The folders and the file of a name inside a `loras` folder. Raises LoraNameError for a name that leaves it."""
    path = PureWindowsPath(lora_name)  # knows both slashes, drive letters and network shares
    if not path.parts or path.anchor or ".." in path.parts or "\0" in lora_name:
        raise LoraNameError(
            f"{lora_name!r} leaves ComfyUI's loras folders; expected a name relative to one of them, such as "
            "'styles/monet.safetensors'. Move or link the file there."
        )
    return path.parts


def fingerprint(lora_name: str | None) -> lora_file.Identity | list[lora_file.Identity]:
    """What ComfyUI compares to tell whether a node must run again: the file as it lies on disk now.

    None is a name that another node gives, which nobody knows before the run: then every file of the folders counts.
    Raises LoraNameError where there is no such file.
    """
    if lora_name is not None:
        return lora_file.identify(resolve(lora_name)[1])
    import folder_paths

    paths = (folder_paths.get_full_path("loras", name) for name in folder_paths.get_filename_list("loras"))
    return [lora_file.identify(path) for path in paths if path is not None]


def resolve(lora_name: str) -> tuple[str, str]:
    """The name as ComfyUI lists it, and the file's path. Raises LoraNameError where its folders have no such file."""
    import folder_paths  # ComfyUI's; imported late, so that rows can be parsed and tested without it

    name = os.path.join(*relative_parts(lora_name))
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        near = difflib.get_close_matches(name, folder_paths.get_filename_list("loras"), n=1)
        raise LoraNameError(
            f"{lora_name!r} is not in ComfyUI's loras folders ({', '.join(folder_paths.get_folder_paths('loras'))})."
            + (f" Did you mean {near[0]!r}?" if near else " Put the file there and refresh.")
        )
    return name, path
