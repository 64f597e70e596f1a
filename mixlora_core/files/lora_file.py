"""One LoRA file, read once: safetensors only, complete, and finite, or a clear error. Needs torch, not ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch

from ..errors import TensorError, UnreadableFileError

CACHED_FILES = 8
"""How many files stay in memory. A rank-16 LoRA of SD 1.5 has 13 MB, one of SDXL 50 to 200 MB."""

SAFE_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")

HOW_TO_CONVERT = (
    "Pickled files can run code when opened, so only .safetensors files are read. Convert it once, for example with: "
    'python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], weights_only=True); '
    "s.save_file({k: v.contiguous() for k, v in d.get('state_dict', d).items()}, sys.argv[2])\" "
    "old.ckpt new.safetensors"
)

# How files begin that often lie where a safetensors file should, and what to say about them.
IMPOSTORS = (
    (b"PK\x03\x04", "a PyTorch zip archive with pickled data. " + HOW_TO_CONVERT),
    (b"\x80\x02", "a Python pickle. " + HOW_TO_CONVERT),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`."),
    (b"<", "a web page: the download failed or needed a login. Download the file again."),
    (b"GGUF", "a GGUF file. This pack reads LoRA files in the safetensors format only."),
)


class Identity(NamedTuple):
    """Which content a file had: as long as the three are equal, it is not read again."""

    path: str
    mtime_ns: int
    size: int


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A LoRA file in memory, before it is matched to a model."""

    identity: Identity
    tensors: Mapping[str, torch.Tensor]
    """Tensors by name, on the CPU, in the file's own types; finite if `read` made it. Never write to them: shared."""
    metadata: Mapping[str, str]
    """The header's `__metadata__`; empty where the file has none."""

    @property
    def name(self) -> str:
        """The file's name without its folder, for messages."""
        return Path(self.identity.path).name


def identify(path: str | Path) -> Identity:
    """The identity of the file as it lies on disk now. Raises UnreadableFileError where there is none."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise UnreadableFileError(f"{path}: the LoRA file cannot be opened ({error}).") from error
    return Identity(str(path), status.st_mtime_ns, status.st_size)


def read(path: str | Path) -> LoraFile:
    """The file at `path`, from the cache if its time and size on disk have not changed.

    Raises UnreadableFileError for anything but a complete safetensors file, TensorError for a tensor with NaN or
    infinite values.
    """
    return _read(identify(path))


def inspect(path: str | Path) -> LoraFile:
    """The file at `path` as it is, values that are not finite included; not cached. Raises UnreadableFileError."""
    return _parse(identify(path))


def not_finite(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """How many NaN or infinite values each tensor has, for those that have any."""
    found = {}
    for key, tensor in tensors.items():
        if tensor.is_floating_point():
            # isfinite knows no 8-bit types
            finite = torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor)
            if not finite.all():
                found[key] = int((~finite).sum())
    return found


@lru_cache(maxsize=CACHED_FILES)
def _read(identity: Identity) -> LoraFile:
    file = _parse(identity)
    for key, count in not_finite(file.tensors).items():
        raise TensorError(
            f"{file.name}: tensor {key} has {count} NaN or infinite values of {file.tensors[key].numel()}; expected "
            "finite numbers. The training diverged or the export overflowed: use an earlier checkpoint."
        )
    return file


def _parse(identity: Identity) -> LoraFile:
    path = Path(identity.path)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise UnreadableFileError(f"{path.name} is a pickled checkpoint ({path.suffix}). {HOW_TO_CONVERT}")
    if path.suffix.lower() not in SAFE_SUFFIXES:
        raise UnreadableFileError(f"{path.name}: expected a file ending in .safetensors, found {path.suffix!r}.")
    # Read rather than mapped: a mapped file that a trainer overwrites would change, or crash, under the cache.
    data = path.read_bytes()
    if len(data) != identity.size:
        raise UnreadableFileError(f"{path.name} changed while it was being read. Wait for its writer, then run again.")
    header = _header(path.name, data)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UnreadableFileError(
            f"{path.name}: the safetensors header is there, but the file cannot be read ({error}). "
            "Download or export it again."
        ) from error
    if not tensors:
        raise UnreadableFileError(f"{path.name} holds no tensor. Expected LoRA weights; download or export it again.")
    found = header.get("__metadata__")
    metadata = {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
    return LoraFile(identity, MappingProxyType(tensors), MappingProxyType(metadata))


def _header(name: str, data: bytes) -> dict:
    """The JSON header of safetensors bytes: 8 bytes of length (little endian), the header, then the tensors."""
    if not data:
        raise UnreadableFileError(f"{name} is empty (0 bytes). Download or export it again.")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 9 or data[8:9] != b"{":
        what = next((text for start, text in IMPOSTORS if data.lstrip().startswith(start)), None)
        raise UnreadableFileError(
            f"{name} is {what}"
            if what
            else f"{name} is no safetensors file: expected a JSON header after 8 bytes. "
            "Download or export it again; if it is a renamed .ckpt or .pt file: " + HOW_TO_CONVERT
        )
    if 8 + length > len(data):
        raise UnreadableFileError(_truncated(name, 8 + length, len(data), "at least "))
    try:
        header = json.loads(data[8 : 8 + length])
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise UnreadableFileError(
            f"{name}: the safetensors header is damaged ({error}). Download or export the file again."
        ) from error
    if expected > len(data):
        raise UnreadableFileError(_truncated(name, expected, len(data)))
    return header


def _truncated(name: str, expected: int, found: int, at_least: str = "") -> str:
    return (
        f"{name} is truncated: its header promises {at_least}{expected} bytes, the file has {found}. "
        "Download or copy it again."
    )
