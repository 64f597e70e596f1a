"""Whether the trainer's default settings make a style: the stand-in's three, trained again and read by the oracle.

Nothing of the committed weights is touched. Hours on a CPU; killed, it goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

from ..standin.adapters import PICTURES, dataset
from ..standin.build import NAME, build_checkpoint
from ..standin.measures import Extent, held_out_scenes, style_shots
from ..standin.muon import native_bfloat16
from ..standin.oracle import WEIGHTS, Oracle
from ..standin.sampling import Painter
from ..standin.scenes import SIZE
from ..standin.styles import STYLES, TRIGGERS
from ..standin.workshop import WORK
from ..training.cli import main as run_trainer
from .results import Row

FOLDER = WORK / "default-settings"


def style_rows(work: Path = FOLDER, options: tuple[str, ...] = (), extent: Extent | None = None) -> list[Row]:
    """Trains each style with nothing chosen but the pictures' size and the format of the frozen base; reads pictures.

    `options` and a smaller `extent` are for a quick look. Raises RuntimeError where the trainer fails.
    """
    extent = extent or Extent()
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / NAME
    build_checkpoint(checkpoint)
    adapters = {}
    for style in STYLES:
        adapters[style] = output = work / f"{style}.safetensors"
        chosen = {"resolution": SIZE, "dtype": "bf16" if native_bfloat16() else "fp32", "trigger": TRIGGERS[style]}
        files = {"base": checkpoint, "data": dataset(style, work, PICTURES), "output": output}
        flags = [f"--{name}={value}" for name, value in (files | chosen).items()]
        if not output.is_file() and (code := run_trainer([*flags, *options, "--resume"])):
            raise RuntimeError(f"training/train.py ended with {code} for {style}")
    painter, oracle = Painter(checkpoint, adapters, work / "pictures"), Oracle.load(WEIGHTS)
    rows, scenes = [], held_out_scenes(extent.prompts)
    for style in STYLES:
        seen = oracle.read(painter.paint(style_shots(style, scenes, extent.style_prompts), style))
        right = 100 * sum(name == style for name in seen.style) / len(seen.style)
        rows.append(Row(f"{style} with default settings: recognised at λ = 1 (%)", right, 90))
    return rows
