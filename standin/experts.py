"""Style experts with feed-forward layers, and a router over them: what the MixLoRA block is measured with.

They are trained where they are measured, and not part of the repository.
"""

from __future__ import annotations

from pathlib import Path

from ..training.router_cli import main as run_router_trainer
from .adapters import ITS_OWN, dataset, train
from .muon import native_bfloat16
from .styles import STYLES

EXPERT = {"targets": "attention+ff", "steps": 300}
"""Options of training/train.py over those of the style adapters."""

ROUTER = {"steps": 300, "batch": 8, "accumulate": 1, "lr": 5e-3, "min-snr": 1.0, "resolution": 128, "seed": 0}
"""Options of training/train_router.py."""


def expert_file(name: str, work: Path) -> Path:
    """Where the expert of a style is kept."""
    return work / "experts" / f"{name}.safetensors"


def router_file(work: Path) -> Path:
    """Where the router over all three is kept."""
    return work / "experts" / "router.safetensors"


def train_experts(checkpoint: Path, work: Path) -> None:
    """Trains an expert for each of STYLES, then the router on the union of their pictures; resumable.

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
    flags += ["--data", *(str(dataset(name, work)) for name in STYLES)]
    if code := run_router_trainer(flags):
        raise RuntimeError(f"training/train_router.py ended with {code}")
