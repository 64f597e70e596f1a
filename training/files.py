"""Hashes of tensors; bytes and atomic writing come from the core, which the nodes share."""

from __future__ import annotations

import hashlib

from torch import Tensor

from ..mixlora_core.files.writing import previous, raw_bytes, serialise, tensor_bytes, write_atomically

__all__ = ["digest", "previous", "raw_bytes", "serialise", "tensor_bytes", "write_atomically"]


def digest(*tensors: Tensor) -> str:
    """SHA-256 of tensors: shapes, formats and elements."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(raw_bytes(tensor))
    return total.hexdigest()
