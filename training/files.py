"""Hashes of tensors, files that are read to be replaced; bytes and atomic writing come from the core, as for nodes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from ..mixlora_core.files.writing import previous, raw_bytes, serialise, tensor_bytes, write_atomically

__all__ = ["digest", "previous", "raw_bytes", "read_copy", "serialise", "tensor_bytes", "write_atomically"]


def digest(*tensors: Tensor) -> str:
    """SHA-256 of tensors: shapes, formats and elements."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(raw_bytes(tensor))
    return total.hexdigest()


def read_copy(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; raises SafetensorError, OSError where it is none.

    As copies: the library's tensors are the file itself, mapped, and Windows neither replaces nor deletes such a file.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        return file.metadata() or {}, tensors
