"""`python -m mixlora.benchmarks.router`: the MixLoRA block against linear mixes, on prompts with two styles.

Trains the experts and the router first where they are missing (half an hour on two cores). Each picture asks for two
styles; read is how much of it is surely in one and how much in the other (`standin.region_styles`), and whether it is
overloaded. A linear mix is everywhere in between, a router may give each style a region of its own.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluation import statistics
from ..evaluation.jobs import ElementSet, Job, Method
from ..evaluation.methods import method
from ..evaluation.painting import Painter
from ..evaluation.testbeds import StandinTestbed, digests, draw
from ..standalone import import_comfy
from ..standin.build import NAME, build_checkpoint
from ..standin.element_oracle import ElementOracle
from ..standin.experts import expert_file, router_file, train_experts
from ..standin.oracle_training import decode
from ..standin.region_styles import KINDS, StyleReader, both
from ..standin.scenes import LANDS, TIMES, Scene
from ..standin.styles import STYLES
from ..standin.weights import committed_autoencoder
from ..standin.workshop import WORK, atomic, pictures
from .results import Row, no_arguments, table, write_results

LAMBDAS = (0.7, 0.85, 1.0)
"""Of the linear mixes of two; at 0.5 next to nothing of a style is seen, at 1 the first pictures are overloaded."""
ROUTED = (1.0, 1.5)
"""λ of a router's experts: its coefficients sum to 1 for a token, those of a linear mix to 2 λ; 2 is too much."""
TIMED = 6
"""Pictures whose time is taken; the first one warms up."""
EXAMPLES, HELD_OUT, EXAMPLE_SEED = 150, 50, 31
"""Drawn pictures of each style that the reader learns from, and that it is tried on."""


class ExpertTestbed(StandinTestbed):
    """The stand-in's testbed with the styles' experts as adapters."""

    def adapter(self, element: str) -> Path:
        """The expert of a style."""
        return expert_file(element, WORK)


def main() -> None:
    """Measures, prints the table, writes the results and a sheet of the pictures beside the experts."""
    no_arguments(__doc__)
    import_comfy()
    train_experts(build_checkpoint(WORK / NAME), WORK)
    oracle = ElementOracle.load()
    reader, right = style_reader(oracle)
    rows = [Row("reader: tiles of drawn pictures in the right style, worst style (%)", 100 * right)]
    methods = {
        **{
            f"router, {words} a token, λ = {one:g}": method("router", {"file": str(router_file(WORK)), "k": k}, one)
            for k, words in ((2, "two experts"), (1, "one expert"))
            for one in ROUTED
        },
        **{f"linear mix, λ = {one:g} each": method("merge", {}, one) for one in LAMBDAS},
    }
    testbed = ExpertTestbed()
    painted = {label: paint(testbed, cases(testbed, label, chosen)) for label, chosen in methods.items()}
    save_sheet(painted, WORK / "experts" / "sheet.png")
    rows += found(reader, oracle, painted, cases(testbed, "", next(iter(methods.values()))))
    routed, linear = (cases(testbed, label, methods[label]) for label in (next(iter(methods)), next(reversed(methods))))
    rows.append(cost(testbed, routed, linear))
    print(f"\n{table(rows)}\n\nResults: {write_results('methods-router', rows)}")


def style_reader(oracle: ElementOracle) -> tuple[StyleReader, float]:
    """The reader of styles by region, and how often it is right about drawn tiles that it has not seen."""
    examples = {}
    for kind in KINDS:
        rendered = np.stack([one.render() for one in pictures(EXAMPLES + HELD_OUT, EXAMPLE_SEED, {kind: 1.0})])
        examples[kind] = decode(committed_autoencoder(), rendered, WORK / "experts" / f"drawn-{kind}.npy")
    reader = StyleReader.fitted(oracle.network, {kind: some[:EXAMPLES] for kind, some in examples.items()})
    read = {kind: reader.read(some[EXAMPLES:]).argmax(-1) for kind, some in examples.items()}
    return reader, min(float((read[kind] == place).mean()) for place, kind in enumerate(KINDS))


def cases(testbed: StandinTestbed, label: str, how: Method) -> list[Job]:
    """A job for each two styles in this order, in each land at each time; the same noise for all methods."""
    jobs = []
    for pair in permutations(STYLES, 2):
        chosen = ElementSet(" + ".join(pair), "styles", pair)
        for land in LANDS:
            for time in TIMES:
                triggers = [testbed.elements[name].trigger for name in pair]
                prompt = ", ".join([Scene(land, time).caption, *triggers])
                seed = draw((*pair, land, time), "two styles")
                files = digests(testbed, chosen)
                jobs.append(Job(label, how, chosen, prompt, "", seed, testbed.sampling("styles"), files))
    return jobs


def paint(testbed: StandinTestbed, jobs: list[Job]) -> np.ndarray:
    """The pictures, uint8; what was painted before is read back."""
    painter, folder, seen = Painter(testbed), WORK / "experts" / "pictures", []
    for number, job in enumerate(jobs, start=1):
        path = folder / f"{job.key}.png"
        if not path.exists():
            with atomic(path) as temporary:
                Image.fromarray(painter.paint(job)[0]).save(temporary, format="PNG")
            print(f"{job.label}: {number} of {len(jobs)}", flush=True)
        seen.append(np.asarray(Image.open(path).convert("RGB")))
    return np.stack(seen)


def cost(testbed: StandinTestbed, routed: list[Job], linear: list[Job]) -> Row:
    """The median of a picture's time by the router over that by a mix, painted one after the other."""
    painter = Painter(testbed)
    ratios = [
        painter.paint(one)[1] / painter.paint(other)[1]
        for one, other in zip(routed[:TIMED], linear[:TIMED], strict=True)
    ]
    return Row(f"{routed[0].label}: time of a picture (x {linear[0].label})", float(np.median(ratios[1:])))


def found(reader: StyleReader, oracle: ElementOracle, painted: dict[str, np.ndarray], jobs: list[Job]) -> list[Row]:
    """How much of the pictures shows the lesser of the two styles, and the lead of the best router over linear."""
    scores, rows = {}, []
    for label, seen in painted.items():
        reading, broken = reader.read(seen), oracle.read(seen).overloaded > 0.5
        each = [both(one[None], *job.set.elements)[0] for one, job in zip(reading, jobs, strict=True)]
        scores[label] = np.where(broken, 0.0, each)
        rows.append(Row(f"{label}: both styles, each in regions of its own (%)", 100 * scores[label].mean()))
        rows.append(Row(f"{label}: overloaded (%)", 100 * broken.mean()))
    routers = [label for label in scores if label.startswith("router")]
    linear = [label for label in scores if label not in routers]
    first, other = (max(some, key=lambda label: scores[label].mean()) for some in (routers, linear))
    sets = np.arange(len(jobs))
    gap = statistics.difference(scores[first], scores[other], sets)
    name = f"{first} minus {other}, both styles (points)"
    return [
        *rows,
        Row(name, 100 * gap.value),
        Row(f"{name}, 95 % from", 100 * gap.low, 0.01),
        Row(f"{name}, 95 % to", 100 * gap.high),
    ]


def save_sheet(painted: dict[str, np.ndarray], path: Path) -> None:
    """All pictures, a row for each two styles and method, to look at."""
    beside = len(LANDS) * len(TIMES)
    starts = range(0, len(next(iter(painted.values()))), beside)
    rows = [np.concatenate(list(seen[start : start + beside]), 1) for start in starts for seen in painted.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


if __name__ == "__main__":
    main()
