"""Runs the type checker: ``python -m mixlora.tools.typecheck``.

A type checker does not see through an editable install, and ComfyUI is not installed at all. So the folder `.types`
holds links to both, and pyproject.toml names it as a place to import from.
"""

from __future__ import annotations

import sys

from .. import standalone
from . import links, processes

TYPES = standalone.ROOT / ".types"


def main() -> int:
    """Makes the links, then runs the checker over the repository and returns its exit status."""
    links.link_folder(TYPES / standalone.PACKAGE, standalone.ROOT, ours=True)
    links.link_folder(TYPES / "comfyui", standalone.find_comfyui(), ours=True)
    # basedpyright is pyright with its own Node from the package index: nothing else has to be on the machine.
    command = [sys.executable, "-m", "basedpyright", "--project", str(standalone.ROOT), "--pythonpath", sys.executable]
    return processes.run(command, cwd=standalone.ROOT)


if __name__ == "__main__":
    sys.exit(main())
