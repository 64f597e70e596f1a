"""What pictures and captions were encoded to, kept on disk under everything that the encoding depended on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from .files import digest, raw_bytes, read_copy, serialise, write_atomically
from .settings import TrainingError


@dataclass
class Cache:
    """A folder of small files, one per encoding, named after the SHA-256 of its key.

    Whatever changes a key (an edited picture, another VAE) leads to another file, so nothing in it is ever out of date
    and several runs can share it. Each file holds its key and a checksum; one that is torn or damaged is made anew.
    Nothing is ever deleted here. The files end in .latent or .text: as .safetensors, which they are, ComfyUI would list
    them as LoRAs where the folder lies among these.
    """

    folder: Path
    read: Counter[str] = field(default_factory=Counter)
    """How many encodings of each kind were there."""
    made: Counter[str] = field(default_factory=Counter)
    """How many of each kind had to be made."""
    damaged: list[Path] = field(default_factory=list)
    """Files that could not be used and were made anew."""

    def fetch(self, kind: str, key: Mapping[str, object], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors stored under a key, or those that `make` returns, which are then stored.

        Raises TrainingError where the folder cannot be written to.
        """
        text = json.dumps({"kind": kind, **key}, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.{kind}"
        try:
            found = _load(path, text)
        except FileNotFoundError:
            found = None
        except (OSError, ValueError):
            self.damaged.append(path)
            found = None
        if found is not None:
            self.read[kind] += 1
            return found
        made = make()
        if all(tensor.isfinite().all() for tensor in made.values()):  # what is broken is refused later, and not kept
            self._write(path, serialise(made, {"key": text, "sha256": _checksum(made)}))
        self.made[kind] += 1
        return made

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise TrainingError(f"{path}: cannot write there ({error}). Name another folder with --cache.") from error

    def __str__(self) -> str:
        kinds = sorted(self.read.keys() | self.made.keys())
        counts = ", ".join(f"{kind}s {self.read[kind]} read, {self.made[kind]} made" for kind in kinds)
        text = f"cache {self.folder}: {counts or 'not used'}"
        if self.damaged:
            names = ", ".join(path.name for path in self.damaged)
            text += f"\n{len(self.damaged)} damaged file(s) in the cache were made anew: {names}"
        return text


def fingerprint(module: nn.Module, without: Collection[str] = ()) -> str:
    """SHA-256 of a module's weights, but for some: names, number formats and values."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name in without:
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(raw_bytes(tensor))
    return total.hexdigest()


def _load(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors in a file. Raises FileNotFoundError, and OSError or ValueError where it is not whole or not this."""
    from safetensors import SafetensorError

    try:
        about, tensors = read_copy(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if about.get("key") != key or about.get("sha256") != _checksum(tensors):
        raise ValueError("the contents are not those that were written")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest(*(tensors[name] for name in sorted(tensors)))
