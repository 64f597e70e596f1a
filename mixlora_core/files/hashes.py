"""The hashes by which others know a LoRA file: computing them, and checking those that a file claims. Pure torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .writing import serialise, tensor_bytes

MODEL, LEGACY, MODELSPEC = "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"


def with_hashes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> dict[str, str]:
    """Adds the hashes to metadata; they depend on the tensors, the legacy one on `ss_*` entries too.

    `sshs_model_hash` is the SHA-256 of all after the header. `sshs_legacy_hash` is how A1111's additional-networks
    extension named a file: the first eight digits of the SHA-256 of bytes 0x100000 to 0x110000, of the file as it would
    be with the `ss_*` entries alone.
    """
    lasting = {key: value for key, value in about.items() if key.startswith("ss_")}
    file = serialise(tensors, lasting)
    whole = hashlib.sha256(tensor_bytes(file)).hexdigest()
    legacy = hashlib.sha256(file[0x100000:0x110000]).hexdigest()[:8]
    return {**about, MODEL: whole, LEGACY: legacy, MODELSPEC: f"0x{whole}", "format": "pt"}


def of_file(path: str | Path) -> tuple[str, str]:
    """SHA-256 of a safetensors file, whole and without its header, as hexadecimal digits. Raises OSError."""
    whole, tensors = hashlib.sha256(), hashlib.sha256()
    with open(path, "rb") as file:
        length = file.read(8)
        head = length + file.read(int.from_bytes(length, "little"))
        whole.update(head)
        while block := file.read(1 << 22):
            whole.update(block)
            tensors.update(block)
    return whole.hexdigest(), tensors.hexdigest()


def check(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], without_header: str) -> dict[str, bool | None]:
    """Which of the hashes in a file's metadata are right; None for one that cannot be computed again.

    `without_header` is the SHA-256 of the file after its header, from `of_file`. The legacy hash counts as unknown
    where the file holds number formats that `serialise` does not write.
    """
    claimed = {key: metadata[key].lower().removeprefix("0x") for key in (MODEL, LEGACY, MODELSPEC) if key in metadata}
    found: dict[str, bool | None] = {}
    for key, value in claimed.items():
        if key != LEGACY:
            found[key] = value == without_header
            continue
        try:
            found[key] = value == with_hashes(tensors, metadata)[LEGACY]
        except KeyError:
            found[key] = None
    return found
