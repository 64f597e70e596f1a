"""`python -m mixlora.evaluation COMMAND`: one table of commands; each lives in its own module, imported when asked for.

A module has `add_arguments(parser)` and `run(arguments) -> int`, the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import sqlite3
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ..standalone import show_all_letters
from .jobs import EvaluationError


class Command(NamedTuple):
    """Where a command is, below this package, and its line of help."""

    module: str
    help: str


COMMANDS = {
    "run": Command("runner", "paint what is missing of a plan"),
    "judge": Command("judges.command", "let a judge score the pictures of a plan"),
    "report": Command("report", "statistics, plots and contact sheets of a plan as HTML and Markdown"),
    "sheet": Command("contact", "the same sets by some methods of a plan on one picture"),
    "testbed": Command("chain", "run, oracle and report of a plan, one after the other"),
    "rate": Command("rating.command", "compare pictures by eye on a local page"),
    "evidence": Command("evidence", "write the tables of docs/evidence.md from the results of the plans"),
    "scores": Command("exchange", "write the scores of plans to a small file, or take them over from one"),
    "correlate": Command("correlate", "how well judges agree with human ratings"),
    "tune": Command("tuning", "search the strengths of one set of the stand-in, on scenes that are not judged"),
    "check": Command("check", "look whether everything is there, for a plan or for ComposLoRA"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 done, 1 something to correct, 2 no such command or option, 130 Ctrl-C."""
    show_all_letters()  # names of methods have √ and τ
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, *rest = given
    if name not in COMMANDS:
        print(f"Unknown command {name!r}.\n\n{overview()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f".{COMMANDS[name].module}", __package__)
    parser = argparse.ArgumentParser(prog=f"python -m mixlora.evaluation {name}", description=f"{module.__doc__}")
    module.add_arguments(parser)
    try:
        return module.run(parser.parse_args(rest))
    except (EvaluationError, OSError, sqlite3.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 130


def overview() -> str:
    """The list of commands."""
    lines = [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["python -m mixlora.evaluation COMMAND [options]; COMMAND --help lists them.", "", *lines])
