"""Makes the repository a pack of a ComfyUI, and undoes it (standard library only)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import standalone


def link_pack(custom_nodes: Path) -> str:
    """Makes the repository a pack in the folder `custom_nodes` and returns its folder name there.

    An entry that already is this repository is kept, whatever its name.
    Raises FileExistsError where another copy of the pack is in the way.
    """
    custom_nodes.mkdir(parents=True, exist_ok=True)
    for entry in custom_nodes.iterdir():
        if entry.exists() and entry.samefile(standalone.ROOT):
            return entry.name
    link_folder(custom_nodes / standalone.PACKAGE, standalone.ROOT)
    return standalone.PACKAGE


def unlink_pack(custom_nodes: Path) -> bool:
    """Takes away what `link_pack` made, and only that; whether there was something."""
    link = custom_nodes / standalone.PACKAGE
    try:
        os.readlink(link)  # a folder that is no link is somebody's clone
    except OSError:
        return False
    if sys.platform == "win32" and not link.is_symlink():
        os.rmdir(link)  # removes a junction, not what it leads to
    else:
        link.unlink()
    return True


def link_folder(link: Path, target: Path) -> None:
    """Makes `link` lead to the folder `target`: a symbolic link, or on Windows a junction, which needs no rights.

    Raises FileExistsError where something else than a link is in the way.
    """
    if link.is_symlink():
        link.unlink()  # perhaps to a place that is gone
    elif link.exists():
        if link.samefile(target):
            return
        raise FileExistsError(f"{link} is not a link to {target} but something else: move it away and run again.")
    link.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def foreign_models(models: Path) -> list[Path]:
    """The model files in the folder `models` that are not the stand-in's."""
    kinds = {".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"}
    files = (path for path in models.rglob("*") if path.suffix in kinds)
    return [path for path in files if not path.name.startswith(("standin_", "mixlora_standin"))]
