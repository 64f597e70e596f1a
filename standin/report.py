"""`python -m mixlora.standin.report`: measures the built stand-in and prints what holds; killed, it goes on.

Every picture is kept in --work, so that a second run paints only what is missing. The table is written to
benchmarks/results when everything was measured as the table asks, otherwise to --work: a quick look overwrites nothing.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..benchmarks.results import FOLDER, Row, table, write_results
from ..standalone import import_comfy
from ..tools.contact_sheet import Cell, contact_sheet
from ..tools.contact_sheet import Row as SheetRow
from .build import NAME, build_checkpoint
from .oracle import HELD_OUT_SEED, MANNERS, WEIGHTS, Oracle, Reading, accuracy
from .sampling import Painter, Settings, Shot, round_trip
from .scenes import OBJECTS, Scene, random_scene
from .styles import STYLES, TRIGGERS
from .weights import BASE, adapter_file
from .workshop import WORK, pictures, render_all

PROMPT_SEED = 1002
SWEEP = tuple(k / 8 for k in range(9))
PARTS = ("oracle", "autoencoder", "base", "styles", "sweeps", "sizes")


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
    """Spearman's rank correlation, equal values sharing their mean rank; 0 where one side is constant."""
    ranks = []
    for values in (np.asarray(x), np.asarray(y)):
        below = (values[:, None] > values).sum(1)
        ranks.append(below + ((values[:, None] == values).sum(1) - 1) / 2)
    if min(rank.std() for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


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


@dataclass(frozen=True, eq=False)
class Report:
    """One measurement of the stand-in: what is measured with what, and where pictures and sheets go."""

    painter: Painter
    oracle: Oracle
    extent: Extent
    work: Path
    sheets: Path

    def measure(self, parts: Sequence[str] = PARTS) -> list[Row]:
        """The rows of the parts asked for, in the table's order. Adapters whose file is missing are passed over."""
        scenes = held_out_scenes(self.extent.prompts)
        base = base_shots(scenes) if "base" in parts else []
        have = [style for style in STYLES if style in self.painter.adapters]
        styles = {style: style_shots(style, scenes, self.extent.style_prompts) for style in have if "styles" in parts}
        swept = scenes[: self.extent.sweep_prompts]
        sweeps = {(a, b): sweep_shots(a, b, swept) for a, b in combinations(have, 2) if "sweeps" in parts}
        self.painter.plan([*base, *(shot for shots in (*styles.values(), *sweeps.values()) for shot in shots)])

        rows = oracle_rows(self.oracle, self.extent, self.work) if "oracle" in parts else []
        if "autoencoder" in parts:
            rows += autoencoder_rows(self.painter.vae, self.oracle, self.extent, self.work)
        if base:
            rows += base_rows(self._see(base, "base"), scenes)
        for style, shots in styles.items():
            rows += style_rows(style, self._see(shots, style))
        for (a, b), shots in sweeps.items():
            curve = sweep_curve(a, b, self._see(shots, f"{a} to {b}", columns=len(SWEEP)))
            print(f"share of {b} from {a} to {b}: {' '.join(f'{share:.3f}' for share in curve)}")
            rows += sweep_rows(a, b, curve)
        return rows + (size_rows() if "sizes" in parts else [])

    def _see(self, shots: Sequence[Shot], title: str, columns: int = 8) -> Reading:
        """Paints the shots, reads them, and writes a contact sheet of the first six rows with what the oracle saw."""
        painted = self.painter.paint(shots, title)
        seen = self.oracle.read(painted)
        read = zip(seen.land, seen.time, seen.style, seen.objects, strict=True)
        cells = [
            Cell(_label(shot, "-> " + ", ".join([land, time, style, *sorted(things)])), Image.fromarray(picture))
            for shot, (land, time, style, things), picture in zip(shots, read, painted, strict=True)
        ][: 6 * columns]
        rows = [SheetRow("", cells[start : start + columns]) for start in range(0, len(cells), columns)]
        if rows:
            self.sheets.mkdir(parents=True, exist_ok=True)
            contact_sheet(title, rows, side=192).save(self.sheets / f"{title.replace(' ', '_')}.png")
        return seen


def _label(shot: Shot, read: str) -> str:
    strengths = ", ".join(f"{name} {strength:.3g}" for name, strength in shot.strengths)
    return "\n".join([*textwrap.wrap(shot.prompt, 26), *filter(None, [strengths]), *textwrap.wrap(read, 26)])


def main() -> int:
    """Measures what the command line asks for, prints the table and writes it; 1 where something does not hold."""
    given = _arguments()
    try:
        report = _report(given)
        rows = report.measure(given.only)
    except FileNotFoundError as error:  # it says which weights, or that there is no ComfyUI, and what to do
        print(error, file=sys.stderr)
        return 1
    as_asked = set(given.only) == set(PARTS) and given.steps == Settings.steps and _extent(given).covers(Extent())
    print(f"\n{table(rows)}\n\nContact sheets: {report.sheets}")
    print(f"Results:        {write_results('standin', rows, FOLDER if as_asked else given.work)}")
    return int(any(row.holds is False for row in rows))


def _report(given: argparse.Namespace) -> Report:
    import_comfy()
    given.work.mkdir(parents=True, exist_ok=True)
    adapters = {style: adapter_file(style) for style in STYLES if adapter_file(style).is_file()}
    if len(adapters) < len(STYLES):
        print(f"Not measured, no adapter: {', '.join(style for style in STYLES if style not in adapters)}")
    checkpoint = given.work / NAME
    if set(given.only) - {"oracle", "sizes"}:
        build_checkpoint(checkpoint)
    settings, say = Settings(given.steps, given.cfg), partial(print, flush=True)
    painter = Painter(checkpoint, adapters, given.work / "pictures", settings, say=say)
    return Report(painter, Oracle.load(given.oracle), _extent(given), given.work, given.sheets or given.work / "sheets")


def _extent(given: argparse.Namespace) -> Extent:
    share = -(-given.prompts // len(STYLES))
    each = given.prompts if given.full else given.adapters_prompts or share
    return Extent(given.prompts, each, given.sweep_prompts, given.renders)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="standin-report", description="Measure the stand-in and print what holds.")
    add, wanted = parser.add_argument, Extent()
    add("--prompts", type=int, default=wanted.prompts, help="prompts for the base model (default: %(default)s)")
    add("--adapters-prompts", type=int, metavar="N", help="prompts for each style (default: a third of --prompts)")
    add("--full", action="store_true", help="all prompts for each style")
    add("--sweep-prompts", type=int, default=wanted.sweep_prompts, help="prompts for a sweep (default: %(default)s)")
    add("--renders", type=int, default=wanted.renders, help="held-out renders for the oracle (default: %(default)s)")
    add("--steps", type=int, default=Settings.steps, help="sampling steps (default: %(default)s)")
    add("--cfg", type=float, default=Settings.cfg, help="guidance (default: %(default)s)")
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}")
    add("--oracle", type=Path, default=WEIGHTS, help="other weights of the oracle")
    add("--work", type=Path, default=WORK / "report", help="where pictures are kept")
    add("--sheets", type=Path, help="where contact sheets go (default: sheets in --work)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
