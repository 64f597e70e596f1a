"""The rows of the stand-in's report: what is painted for each, and what the oracle's readings of it say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ..benchmarks.results import Row
from .oracle import HELD_OUT_SEED, MANNERS, WEIGHTS, Oracle, Reading
from .oracle_training import accuracy
from .sampling import Shot, round_trip
from .scenes import OBJECTS, Scene, random_scene
from .styles import STYLES, TRIGGERS
from .weights import BASE, adapter_file
from .workshop import pictures, render_all

PROMPT_SEED = 1002
SWEEP = tuple(k / 8 for k in range(9))


@dataclass(frozen=True)
class Extent:
    """How much is measured; the defaults are what the table of goals asks."""

    prompts: int = 200
    style_prompts: int = 67
    """For each style."""
    sweep_prompts: int = 8
    """For each pair of styles and each of nine steps."""
    renders: int = 500

    def covers(self, other: Extent) -> bool:
        """Whether nothing is measured on less than in `other`."""
        return all(mine >= its for mine, its in zip(astuple(self), astuple(other), strict=True))


def oracle_rows(oracle: Oracle, extent: Extent, work: Path) -> list[Row]:
    """The oracle's own accuracy on renders that nothing was trained on, the five manners in equal shares."""
    shown = pictures(extent.renders, HELD_OUT_SEED, dict.fromkeys(MANNERS, 1.0))
    right = accuracy(oracle.read(render_all(shown, work / "held-out.npy")), shown)
    rows = [Row(f"oracle: {head} on held-out renders (%)", 100 * right[head], 97) for head in ("land", "time", "style")]
    worst = min(OBJECTS, key=lambda thing: right[thing])
    return [*rows, Row("oracle: worst object on held-out renders (%)", 100 * right[worst], 97)]


def autoencoder_rows(vae: Any, oracle: Oracle, extent: Extent, work: Path) -> list[Row]:
    """The autoencoder through ComfyUI's VAE: fidelity on plain scenes, and whether a style outlives a round trip."""
    plain = render_all(pictures(extent.prompts, HELD_OUT_SEED + 2, {"plain": 1.0}), work / "held-out-plain.npy")
    styled = pictures(extent.prompts, HELD_OUT_SEED + 3, dict.fromkeys(STYLES, 1.0))
    seen = oracle.read(round_trip(vae, render_all(styled, work / "held-out-styled.npy")))
    kept = _share(style == picture.style for style, picture in zip(seen.style, styled, strict=True))
    return [
        Row("autoencoder: held-out plain scenes (dB PSNR)", psnr(round_trip(vae, plain), plain), 28),
        Row("autoencoder: style recognised after a round trip (%)", kept, 98),
    ]


def psnr(seen: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures, from the mean squared error over all of them."""
    error = (seen.astype(np.float64) - clean.astype(np.float64)) / 255
    return float(-10 * np.log10(np.mean(error**2)))


def held_out_scenes(count: int) -> list[Scene]:
    """Random scenes that no training set has; a longer list begins like a shorter one."""
    random = np.random.default_rng(PROMPT_SEED)
    return [random_scene(random) for _ in range(count)]


def base_shots(scenes: Sequence[Scene]) -> list[Shot]:
    """A picture of every scene by the base model alone."""
    return [Shot((), scene.caption, seed) for seed, scene in enumerate(scenes)]


def base_rows(seen: Reading, scenes: Sequence[Scene]) -> list[Row]:
    """Whether the base model painted what the captions of the scenes asked for."""
    asked, unasked = [], []
    for scene, found in zip(scenes, seen.objects, strict=True):
        for thing in OBJECTS:
            (asked if thing in scene.objects else unasked).append(thing in found)
    return [
        Row("base: land form right (%)", _share(a == s.land for a, s in zip(seen.land, scenes, strict=True)), 90),
        Row("base: time of day right (%)", _share(a == s.time for a, s in zip(seen.time, scenes, strict=True)), 95),
        Row("base: asked-for object present (%)", _share(asked), 75),
        Row("base: object present that was not asked for (%)", _share(unasked)),
        Row("base: read as plain (%)", _share(style == "plain" for style in seen.style)),
    ]


def style_shots(style: str, scenes: Sequence[Scene], count: int) -> list[Shot]:
    """`count` of the scenes with one adapter at λ = 1; the styles share the scenes out where that gives enough."""
    numbered = list(enumerate(scenes))
    shared = numbered[STYLES.index(style) :: len(STYLES)]
    chosen = shared if shared and count <= len(shared) + 1 else numbered
    return [Shot(((style, 1.0),), f"{scene.caption}, {TRIGGERS[style]}", seed) for seed, scene in chosen[:count]]


def style_rows(style: str, seen: Reading) -> list[Row]:
    """Whether an adapter's pictures are recognised as its style."""
    return [Row(f"{style}: recognised at λ = 1 (%)", _share(name == style for name in seen.style), 90)]


def sweep_shots(a: str, b: str, scenes: Sequence[Scene]) -> list[Shot]:
    """Every scene nine times, λ from (1, 0) to (0, 1), with one noise and one prompt; scene by scene."""
    return [
        Shot(((a, 1 - share), (b, share)), f"{scene.caption}, {TRIGGERS[a]}, {TRIGGERS[b]}", seed)
        for seed, scene in enumerate(scenes)
        for share in SWEEP
    ]


def sweep_curve(a: str, b: str, seen: Reading) -> np.ndarray:
    """The oracle's share of `b` at each of the nine steps, averaged over the scenes."""
    return seen.style_share(a, b).reshape(-1, len(SWEEP)).mean(0)


def sweep_rows(a: str, b: str, curve: np.ndarray) -> list[Row]:
    """Whether the share of `b` follows λ."""
    return [
        Row(f"λ from {a} to {b}: Spearman", spearman(SWEEP, curve), 0.9),
        Row(f"λ from {a} to {b}: smallest rise of the share in a step", float(np.diff(curve).min()), 0.0),
    ]


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    if min(np.ptp(x), np.ptp(y)) == 0:
        return 0.0
    found: Any = spearmanr(x, y)  # scipy's stubs describe an older result
    return float(found.statistic)


def size_rows() -> list[Row]:
    """Sizes of the committed weights that are there, in millions of bytes."""
    adapters = [adapter_file(style) for style in STYLES]
    named = (("UNet and autoencoder", [BASE], 60.0), ("oracle", [WEIGHTS], 5.0), ("three adapters", adapters, None))
    return [
        Row(f"size: {name} (MB)", sum(path.stat().st_size for path in paths) / 1e6, limit, at_most=True)
        for name, paths, limit in named
        if all(path.is_file() for path in paths)
    ]


def _share(answers: Any) -> float:
    right = list(answers)
    return 100 * sum(right) / len(right) if right else float("nan")
