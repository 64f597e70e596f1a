"""What the oracle learns overloaded pictures from: single adapters at three times their strength, and strong sums.

Switch and Composite are not among them, so that what it says about their pictures is no memory of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, product

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from .elements import CATEGORIES, ELEMENTS, TRIGGERS, WORLDS
from .oracle import Network, as_batch
from .sampling import Painter, Shot
from .scenes import LANDS, TIMES, Scene
from .soundness import Overload, textures

SUMS = ((3, 2.0), (4, 2.0), (5, 2.0), (2, 3.0), (3, 3.0), (4, 3.0), (5, 3.0))
"""Number of adapters in a sum, and the λ of each: by the eye, all scenes are lost there."""

FALSE_ALARMS = 0.01
"""Of sound pictures."""

_DECAY = 3e-3


def overloaded(painter: Painter, first_seed: int, singles: int, sums: int) -> np.ndarray:
    """Pictures, uint8: every adapter alone at λ = 3 in `singles` scenes, and `sums` of each kind of SUMS."""
    rng = np.random.default_rng(first_seed)
    stacks: list[tuple[str, ...]] = [(name,) for name in ELEMENTS for _ in range(singles)]
    strengths = [3.0] * len(stacks)
    for (size, strength), _ in product(SUMS, range(sums)):
        stacks.append(_some(rng, size))
        strengths.append(strength)
    places = cycle((land, time) for land in LANDS for time in TIMES)
    shots = []
    for seed, (names, strength, (land, time)) in enumerate(zip(stacks, strengths, places, strict=False), first_seed):
        prompt = ", ".join([Scene(land, time, seed=seed).caption, *(TRIGGERS[name] for name in names)])
        shots.append(Shot(tuple((name, strength) for name in names), prompt, seed))
    return painter.paint(shots, "overloaded")


def _some(rng: np.random.Generator, size: int) -> tuple[str, ...]:
    """Elements of one world and of as many categories."""
    world, kinds = rng.choice(WORLDS), set(rng.choice(CATEGORIES, size, replace=False))
    alike = [[e.name for e in ELEMENTS.values() if (e.world, e.category) == (world, kind)] for kind in CATEGORIES]
    return tuple(str(rng.choice(names)) for kind, names in zip(CATEGORIES, alike, strict=True) if kind in kinds)


def fitted(network: Network, sound: np.ndarray, held_out: Sequence[np.ndarray], broken: np.ndarray) -> Overload:
    """A logistic regression on uint8 pictures, both classes of equal weight, features standardised, L2 of 3e-3.

    The broken ones are far from the border, so the border is drawn by what must not be called broken: of each kind of
    other sound pictures, `held_out`, at most one in a hundred is beyond it.
    """
    seen = [_features(network, some) for some in (sound, broken)]
    features, asked = np.concatenate(seen), np.repeat([0.0, 1.0], [len(one) for one in seen])
    weight = np.where(asked > 0, 0.5 / len(seen[1]), 0.5 / len(seen[0]))
    mean, scale = features.mean(0), features.std(0) + 1e-3
    standard = (features - mean) / scale

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        logits = standard @ free[:-1] + free[-1]
        value = weight @ (np.logaddexp(0, logits) - asked * logits) + _DECAY * free[:-1] @ free[:-1]
        slope = weight * (expit(logits) - asked)
        return value, np.append(standard.T @ slope + 2 * _DECAY * free[:-1], slope.sum())

    weights = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x[:-1] / scale
    border = max(np.quantile(_features(network, some) @ weights, 1 - FALSE_ALARMS) for some in held_out)
    return Overload(torch.tensor(weights).float(), torch.tensor([-border]).float())


@torch.no_grad()
def _features(network: Network, pictures: np.ndarray) -> np.ndarray:
    return torch.cat([textures(network, part) for part in as_batch(pictures).split(64)]).double().numpy()
