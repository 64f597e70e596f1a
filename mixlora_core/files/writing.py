"""Safetensors bytes that depend on nothing but their content, and writing that never leaves half a file. Pure torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_FORMAT = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes, equal for equal content.

    The safetensors library writes metadata in the random order of a hash map, so two runs would differ. Tensors are
    ordered by falling element size, then name, which keeps each one aligned.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    chunks, end = [], 0
    for name in names:
        data = raw_bytes(tensors[name])
        start, end = end, end + len(data)
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _FORMAT[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
        chunks.append(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)


def tensor_bytes(file: bytes) -> memoryview:
    """The part of a safetensors file after its header."""
    return memoryview(file)[8 + int.from_bytes(file[:8], "little") :]


def raw_bytes(tensor: Tensor) -> bytes:
    """A tensor's elements as they lie in memory, row by row."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def previous(path: Path) -> Path:
    """Where `write_atomically` keeps the file that it replaces."""
    return path.with_name(path.name + ".previous")


def write_atomically(path: Path, data: bytes, *, keep_previous: bool = False) -> None:
    """Replaces `path` by `data` in one step: a crash, a full disk or a kill leaves the old file or the new one.

    With `keep_previous` the old file stays as `previous(path)`; a kill between the two renames leaves it under that
    name alone. Raises OSError as the operating system does; the old file is then untouched and no temporary file left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            os.replace(path, previous(path))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if os.name == "posix":  # the new name itself must reach the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
