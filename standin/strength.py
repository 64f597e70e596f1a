"""The alpha of an element's adapter is set so that λ = 1 is the strength at which the element is there.

What a short training leaves soft, people who publish a LoRA put right by recommending another strength. A testbed
needs one that is the same for all, so the recommendation goes into the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open

from ..mixlora_core.files.hashes import with_hashes
from ..mixlora_core.files.writing import serialise, write_atomically
from .element_oracle import ElementOracle
from .elements import TRIGGERS
from .sampling import Painter, Shot
from .scenes import LANDS, TIMES, Scene

STRENGTHS = (1.0, 1.2, 1.4)
_FIRST_SEED = 100
"""Scenes that nothing else is measured on."""


def set_strength(name: str, trained: Path, output: Path, checkpoint: Path) -> float:
    """Writes a trained adapter to `output` with its alpha times one of STRENGTHS, and returns that.

    Chosen is the gentlest at which the oracle recognises the element in every land at every time; where there is none,
    the one at which it is surest.
    """
    painter = Painter(checkpoint, {name: trained}, trained.parent / "strength")
    places = [(land, time) for land in LANDS for time in TIMES]
    scenes = [Scene(land, time, seed=seed) for seed, (land, time) in enumerate(places, start=_FIRST_SEED)]
    oracle = ElementOracle.load()
    surest: dict[float, float] = {}
    for strength in STRENGTHS:
        shots = [Shot(((name, strength),), f"{scene.caption}, {TRIGGERS[name]}", scene.seed) for scene in scenes]
        seen = oracle.read(painter.paint(shots, f"{name} at {strength}")).shows(name)
        surest[strength] = 1.0 if np.all(seen > 0.5) else float(seen.mean())
        if surest[strength] == 1.0:
            break
    chosen = max(surest, key=lambda one: surest[one])
    scale_alpha(trained, output, chosen)
    return chosen


def scale_alpha(source: Path, target: Path, factor: float) -> None:
    """Writes a LoRA file with every alpha times `factor`, its metadata and hashes with it."""
    with safe_open(source, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        about = dict(file.metadata())
    scaled = {key: value * factor if key.endswith(".alpha") else value for key, value in tensors.items()}
    about["ss_network_alpha"] = str(float(about["ss_network_alpha"]) * factor)
    write_atomically(target, serialise(scaled, with_hashes(scaled, about)))
