"""Trains a style LoRA, see ``python training/train.py --help``. Needs ComfyUI (COMFYUI_PATH names one), no server."""

import importlib
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).absolute().parent


def room() -> str:
    """The package that holds the trainer's modules, made importable where the pack is not installed."""
    if __package__:
        return __package__
    # Python put this folder first on the path; nobody's `import settings` may find the one that lies here.
    sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != HERE]
    spec = importlib.util.spec_from_file_location("standalone", HERE.parent / "standalone.py")
    assert spec and spec.loader
    standalone = sys.modules["standalone"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standalone)
    return f"{standalone.import_pack().__name__}.{HERE.name}"


if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{room()}.cli").main())
