"""Shows the pictures of a plan in pairs on a local page, for a person to rate from 1 to 5; no method is named."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..judges.pictures import painted
from ..plan import read_plan
from ..report import existing_results
from ..runner import results_folder
from .pairs import pairs
from .server import RatingServer
from .sheet import open_sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `rate`."""
    parser.add_argument("plan", type=Path, help="the plan, a TOML file")
    parser.add_argument("--rater", required=True, metavar="NAME", help="who rates; the same name goes on where it was")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: evaluation_output/TESTBED")
    parser.add_argument(
        "--ratings", type=Path, metavar="FILE", help="default: ratings.json in the folder of the results"
    )
    parser.add_argument("--methods", metavar="A,B", help="the methods to rate, by label (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order and the sides (default: 0)")
    parser.add_argument("--port", type=int, default=8765, metavar="N", help="default: 8765; 0 is any free one")
    parser.add_argument("--open", action="store_true", help="open the page in your browser")


def run(arguments: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C."""
    plan = read_plan(arguments.plan)
    folder = results_folder(arguments, plan)
    jobs = plan.jobs()
    with existing_results(folder) as store:
        there = painted(jobs, store)
    labels = [label.strip() for label in arguments.methods.split(",")] if arguments.methods else []
    shown = pairs(jobs, there, arguments.rater.strip(), labels, arguments.seed)
    sheet = open_sheet(arguments.ratings or folder / "ratings.json", arguments.rater, shown, plan.testbed.elements)
    with RatingServer(sheet, arguments.port) as server:
        print(f"{len(shown)} pairs at {server.url} - answers go to {sheet.path}; Ctrl-C ends it", flush=True)
        if arguments.open:
            import webbrowser

            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()  # every answer is kept already
    return 0
