"""`python -m mixlora.standin.report`: measures the built stand-in and prints what holds; killed, it goes on.

Every picture is kept in --work, so that a second run paints only what is missing. The table is written to
benchmarks/results when everything was measured as the table asks, otherwise to --work: a quick look overwrites nothing.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from PIL import Image

from ..benchmarks.results import FOLDER, Row, table, write_results
from ..mixlora_core.contact_sheet import Cell, contact_sheet
from ..mixlora_core.contact_sheet import Row as SheetRow
from ..standalone import import_comfy
from . import measures
from .build import NAME, build_checkpoint
from .measures import SWEEP, Extent
from .oracle import WEIGHTS, Oracle, Reading
from .sampling import Painter, Settings, Shot
from .styles import STYLES
from .weights import adapter_file
from .workshop import WORK

PARTS = ("oracle", "autoencoder", "base", "styles", "sweeps", "sizes")


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
        scenes = measures.held_out_scenes(self.extent.prompts)
        base = measures.base_shots(scenes) if "base" in parts else []
        have = [style for style in STYLES if style in self.painter.adapters]
        styles = {
            style: measures.style_shots(style, scenes, self.extent.style_prompts) for style in have if "styles" in parts
        }
        swept = scenes[: self.extent.sweep_prompts]
        sweeps = {(a, b): measures.sweep_shots(a, b, swept) for a, b in combinations(have, 2) if "sweeps" in parts}
        self.painter.plan([*base, *(shot for shots in (*styles.values(), *sweeps.values()) for shot in shots)])

        rows = measures.oracle_rows(self.oracle, self.extent, self.work) if "oracle" in parts else []
        if "autoencoder" in parts:
            rows += measures.autoencoder_rows(self.painter.vae, self.oracle, self.extent, self.work)
        if base:
            rows += measures.base_rows(self._see(base, "base"), scenes)
        for style, shots in styles.items():
            rows += measures.style_rows(style, self._see(shots, style))
        for (a, b), shots in sweeps.items():
            curve = measures.sweep_curve(a, b, self._see(shots, f"{a} to {b}", columns=len(SWEEP)))
            print(f"share of {b} from {a} to {b}: {' '.join(f'{share:.3f}' for share in curve)}")
            rows += measures.sweep_rows(a, b, curve)
        return rows + (measures.size_rows() if "sizes" in parts else [])

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
