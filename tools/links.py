"""Makes the repository a pack of a ComfyUI, and undoes it (standard library only)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import standalone


def link_pack(custom_nodes: Path) -> str:
    """Makes the repository a pack in the folder `custom_nodes` and returns its folder name there.

    An entry that already is this repository is kept, whatever its name.
    Raises FileExistsError where another copy of the pack, or a link to one, is in the way.
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
    if link == standalone.ROOT:  # somebody's clone, or the link through which we were called
        return False
    if not (_is_link(link) and _leads_to(link, standalone.ROOT)):
        return False
    _take_away(link)
    return True


def link_folder(link: Path, target: Path, *, ours: bool = False) -> None:
    """Makes `link` lead to the folder `target`: a symbolic link, or on Windows a junction, which needs no rights.

    A dead link is replaced, and one that leads elsewhere where it is `ours`: nobody else would make it.
    Raises FileExistsError where anything else is in the way.
    """
    if _leads_to(link, target):
        return
    if link.exists() and not (ours and _is_link(link)):
        raise FileExistsError(f"{link} is not a link to {target} but something else: move it away and run again.")
    if os.path.lexists(link):
        _take_away(link)
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


def _leads_to(link: Path, target: Path) -> bool:
    return link.exists() and target.exists() and link.samefile(target)


def _is_link(path: Path) -> bool:
    """Whether `path` is a symbolic link or a junction, which `Path.is_symlink` does not count."""
    try:
        os.readlink(path)
    except OSError:
        return False
    return True


def _take_away(link: Path) -> None:
    if sys.platform == "win32" and not link.is_symlink():
        os.rmdir(link)  # removes a junction, also a dead one, not what it leads to
    else:
        link.unlink()
