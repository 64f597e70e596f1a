"""Puts the stand-in's files where a ComfyUI looks for them, under the names that the example workflows use."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from ..standin.build import NAME as CHECKPOINT
from ..standin.build import build_checkpoint
from ..standin.weights import ROUTER as TRAINED_ROUTER
from ..standin.weights import adapter_files

LORAS = {file.stem: name for name, file in adapter_files().items()}
"""Style -> the name of its file in ComfyUI's `loras` folder."""
ROUTER = "standin_router.safetensors"
"""The router's name there."""


def place(models: Path) -> None:
    """Puts the stand-in's checkpoint, adapters and router into the folder `models`; what is there already stays.

    Files are copied, not linked: what is done to them in a ComfyUI must not reach the repository.
    Raises FileNotFoundError where the trained weights are missing.
    """
    for name, source in {**adapter_files(), ROUTER: TRAINED_ROUTER}.items():
        if not source.is_file():
            raise FileNotFoundError(f"{source}: a file of the stand-in is missing: check it out, or run `make standin`")
        copy(source, models / "loras" / name)
    (models / "checkpoints").mkdir(parents=True, exist_ok=True)
    build_checkpoint(models / "checkpoints" / CHECKPOINT)


def copy(source: Path, target: Path) -> None:
    """Copies a file, unless `target` has the same size and time or the same bytes; `target` appears only when whole."""
    if target.is_file() and filecmp.cmp(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copy2(source, partial)
    partial.replace(target)
