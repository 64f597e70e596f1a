"""Starts ComfyUI with the pack and the stand-in in place: ``python -m mixlora.tools.serve [ComfyUI's options]``."""

from __future__ import annotations

import os
import sys

from .. import standalone
from . import links, processes, standin_files


def main() -> int:
    """Runs ComfyUI's own main.py until Ctrl-C, on the CPU where torch sees no GPU, and returns its exit status."""
    comfyui = standalone.find_comfyui()
    links.link_pack(comfyui / "custom_nodes")
    standin_files.place(comfyui / "models")
    arguments = sys.argv[1:]
    if not standalone.has_gpu() and "--cpu" not in arguments:
        arguments.append("--cpu")
    environment = {**os.environ}
    environment.pop("PYTHONSAFEPATH", None)  # main.py imports its neighbours
    return processes.run([sys.executable, str(comfyui / "main.py"), *arguments], env=environment)


if __name__ == "__main__":
    sys.exit(main())
