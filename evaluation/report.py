"""`report`: statistics, plots and contact sheets of a plan as one HTML page, as Markdown, and all numbers as CSV."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..mixlora_core.files.writing import write_atomically
from .contents import contents
from .drawing import alone
from .jobs import EvaluationError
from .plan import read_plan
from .planned import Plan
from .reading import observations, read, write_observations
from .runner import results_folder
from .sheets import in_markdown
from .store import Store
from .tables import markdown
from .versus import panels

TEMPLATES = Path(__file__).parent / "templates"
PLOTS = {"setting_plot": "Over the setting", "cost_plot": "Quality over cost", "size_plot": "Over the number of LoRAs"}
"""Plots of a report's content: what they show."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `report`."""
    parser.add_argument("plan", type=Path, help="the plan, a TOML file")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: evaluation_output/TESTBED")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: reports/PLAN in the results")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="LABEL",
        help="compare with this method; may be given again (default: no LoRA and the merges)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the report and says where it lies; 0, or EvaluationError."""
    plan = read_plan(arguments.plan)
    with existing_results(results_folder(arguments, plan)) as store:
        output = arguments.output or store.folder / "reports" / plan.name
        for path in write_report(plan, store, output, arguments.against):
            print(f"{path} ({path.stat().st_size / 2**20:.1f} MiB)")
    return 0


def existing_results(folder: Path) -> Store:
    """The findings in a folder. Raises EvaluationError where there are none: reading begins no new ones."""
    if not (folder / "results.sqlite").is_file():
        raise EvaluationError(f"{folder} holds no results. `run` the plan first, or give --results.")
    return Store(folder)


def write_report(plan: Plan, store: Store, output: Path, against: Sequence[str] = ()) -> list[Path]:
    """Writes report.html, report.md, its plots and observations.csv to `output`. Raises EvaluationError, OSError."""
    environment = _templates()
    reading = read(plan.jobs(), plan.testbed.elements, store)
    content = contents(plan, reading, panels(reading, store.comparisons()), against)
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / "report.html", output / "report.md", output / "observations.csv"]
    content["plots"] = _write_plots(content, output)
    environment.filters["pictures"] = lambda strip: in_markdown(strip, output)
    for path in paths[:2]:
        text = environment.get_template(path.name).render(content)
        write_atomically(path, (text.rstrip() + "\n").encode())
    write_observations(paths[2], observations(reading))
    return paths


def _write_plots(content: Mapping[str, Any], output: Path) -> list[tuple[str, Path]]:
    """The plots as files beside the Markdown, which cannot hold them: title and path of each."""
    written = []
    for key, title in PLOTS.items():
        if drawn := str(content[key]):
            path = output / f"{key.removesuffix('_plot')}.svg"
            write_atomically(path, alone(drawn).encode())
            written.append((title, path))
    return written


def _templates() -> Any:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise EvaluationError("The report needs jinja2: pip install jinja2 matplotlib.") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name) and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters["markdown"] = markdown
    environment.globals["css"] = Markup((TEMPLATES / "report.css").read_text("utf-8"))
    return environment
