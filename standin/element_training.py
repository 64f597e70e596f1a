"""How the testbed's oracle is trained, how its quality number is calibrated, and how often both are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from scipy.stats import spearmanr
from torch import Tensor

from .damage import KINDS, damaged
from .element_oracle import WEIGHTS, ElementOracle, Quality, texture
from .elements import CATEGORIES, ELEMENTS, WORLDS, depict
from .oracle import Network, as_batch, new_network
from .oracle_training import decode, fit
from .scenes import Scene, random_scene
from .weights import committed_autoencoder
from .workshop import render_all

TRAINING_SEED, REAL_SEED, HELD_OUT_SEED = 6, 7, 1006
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the damage that quality is held against."""

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
    real = render_all(compositions(_REAL, REAL_SEED), work / "elements-real.npy")
    real = decode(autoencoder, real, work / "elements-real-decoded.npy")
    oracle = ElementOracle(network.eval(), calibrated(network.eval(), real))
    oracle.save(path)
    return oracle


@torch.no_grad()
def calibrated(network: Network, real: np.ndarray) -> Quality:
    """The distance from the first three quarters of real pictures (uint8), its two ends from the rest and its ruins.

    A tenth of the covariance's other entries is taken away: they are known less well than the variances.
    """
    first, second = real[: 3 * len(real) // 4], real[3 * len(real) // 4 :]
    known = torch.cat([texture(network, part) for part in as_batch(first).split(32)]).double()
    covariance = 0.9 * known.T.cov() + 0.1 * torch.diag(known.var(0))
    whitening = torch.linalg.cholesky(torch.linalg.inv(covariance))
    quality = Quality(known.mean(0).float(), whitening.float(), torch.tensor([0.0, 1.0]))

    def typical(seen: np.ndarray) -> float:
        return float(torch.cat([quality.strangeness(network, part) for part in as_batch(seen).split(32)]).median())

    ruins = [typical(damaged(second, kind, 1.0)) for kind in KINDS]
    return Quality(quality.mean, quality.whitening, torch.tensor([typical(second), float(np.median(ruins))]))


def balanced_accuracy(present: np.ndarray, chosen: Sequence[Composition]) -> dict[str, float]:
    """For each element, the mean of how often it is seen where it is and not seen where it is not; in 0..1."""
    there, seen = labels(chosen).numpy() > 0.5, present > 0.5
    return {
        name: float((seen[there[:, k], k].mean() + 1 - seen[~there[:, k], k].mean()) / 2)
        for k, name in enumerate(ELEMENTS)
    }


def quality_by_damage(oracle: ElementOracle, sound: np.ndarray) -> dict[str, list[float]]:
    """Kind of damage -> the mean quality of uint8 pictures without it and with it in each of STRENGTHS."""
    whole = float(oracle.read(sound).quality.mean())
    return {
        kind: [whole, *(float(oracle.read(damaged(sound, kind, strength)).quality.mean()) for strength in STRENGTHS)]
        for kind in KINDS
    }


def falls_with_damage(curves: dict[str, list[float]]) -> float:
    """The smallest, over the kinds of damage, of -Spearman's correlation of strength and mean quality."""
    found = [spearmanr((0.0, *STRENGTHS), curve) for curve in curves.values()]
    return min(-float(each.statistic) for each in found)  # type: ignore[attr-defined]
