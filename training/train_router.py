"""Trains a router over finished LoRAs, see ``python training/train_router.py --help``. Needs ComfyUI, no server."""

import importlib
import sys
from pathlib import Path

sys.path[:] = [str(Path(__file__).absolute().parent), *sys.path]  # for the next line; `room` takes it off again
room = importlib.import_module("train").room

if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{room()}.router_cli").main())
