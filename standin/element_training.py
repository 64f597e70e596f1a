"""How the testbed's oracle is trained, and how often it is right about elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from .element_oracle import WEIGHTS, ElementOracle
from .elements import CATEGORIES, ELEMENTS, WORLDS, depict
from .oracle import new_network
from .oracle_training import decode, fit
from .quality import calibrated
from .scenes import Scene, random_scene
from .soundness import Overload
from .weights import committed_autoencoder
from .workshop import render_all

TRAINING_SEED, REAL_SEED, HELD_OUT_SEED = 6, 7, 1006
_PICTURES, _DECODED, _REAL = 5000, 2000, 768


@dataclass(frozen=True)
class Composition:
    """A scene with elements in it."""

    scene: Scene
    names: tuple[str, ...]

    def render(self) -> np.ndarray:
        """uint8, (SIZE, SIZE, 3)."""
        return depict(self.scene, self.names)


def compositions(count: int, seed: int) -> list[Composition]:
    """Random pictures: a third with one element, most with any number of one world's, some with none."""
    rng = np.random.default_rng(seed)
    return [Composition(random_scene(rng), _some_elements(rng)) for _ in range(count)]


def _some_elements(rng: np.random.Generator) -> tuple[str, ...]:
    if rng.random() < 0.33:
        return (str(rng.choice(list(ELEMENTS))),)
    world, share = rng.choice(WORLDS), rng.choice([0.0, 0.5, 0.7, 1.0], p=[0.1, 0.35, 0.35, 0.2])
    alike = [[e.name for e in ELEMENTS.values() if (e.world, e.category) == (world, kind)] for kind in CATEGORIES]
    return tuple(str(rng.choice(names)) for names in alike if rng.random() < share)


def labels(chosen: Sequence[Composition]) -> Tensor:
    """(n, 22): 1 where an element was drawn."""
    return torch.tensor([[float(name in each.names) for name in ELEMENTS] for each in chosen])


def train_element_oracle(
    work: Path, steps: int = 1800, seed: int = 0, count: int = _PICTURES, path: Path = WEIGHTS
) -> ElementOracle:
    """Trains an oracle on `count` renders and saves it to `path`; a killed run goes on from what lies in `work`."""
    autoencoder = committed_autoencoder()
    chosen = compositions(count, TRAINING_SEED)
    rendered = render_all(chosen, work / "elements-pictures.npy")
    seen = decode(autoencoder, rendered[:_DECODED], work / "elements-decoded.npy")
    asked = labels(chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network(len(ELEMENTS)).train()

    def loss_of(logits: Tensor, rows: Tensor) -> Tensor:
        return 8 * F.binary_cross_entropy_with_logits(logits, asked[rows])

    fit(network, loss_of, rendered, seen, work / "elements.safetensors", steps, seed)
    drawn = real_pictures(work)
    known, held_out = drawn[: 3 * len(drawn) // 4], drawn[3 * len(drawn) // 4 :]
    quality = calibrated(network.eval(), known, held_out)
    oracle = ElementOracle(network, quality, Overload.unknown())  # both until there are adapters
    oracle.save(path)
    return oracle


def real_pictures(work: Path) -> np.ndarray:
    """Drawn pictures after the autoencoder, uint8, that no oracle was trained on."""
    drawn = render_all(compositions(_REAL, REAL_SEED), work / "elements-real.npy")
    return decode(committed_autoencoder(), drawn, work / "elements-real-decoded.npy")


def balanced_accuracy(recognised: np.ndarray, chosen: Sequence[Composition]) -> dict[str, float]:
    """For each element, the mean of how often it is seen where it is and not seen where it is not; in 0..1."""
    there, seen = labels(chosen).numpy() > 0.5, recognised > 0.5
    return {
        name: float((seen[there[:, k], k].mean() + 1 - seen[~there[:, k], k].mean()) / 2)
        for k, name in enumerate(ELEMENTS)
    }
