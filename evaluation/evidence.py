"""`evidence`: writes what the plans of this repository found into the tables of docs/evidence.md; its prose stays."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from ..benchmarks.results import FOLDER, write_results
from ..mixlora_core.files.writing import write_atomically
from ..standalone import ROOT
from .chain import PLANS
from .experiments import EXPERIMENTS
from .findings import Findings
from .goals import KEPT
from .jobs import EvaluationError
from .plan import read_plan
from .planned import Plan
from .reading import read
from .report import existing_results
from .store import Store
from .tables import markdown

DOCUMENT = ROOT / "docs" / "evidence.md"
_PLACE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `evidence`."""
    parser.add_argument("plans", nargs="*", metavar="PLAN", help=f"some of {', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--results", type=Path, default=Path("evaluation_output") / "standin", metavar="FOLDER")
    parser.add_argument("--document", type=Path, default=DOCUMENT, metavar="FILE", help="default: docs/evidence.md")
    kept = f"where numbers of {', '.join(KEPT)} go"
    parser.add_argument("--benchmarks", type=Path, default=FOLDER, metavar="FOLDER", help=kept)


def run(arguments: argparse.Namespace) -> int:
    """Writes the tables and the numbers of what has results, says what has none; 1 where nothing has."""
    if unknown := [name for name in arguments.plans if name not in EXPERIMENTS]:
        raise EvaluationError(f"{unknown[0]!r} is no experiment; expected some of {', '.join(EXPERIMENTS)}.")
    tables: dict[str, str] = {}
    kept: list[Path] = []
    with existing_results(arguments.results) as store:
        for name in arguments.plans or EXPERIMENTS:
            plan = read_plan(PLANS / f"{name}.toml")
            findings = found(plan, store)
            if findings is None:
                print(f"{name}: nothing painted and judged yet")
                continue
            tables |= written(name, findings)
            if name in KEPT:
                topic, rows = KEPT[name]
                kept.append(write_results(topic, rows(findings), arguments.benchmarks))
            print(f"{name}: {basis(findings)}")
    if not tables:
        return 1
    write_tables(arguments.document, tables)
    print(*(arguments.document, *kept), sep="\n")
    return 0


def found(plan: Plan, store: Store) -> Findings | None:
    """What is known about a plan; None where nothing of it is painted and judged."""
    jobs = plan.jobs()
    if not store.pictures(job.key for job in jobs):
        return None
    findings = Findings(read(jobs, plan.testbed.elements, store), plan.testbed.strength)
    return findings if findings.measures else None


def written(name: str, findings: Findings) -> dict[str, str]:
    """The tables of an experiment in Markdown, each with what it rests on."""
    return {
        place: f"\n{markdown(build(findings), 0)}\n\n*{basis(findings)}*\n\n"
        for place, build in EXPERIMENTS[name].items()
    }


def basis(findings: Findings) -> str:
    """What the numbers rest on."""
    reading = findings.reading
    sets, cases = len(set(findings.sets.tolist())), len(reading.cases)
    compared = min(int(findings.common(one).sum()) for one in findings.measures)
    noises = f", {cases // sets} noises each" if cases > sets else ""
    missing = f"; only {compared} of {cases} cases are there for all methods" if compared < cases else ""
    return f"{sets} sets{noises}, {len(reading.labels)} methods; in brackets 95 % intervals over sets{missing}."


def write_tables(document: Path, tables: Mapping[str, str]) -> None:
    """Replaces what stands between a table's markers. Raises EvaluationError for a document that lacks some."""
    text = document.read_text("utf-8")
    there = {place["name"] for place in _PLACE.finditer(text)}
    if lacking := [name for name in tables if name not in there]:
        raise EvaluationError(
            f"{document} has no place for {', '.join(lacking)}. Put in a line <!-- table: {lacking[0]} --> and below "
            "it a line <!-- end -->."
        )

    def filled(place: re.Match[str]) -> str:
        content = tables.get(place["name"])
        return place[0] if content is None else f"{place[1]}{content}{place[3]}"

    write_atomically(document, _PLACE.sub(filled, text).encode())
