"""Style experts of feed-forward layers, and a router over them: what the MixLoRA block is measured with.

The router sees the experts' own pictures, and as many with two styles, one above the other. They are trained where they
are measured, and not part of the repository.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..training.router_cli import main as run_router_trainer
from .adapters import ITS_OWN, dataset, train
from .elements import TRIGGERS, depict
from .muon import native_bfloat16
from .scenes import SIZE, random_scene
from .styles import STYLES

EXPERT = {"targets": "ff", "rank": 8, "steps": 400}
"""Options of training/train.py over those of the style adapters: what the router cannot steer is left to the base."""

ROUTER = {"steps": 500, "batch": 8, "accumulate": 1, "lr": 5e-3, "min-snr": 1.0, "resolution": 128, "seed": 0}
"""Options of training/train_router.py."""

PAIRS, BORDER = 1200, (0.35, 0.65)
"""How many pictures have two styles, and where from above one gives way to the other."""


def expert_file(name: str, work: Path) -> Path:
    """Where the expert of a style is kept."""
    return work / "experts" / f"{name}.safetensors"


def router_file(work: Path) -> Path:
    """Where the router over all three is kept."""
    return work / "experts" / "router.safetensors"


def train_experts(checkpoint: Path, work: Path) -> None:
    """Trains an expert for each of STYLES, then the router on the union of their pictures and on pairs; resumable.

    Raises RuntimeError where a trainer fails; it has said why.
    """
    for name in STYLES:
        expert_file(name, work).parent.mkdir(parents=True, exist_ok=True)
        train(name, checkpoint, work, expert_file(name, work), ITS_OWN.get(name, {}) | EXPERT)
    if router_file(work).is_file():
        return
    options = ROUTER | {"dtype": "bf16" if native_bfloat16() else "fp32"}
    flags = [f"--base={checkpoint}", f"--output={router_file(work)}", "--resume"]
    flags += [f"--{name}={value}" for name, value in options.items()]
    flags += ["--experts", *(str(expert_file(name, work)) for name in STYLES)]
    flags += ["--data", *(str(dataset(name, work)) for name in STYLES), str(pairs(work))]
    if code := run_router_trainer(flags):
        raise RuntimeError(f"training/train_router.py ended with {code}")


def pairs(work: Path) -> Path:
    """A folder of pictures in two styles with their captions: the style that is named first is above."""
    folder, random = work / "pairs-pictures", np.random.default_rng(17)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PAIRS):
        scene, (above, below) = random_scene(random), random.choice(list(STYLES), 2, replace=False)
        picture, border = depict(scene, (below,)), round(SIZE * random.uniform(*BORDER))
        picture[:border] = depict(scene, (above,))[:border]
        Image.fromarray(picture).save(folder / f"{number:04}.png")
        caption = f"{scene.caption}, {TRIGGERS[above]}, {TRIGGERS[below]}"
        (folder / f"{number:04}.txt").write_text(caption, encoding="utf-8")
    return folder
