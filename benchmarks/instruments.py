"""`python -m mixlora.benchmarks.instruments`: whether the testbed's own instruments can be trusted.

The oracle against drawn pictures that it has not seen, and every adapter alone against the oracle: a method cannot be
blamed for what an adapter does not paint by itself, or for what the oracle does not see. And pictures broken by far too
much of the adapters, by methods that the oracle was shown and by others: a method must not be praised for those.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..evaluation.methods import method
from ..evaluation.painting import Painter as JobPainter
from ..evaluation.planned import LISTED, Plan, PlannedMethod, spread
from ..evaluation.testbeds import open_testbed
from ..standalone import import_comfy
from ..standin.build import NAME, build_checkpoint
from ..standin.element_oracle import ElementOracle
from ..standin.element_training import (
    HELD_OUT_SEED,
    balanced_accuracy,
    compositions,
)
from ..standin.elements import ELEMENTS
from ..standin.oracle_training import decode
from ..standin.overload import overloaded
from ..standin.quality import CALIBRATION, CHECK, alone, by_damage, falls_with_damage
from ..standin.sampling import Painter
from ..standin.weights import adapter_file, committed_autoencoder
from ..standin.workshop import WORK
from .results import Row, no_arguments, table, write_results

RENDERS, DAMAGED = 500, 100
TOO_MUCH = 3.0
"""λ at which Switch and Composite, too, break every scene."""


def main() -> None:
    """Measures, prints the table, writes the results."""
    no_arguments(__doc__)
    import_comfy()
    oracle = ElementOracle.load()
    rows = [*oracle_rows(oracle), *adapter_rows(oracle), *overload_rows(oracle)]
    print(f"\n{table(rows)}\n\nResults: {write_results('testbed-instruments', rows)}")


def oracle_rows(oracle: ElementOracle) -> list[Row]:
    """The oracle on drawn pictures, as drawn and as the autoencoder gives them back."""
    chosen = compositions(RENDERS, HELD_OUT_SEED)
    rendered = np.stack([one.render() for one in chosen])
    with TemporaryDirectory() as folder:
        again = decode(committed_autoencoder(), rendered, Path(folder) / "decoded.npy")
    rows = []
    for what, pictures in (("held-out renders", rendered), ("held-out renders after the autoencoder", again)):
        accuracy = balanced_accuracy(oracle.read(pictures).recognised, chosen)
        worst = min(accuracy, key=lambda name: accuracy[name])
        rows.append(Row(f"oracle: worst element ({worst}) on {what} (%)", 100 * accuracy[worst], 97))
    falls = falls_with_damage(by_damage(oracle, again[:DAMAGED]))
    rows.append(Row("oracle: how surely quality falls with damage, worst kind (Spearman)", falls, 0.9))
    reading = oracle.read(again)
    rows.append(Row("oracle: quality of held-out renders after the autoencoder", reading.quality.mean()))
    return [*rows, _called("held-out renders after the autoencoder", reading.overloaded, 2, at_most=True)]


def adapter_rows(oracle: ElementOracle) -> list[Row]:
    """Every adapter alone at λ = 1, over all lands and times; and what the oracle reads where no adapter speaks."""
    painter = _painter()
    known = alone(painter, CALIBRATION)  # what quality was calibrated on: good for recognition, not for quality
    fresh = alone(painter, CHECK)
    rows, quality, broken = [], {}, []
    for name, pictures in fresh.items():
        reading = oracle.read(pictures)
        quality[name] = reading.quality.mean()
        broken.append(reading.overloaded)
        if name:
            seen = np.concatenate([reading.shows(name), oracle.read(known[name]).shows(name)])
            rows.append(Row(f"{name} alone: recognised (%)", 100 * (seen > 0.5).mean(), 90))
    plain = oracle.read(fresh[""])
    rows.append(Row("no LoRA: elements read that nobody asked for, a picture", (plain.present > 0.5).sum(1).mean()))
    rows.append(Row("no LoRA: quality", quality.pop("")))
    worst = min(quality, key=lambda name: quality[name])
    rows.append(Row("adapters alone: quality, mean", float(np.mean(list(quality.values())))))
    rows.append(Row(f"adapters alone: quality, worst ({worst})", quality[worst]))
    rows.append(_called("no LoRA and adapters alone", np.concatenate(broken), 2, at_most=True))
    size = sum(file.stat().st_size for file in painter.adapters.values()) / 1e6
    return [*rows, Row("size: all adapters (MB)", size, 15, at_most=True)]


def overload_rows(oracle: ElementOracle) -> list[Row]:
    """Far too much of the adapters: sums of other scenes and stacks than it learned, and methods that it never saw."""
    fresh = overloaded(_painter(), CHECK, singles=1, sums=4)
    rows = [_called(f"adapters alone at λ = 3, and sums at 2 and 3 ({len(fresh)})", oracle.read(fresh).overloaded, 90)]
    testbed = open_testbed("standin", {})
    methods = {kind: PlannedMethod(method(kind, {}, TOO_MUCH)) for kind in ("switch", "composite")}
    plan = Plan(Path("overload"), testbed, methods, spread(testbed.sets, 2), (0,), LISTED, {})
    painter = JobPainter(testbed)
    for kind in methods:
        pictures = np.stack([painter.paint(job)[0] for job in plan.jobs() if job.label == kind])
        what = f"{kind} at λ = {TOO_MUCH:g}, N = 2 to 5 ({len(pictures)})"
        rows.append(_called(what, oracle.read(pictures).overloaded, 90))
    return rows


def _called(what: str, probabilities: np.ndarray, goal: float, at_most: bool = False) -> Row:
    return Row(f"called overloaded: {what} (%)", 100 * (probabilities > 0.5).mean(), goal, at_most)


def _painter() -> Painter:
    files = {name: adapter_file(name) for name in ELEMENTS}
    if missing := [name for name, file in files.items() if not file.is_file()]:
        raise SystemExit(f"No adapter: {', '.join(missing)}. Train them: python -m mixlora.standin.recipe adapters")
    return Painter(build_checkpoint(WORK / NAME), files, WORK / "alone")


if __name__ == "__main__":
    main()
