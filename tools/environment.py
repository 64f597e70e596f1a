"""The local environment `.venv`: made, filled and kept up to date (standard library only).

Each stage leaves a stamp when it is done; a stamp holds a hash of what the stage was made from. So an interrupted
set-up is taken up where it broke off, and one that is out of date is redone.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from .. import standalone
from . import comfyui, links, processes

VENV = standalone.ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

RUNTIME = ["torch", "torchvision", "requests"]  # transformers 5 no longer brings `requests`, which ComfyUI imports
# ComfyUI asks for torchaudio too, but its last release does not fit newer versions of torch: importing it fails, and
# with it peft's and diffusers' import. Without it ComfyUI only leaves out its audio nodes.
LEFT_OUT = {"torchaudio"}


def setup(*, development: bool) -> Path:
    """Makes `.venv` and a ComfyUI ready, with the tools for tests where `development`; returns the ComfyUI's folder.

    Two at once would tear down what the other builds: the second waits for the first.
    """
    with processes.alone(standalone.ROOT / ".setup.lock", "Another set-up is running; waiting ..."):
        return _set_up(development)


def _set_up(development: bool) -> Path:
    make_venv()
    folder = comfyui.ensure(PYTHON)
    requirements = without_left_out(folder / "requirements.txt")
    install("runtime", [*RUNTIME, "-r", str(requirements), "-e", str(standalone.ROOT)], made_from=[requirements])
    if development:
        install("development", ["-e", f"{standalone.ROOT}[dev,train,evaluate]"])
    name = links.link_pack(folder / "custom_nodes")
    print(f"ComfyUI {comfyui.version(folder)} at {folder}, the pack is its custom_nodes/{name}", flush=True)
    return folder


def without_left_out(requirements: Path) -> Path:
    """A copy of ComfyUI's requirements in `.venv` without the lines of LEFT_OUT; returns its path."""
    lines = requirements.read_text("utf-8").splitlines()
    kept = [line for line in lines if line.strip() not in LEFT_OUT]
    copy = VENV / "comfyui-requirements.txt"
    copy.write_text("\n".join(kept) + "\n", "utf-8")
    return copy


def make_venv() -> None:
    """Creates `.venv`, again where it does not work; it belongs to the Python that runs this."""
    works = PYTHON.is_file() and subprocess.run([str(PYTHON), "-c", "import pip"], capture_output=True).returncode == 0
    if not works:
        print(f"Creating {VENV} with Python {sys.version.split()[0]} ...", flush=True)
        # As `python -m venv` does: a copied interpreter may miss its libraries, and on Windows not everybody may link.
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=os.name != "nt").create(VENV)


def install(stage: str, arguments: Sequence[str], made_from: Sequence[Path] = ()) -> None:
    """Runs ``pip install`` in `.venv`, unless the stamp of `stage` says that just this was done."""
    stamp = VENV / f"mixlora-{stage}.stamp"
    inputs = [standalone.ROOT / "pyproject.toml", *made_from]
    state = hashlib.sha256("\n".join([*arguments, *(file.read_text("utf-8") for file in inputs)]).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == state:
        return
    print(f"Installing the {stage} packages into {VENV} (once, some minutes) ...", flush=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *arguments], check=True)
    stamp.write_text(state)
