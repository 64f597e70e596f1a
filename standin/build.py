"""`python -m mixlora.standin.build CHECKPOINT`: the stand-in's checkpoint from the committed weights, in seconds."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .weights import BASE, save_checkpoint

NAME = "mixlora_standin.safetensors"
"""The checkpoint's name among ComfyUI's checkpoints."""


def build_checkpoint(path: Path) -> Path:
    """Writes the checkpoint to `path` unless it is there already, made from these very weights; returns `path`.

    Raises FileNotFoundError where the repository lacks its weights.
    """
    if not BASE.exists():
        raise FileNotFoundError(f"{BASE} is missing: check it out, or train it with `make standin` (hours on a CPU).")
    digest = hashlib.sha256(BASE.read_bytes()).hexdigest()
    if _made_from(path) != digest:
        save_checkpoint(path, source=digest)
    return path


def _made_from(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("mixlora.source")
    except (OSError, SafetensorError):
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help=f"where to write it, for instance ComfyUI/models/checkpoints/{NAME}")
    print(build_checkpoint(parser.parse_args().path))
