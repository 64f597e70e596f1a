"""What the oracle's quality number is measured from, and whether it falls with deliberate damage.

Sound is what is drawn and what the model paints with one adapter alone. Drawn pictures are not enough: those of a soft
style lie far from all that is drawn, and no composition can be blamed for that. A composition that is as sound as its
adapters alone reads 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import spearmanr

from .damage import KINDS, damaged
from .element_oracle import ElementOracle
from .elements import TRIGGERS
from .oracle import Network, as_batch
from .overload import fitted
from .sampling import Painter, Shot
from .scenes import LANDS, TIMES, Scene
from .soundness import Quality, texture

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the damage that quality is held against."""

CALIBRATION, CHECK = 200, 0
"""First seeds of scenes: what quality is calibrated on, and what it is read on afterwards."""


def alone(painter: Painter, first_seed: int = CALIBRATION) -> dict[str, np.ndarray]:
    """By element, and by "" for the base: pictures, uint8, of every land at every time by its adapter at λ = 1."""
    places = [(land, time) for land in LANDS for time in TIMES]
    scenes = [Scene(land, time, seed=seed) for seed, (land, time) in enumerate(places, first_seed)]
    shots = {"": [Shot((), scene.caption, scene.seed) for scene in scenes]}
    for name, trigger in TRIGGERS.items():
        shots[name] = [Shot(((name, 1.0),), f"{scene.caption}, {trigger}", scene.seed) for scene in scenes]
    for one in shots.values():
        painter.plan(one)
    return {name: painter.paint(one, f"{name or 'no adapter'} alone") for name, one in shots.items()}


def recalibrate(oracle: ElementOracle, drawn: np.ndarray, painted: np.ndarray, overloaded: np.ndarray) -> ElementOracle:
    """The same oracle with its soundness from drawn, painted and overloaded pictures, uint8.

    Every fourth sound one is held out, and says how far away is still sound.
    """
    held, drawn_held = (np.arange(len(some)) % 4 == 3 for some in (painted, drawn))
    quality = calibrated(oracle.network, np.concatenate([drawn, painted[~held]]), painted[held])
    known, others = np.concatenate([drawn[~drawn_held], painted[~held]]), [drawn[drawn_held], painted[held]]
    return ElementOracle(oracle.network, quality, fitted(oracle.network, known, others, overloaded))


@torch.no_grad()
def calibrated(network: Network, known: np.ndarray, held_out: np.ndarray) -> Quality:
    """The distance from known pictures (uint8), its two ends the median of others and that of their ruins.

    A tenth of the covariance's other entries is taken away: they are known less well than the variances.
    """
    seen = torch.cat([texture(network, part) for part in as_batch(known).split(32)]).double()
    covariance = 0.9 * seen.T.cov() + 0.1 * torch.diag(seen.var(0))
    whitening = torch.linalg.cholesky(torch.linalg.inv(covariance))
    quality = Quality(seen.mean(0).float(), whitening.float(), torch.tensor([0.0, 1.0]))

    def typical(pictures: np.ndarray) -> float:
        return float(torch.cat([quality.strangeness(network, part) for part in as_batch(pictures).split(32)]).median())

    ruins = [typical(damaged(held_out, kind, 1.0)) for kind in KINDS]
    return Quality(quality.mean, quality.whitening, torch.tensor([typical(held_out), float(np.median(ruins))]))


def by_damage(oracle: ElementOracle, sound: np.ndarray) -> dict[str, list[float]]:
    """Kind of damage -> the mean quality of uint8 pictures without it and with it in each of STRENGTHS."""
    whole = float(oracle.read(sound).quality.mean())
    return {
        kind: [whole, *(float(oracle.read(damaged(sound, kind, strength)).quality.mean()) for strength in STRENGTHS)]
        for kind in KINDS
    }


def falls_with_damage(curves: Mapping[str, Sequence[float]]) -> float:
    """The smallest, over the kinds of damage, of -Spearman's correlation of strength and mean quality."""
    found = [spearmanr((0.0, *STRENGTHS), curve) for curve in curves.values()]
    return min(-float(each.statistic) for each in found)  # type: ignore[attr-defined]
