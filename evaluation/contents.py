"""What a report says besides its numbers: how it was measured, what is missing, what it cannot show."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import numpy as np

from ..benchmarks.results import commit, machine
from . import plots, sections, statistics
from .findings import Findings
from .planned import Plan
from .reading import Reading, missing
from .sheets import sheets, shown
from .tables import Cell, Head, Row, Table
from .versus import Panel, Versus

FEW = 10
"""Sets; with fewer of them intervals are rough."""
LIMITS = {
    "standin": (
        "The stand-in is no SD v1.5: 44 million parameters, drawn landscapes of 128 × 128 pixels, LoRAs trained on "
        "such drawings. Which method is ahead here need not be ahead there, and not by as much.",
        "No faces, hands, clothes or text: what people notice first in real pictures does not occur.",
        "The oracle sees whether an element is there and whether the picture is sound. It does not see beauty. It is a "
        "network that errs now and then, about all methods' pictures alike.",
        "The LoRAs were trained in one way and are about equally strong. Public ones differ tenfold.",
    ),
    "composlora": (
        "CLIP sees whether a picture fits words. Whether it is this character in these clothes it hardly sees: it does "
        "not know what an adapter was trained on. Likeness to each adapter's own pictures is the better guide there.",
        "A vision-language model has tastes, and often prefers one place; both orders even out only the second.",
        "Twenty-two LoRAs on two checkpoints are a small sample of what people use.",
    ),
}
_SECTIONS = (
    ("methods", "headline", "Methods"),
    ("pictures", "sheets", "Pictures"),
    ("differences", "differences", "More than chance?"),
    ("size", "by_size", "More LoRAs"),
    ("parts", "by_part", "What gets lost"),
    ("worlds", "by_world", "Worlds"),
    ("side", "panels", "Side by side"),
    ("how", "facts", "How it was measured"),
    ("limits", "limits", "Limits"),
)


def contents(plan: Plan, reading: Reading, judged: Sequence[Panel], against: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that the templates show. Raises EvaluationError for an unknown label in `against`."""
    from markupsafe import Markup  # of jinja2

    findings = Findings(reading, plan.testbed.strength)
    for label in against:
        reading.row(label)
    swept, setting_plot = plots.over_setting(findings)
    content: dict[str, Any] = {
        "title": f"Testbed report: {plan.name}",
        "subtitle": subtitle(plan, reading),
        "in_short": sections.sentences(findings),
        "caution": "“Clearly” means: the 95 % interval of the difference, set by set, leaves zero out.",
        "chance": "One difference in twenty leaves zero out by chance alone: a table of many should have some.",
        "incomplete": incomplete(findings, judged),
        "headline": sections.headline(findings),
        "explanations": findings.measures,
        "cost_plot": Markup(plots.quality_over_cost(findings)),
        "differences": [sections.differences(findings, one) for one in against or findings.baselines],
        "setting": swept,
        "setting_plot": Markup(setting_plot),
        "size_plot": Markup(plots.by_size(findings)),
        "by_size": by_size(findings),
        "by_part": [one for one in (sections.by_category(findings), sections.by_element(findings)) if one],
        "by_world": [sections.by_world(findings, one) for one in findings.main() if len(set(findings.worlds)) > 1],
        "panels": [
            {"tables": [compared(one), *compared_by_size(one)], "bias": list(map(str, one.bias))} for one in judged
        ],
        "sheets": sheets(findings, shown(findings)),
        "caption": caption(findings),
        "facts": facts(plan, reading, [one.judge for one in judged]),
        "missing": missing_table(reading),
        "plan": plan.path.read_text("utf-8").strip(),
        "limits": LIMITS.get(plan.testbed.name, ()),
    }
    if not findings.measures:
        content["differences"] = []
    return content | {"sections": [(anchor, name) for anchor, key, name in _SECTIONS if content[key]]}


def by_size(findings: Findings) -> list[Table]:
    """Tables by N: the measures of which more is better, and the cost."""
    tables = [sections.by_size(findings, one) for one in findings.measures if one.higher]
    return [*tables, sections.cost_by_size(findings)]


def subtitle(plan: Plan, reading: Reading) -> str:
    """How much was painted of what."""
    sets, seeds = len({case.set.name for case in reading.cases}), len(plan.seeds)
    noises = f" × {seeds} seeds" if seeds > 1 else ""
    return (
        f"{sets} sets × {len(reading.labels)} methods{noises} on the testbed “{plan.testbed.name}”, "
        f"{len(reading.files)} pictures. Written {datetime.now(timezone.utc):%Y-%m-%d}."
    )


def compared(panel: Panel) -> Table:
    """What a judge that sees two pictures at once found."""
    heads = (
        Head("points"), Head("points of the other"), Head("difference"), Head("won / tied / lost", "%"), Head("pairs"),
    )  # fmt: skip
    rows = []
    for one in panel.rows:
        left = f"{one.half} more in one order only" if one.half else ""
        cells = (Cell(one.measure.text(one.mean)), Cell(one.measure.text(one.other)), _gap(one), Cell(_won(one)))
        rows.append(Row(_pair(one), (*cells, Cell(str(one.difference.cases), left))))
    note = (
        "Each pair of pictures was shown in both orders, and the points averaged; pairs seen in one order are left out."
    )
    return Table(f"Two pictures side by side: {panel.judge}", "method – other: measure", heads, tuple(rows), note)


def compared_by_size(panel: Panel) -> list[Table]:
    """The same by N, where there is more than one."""
    found = {size: rows for size, rows in panel.by_size.items() if any(one.difference.cases for one in rows)}
    if len(found) < 2:
        return []
    rows = [
        Row(_pair(one), tuple(replace(_gap(of_size[place]), more=_won(of_size[place])) for of_size in found.values()))
        for place, one in enumerate(panel.rows)
    ]
    heads = tuple(Head(f"N = {size}", f"{max(one.difference.cases for one in at)} pairs") for size, at in found.items())
    note = "The difference with its interval; below, won / tied / lost, %."
    return [Table(f"By number of LoRAs: {panel.judge}", "method – other: measure", heads, tuple(rows), note)]


def _pair(one: Versus) -> str:
    return f"{one.label} – {one.against}: {one.measure.title}"


def _gap(one: Versus) -> Cell:
    found, measure = one.difference, one.measure
    if not found.cases:
        return Cell("–")
    ends = measure.range(found.low, found.high, sign=True)
    return Cell(measure.text(found.value, sign=True), ends, tone=sections.tone(measure, found))


def _won(one: Versus) -> str:
    cases = one.difference.cases
    return " / ".join(f"{100 * count / cases:.0f}" for count in one.wins) if cases else "–"


def incomplete(findings: Findings, judged: Sequence[Panel]) -> list[str]:
    """What keeps the numbers from being what the plan asked for, in sentences."""
    reading = findings.reading
    found = []
    painted = ~np.isnan(reading.seconds)
    if lacking := int((reading.planned & ~painted).sum()):
        found.append(f"{lacking} of {int(reading.planned.sum())} pictures are not painted yet.")
    if not findings.measures and not judged:
        found.append("No judge has scored these pictures yet: `judge` the plan.")
    for judge in dict.fromkeys(one.judge for one in findings.measures):
        counts = [int(findings.common(one).sum()) for one in findings.measures if one.judge == judge]
        if min(counts) < len(reading.cases):
            found.append(
                f"By {judge}, methods are compared over {min(counts)} of {len(reading.cases)} cases (a set with one "
                "noise): those that all methods have. A table below says what is missing."
            )
    if not findings.pooled.all():
        found.append("Numbers over all sets leave those of one LoRA out: they are what the others are held against.")
    sets = len({case.set.name for case in reading.cases})
    if sets < FEW:
        found.append(f"{sets} sets are few: the intervals are rough, and hold for sets like these only.")
    return found


def caption(findings: Findings) -> str:
    """What stands under the pictures."""
    if findings.recalled is None:
        return ""
    return "Below: what the oracle misses, and how sound it finds the picture (1: as one LoRA alone)."


def facts(plan: Plan, reading: Reading, of_pairs: Sequence[str] = ()) -> list[tuple[str, str]]:
    """How it was measured, for those who want to do it again."""
    how = {str(job.sampling): job.sampling for job in reading.jobs.values()}
    samplings = [
        f"{one.sampler_name} ({one.scheduler}), {one.steps} steps, CFG {one.cfg:g}, {one.width} × {one.height}"
        for one in how.values()
    ]
    first = next(iter(reading.jobs.values()))
    seeds = ", ".join(map(str, plan.seeds))
    found = [
        ("sets", sizes(reading)),
        ("noise", f"seeds {seeds} of the plan; each set has its own noise, the same for all methods"),
        ("sampling", "; ".join(samplings)),
        ("a prompt", f"“{first.prompt}”"),
        ("checkpoints", ", ".join(dict.fromkeys(job.files[0][:12] for job in reading.jobs.values()))),
        ("judges", ", ".join(dict.fromkeys([*(judge for judge, _ in reading.values), *of_pairs])) or "none"),
        (
            "intervals",
            f"95 %, from {statistics.RESAMPLES:,} bootstrap resamples of whole sets (all seeds and methods of a set go "
            "together), expanded percentiles (arXiv 1411.5279)",
        ),
        ("report written on", machine()),
        ("report written by", f"MixLoRA at commit {commit() or 'unknown'}, {_packages()}"),
        ("date", f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"),
    ]
    return found


def sizes(reading: Reading) -> str:
    """How many sets of which size."""
    of_size: dict[int, set[str]] = {}
    for case in reading.cases:
        of_size.setdefault(case.set.size, set()).add(case.set.name)
    return ", ".join(f"{len(names)} of {size}" for size, names in sorted(of_size.items()))


def missing_table(reading: Reading) -> Table | None:
    """What is missing, by method."""
    found = missing(reading)
    if not found:
        return None
    heads = (Head("missing"), Head("of"))
    rows = []
    for one in found:
        what = one.what if one.what == "not painted" else f"not scored by {one.what}"
        rows.append(Row(f"{one.label}: {what}", (Cell(str(one.missing)), Cell(str(one.expected)))))
    return Table(
        "What is missing", "pictures", heads, tuple(rows), "Comparisons leave these cases out for all methods."
    )


def _packages() -> str:
    named = {"Python": platform.python_version()}
    for package in ("torch", "numpy", "scipy"):
        try:
            named[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(f"{name} {number}" for name, number in named.items())
