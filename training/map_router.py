"""Shows which expert serves which region of a picture, see ``python training/map_router.py --help``. Needs ComfyUI."""

import importlib
import runpy
import sys
from pathlib import Path


def _room() -> str:
    """The package that holds the trainer's modules, found as train.py finds it."""
    return __package__ or runpy.run_path(str(Path(__file__).absolute().with_name("train.py")))["room"]()


if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{_room()}.router_map").main())
