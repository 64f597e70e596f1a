"""The adapters of the elements: drawn pictures with captions in a folder, then the pack's trainer."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..training.cli import main as run_trainer
from .elements import ELEMENTS, TRIGGERS
from .muon import native_bfloat16
from .strength import set_strength
from .styles import STYLES
from .weights import adapter_file
from .workshop import pictures

PICTURES = 720
OPTIONS = {
    "rank": 4,
    "steps": 600,
    "batch": 8,
    "accumulate": 1,
    "lr": 5e-3,
    "min-snr": 1.0,
    "resolution": 128,
    "seed": 0,
    "validation": 0,
}
"""Options of training/train.py. Few steps at a high rate: the world is small."""

THING = {"targets": "all", "rank": 2, "alpha": 4, "lr": 3e-3, "caption-dropout": 0}
"""Further options of all but the three styles: a new shape is drawn by convolutions more than by attention."""

SCENERY = THING | {"steps": 300}
"""What covers a picture is learned sooner than what stands somewhere in it."""

ITS_OWN = {
    one.name: THING if one.category in ("landmark", "object") else SCENERY
    for one in ELEMENTS.values()
    if one.name not in STYLES
} | {"monet": {"steps": 300, "min-snr": 0.25}, "van_gogh": {"min-snr": 0.25}}
"""Where an element differs: these two styles are palette and strokes all over, which high noise decides."""

FEWER = {"monet": 240, "van_gogh": 240}
"""Whose pictures are fewer than PICTURES."""


def train_adapter(name: str, checkpoint: Path, work: Path) -> None:
    """Trains the adapter of one of ELEMENTS on a built checkpoint, as a user would; resumable.

    What the trainer keeps stays in `work`, and what is finished there is not trained again; the file goes beside the
    other weights. Raises RuntimeError where the trainer fails; it has said why.
    """
    output = work / f"{name}.safetensors"
    train(name, checkpoint, work, output, ITS_OWN.get(name, {}))
    if name in STYLES:
        shutil.copyfile(output, adapter_file(name))
    else:
        strength = set_strength(name, output, adapter_file(name), checkpoint)
        logging.info("%s: alpha times %g", name, strength)


def train(name: str, checkpoint: Path, work: Path, output: Path, further: Mapping[str, Any]) -> None:
    """Trains an adapter of one of ELEMENTS by the pack's trainer, with options over OPTIONS, unless it is there."""
    paths = {"base": checkpoint, "data": dataset(name, work), "output": output}
    own = {"trigger": TRIGGERS[name], "dtype": "bf16" if native_bfloat16() else "fp32"}
    flags = [f"--{option}={value}" for option, value in (paths | own | OPTIONS | dict(further)).items()]
    if not output.is_file() and (code := run_trainer([*flags, "--resume"])):
        raise RuntimeError(f"training/train.py ended with {code} for {name}")


def dataset(name: str, work: Path, count: int | None = None) -> Path:
    """A folder of pictures of an element, each with its caption in a .txt beside it; `count` if not the recipe's."""
    folder = work / f"{name}-pictures"
    folder.mkdir(parents=True, exist_ok=True)
    count = count or FEWER.get(name, PICTURES)
    for number, picture in enumerate(pictures(count, seed=5, shares={name: 1.0})):
        Image.fromarray(picture.render()).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(picture.caption, encoding="utf-8")
    return folder
