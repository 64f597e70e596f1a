"""Every developer command in one place: ``python tools/dev.py [command]``. Needs Python 3.10 and nothing else.

This file runs on a bare system Python. It sets up `.venv` and a ComfyUI where a command needs them, then runs the
command inside `.venv`. The Makefile only forwards to it, so everything works without make as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(os.path.abspath(__file__)).parents[1]

RUFF = ["ruff", "check", "."]
TYPES = ["mixlora.tools.typecheck"]
PYTEST = ["pytest"]

# what `clean` removes: made by the tools here, and by Python's
MADE = [".venv", ".comfyui", ".comfyui.partial", ".scratch", ".setup.lock", ".types", "demo_output", "dist"]
MADE += ["mixlora.egg-info", ".hypothesis", ".pytest_cache", ".ruff_cache"]


class Command(NamedTuple):
    """One command: its line of help, the modules that it runs in `.venv`, and whether it needs the tools for tests."""

    help: str
    runs: list[list[str]]
    development: bool = False
    takes_arguments: bool = False  # extra arguments go to the last module


TRAIN, REPORT = ["mixlora.standin.recipe"], ["mixlora.standin.report"]
BENCH, BENCH_TRAIN = ["mixlora.benchmarks.sampling"], ["mixlora.benchmarks.training"]
TESTBED = ["mixlora.evaluation", "testbed"]
DEMO, SERVE, ARCHIVE = (["mixlora.tools." + name] for name in ("demo", "serve", "archive"))
WORKFLOWS, THUMBNAILS = ["mixlora.tools.workflows"], ["mixlora.tools.thumbnails"]

COMMANDS = {
    "setup": Command("make .venv, fetch ComfyUI if you have none, link the pack into it", [], development=True),
    "demo": Command("paint the demo's pictures through a real ComfyUI server", [DEMO], False, True),
    "serve": Command("start ComfyUI with the pack and the stand-in, until Ctrl-C", [SERVE], False, True),
    "test": Command("lint, type check and all tests, a ComfyUI server included", [RUFF, TYPES, PYTEST], True, True),
    "test-unit": Command("only the tests that need no ComfyUI", [[*PYTEST, "tests/unit"]], True, True),
    "lint": Command("ruff and the type checker", [RUFF, TYPES], True),
    "workflows": Command("write example_workflows/*.json again", [WORKFLOWS]),
    "thumbnails": Command("paint example_workflows/*.jpg again", [THUMBNAILS]),
    "standin": Command("train the stand-in again from its seed (hours on a CPU)", [TRAIN], True, True),
    "standin-report": Command("measure the stand-in and print the table", [REPORT], True, True),
    "testbed": Command("paint, judge and report the small testbed (ARGS: another plan)", [TESTBED], True, True),
    "bench": Command("measure the samplers against ComfyUI's own ways and print the table", [BENCH], True, True),
    "bench-train": Command("measure the trainer against other trainers and print the table", [BENCH_TRAIN], True, True),
    "archive": Command("build the archive that the ComfyUI Registry would", [ARCHIVE]),
    "clean": Command("remove .venv, the fetched ComfyUI, caches and outputs", []),
    "help": Command("show this list", []),
}


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this file may meet any Python
        print(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}.", file=sys.stderr)
        return 1
    name, *extra = arguments or ["help"]
    if name in ("help", "-h", "--help"):
        return show_help()
    if name not in COMMANDS:
        print(f"Unknown command {name!r}.\n", file=sys.stderr)
        show_help()
        return 2
    command = COMMANDS[name]
    if extra and not command.takes_arguments:
        print(f"`{name}` takes no arguments, found: {' '.join(extra)}", file=sys.stderr)
        return 2
    if name == "clean":
        return clean()
    return run(command, extra)


def run(command: Command, extra: list[str]) -> int:
    """Sets up what `command` needs and runs it; returns its exit status."""
    environment = pack_module("tools.environment")
    try:
        comfyui = environment.setup(development=command.development)
    except subprocess.CalledProcessError as error:
        print(f"\nSet-up failed (exit status {error.returncode}) in: {' '.join(error.cmd)}", file=sys.stderr)
        print("Run the command again: what is already done is kept.", file=sys.stderr)
        return 1
    except (OSError, RuntimeError) as error:
        print(f"\nSet-up failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up was interrupted. Run it again: what is already done is kept.", file=sys.stderr)
        return 130
    return run_modules(command, extra, environment.PYTHON, comfyui)


def run_modules(command: Command, extra: list[str], python: Path, comfyui: Path) -> int:
    """Runs the modules of `command` one after the other, up to the first that fails; returns its exit status."""
    processes = pack_module("tools.processes")
    # PYTHONSAFEPATH keeps the repository root off sys.path, where its `nodes` would shadow ComfyUI's.
    variables = {**os.environ, "COMFYUI_PATH": str(comfyui), "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
    for module in command.runs:
        last = module is command.runs[-1]
        line = [str(python), "-m", *module, *(extra if last else [])]
        if len(command.runs) > 1:
            print(f"\n== {' '.join(module)}", flush=True)
        status = processes.run(line, cwd=ROOT, env=variables)
        if status:
            return status
    return 0


def clean() -> int:
    """Removes everything that the other commands made, except a fetched ComfyUI into which somebody put models."""
    links = pack_module("tools.links")
    standalone = pack_module("standalone")
    try:
        comfyui = standalone.find_comfyui()
    except FileNotFoundError:
        comfyui = None
    if comfyui and links.unlink_pack(comfyui / "custom_nodes"):
        print(f"removed the pack's link in {comfyui / 'custom_nodes'}")
    names = list(MADE)
    if links.foreign_models(ROOT / ".comfyui" / "models"):
        print("kept .comfyui: there are models in it that are not the stand-in's")
        names.remove(".comfyui")
    for path in filter(Path.exists, (ROOT / name for name in names)):
        remove = shutil.rmtree if path.is_dir() else os.unlink
        remove(path)
        print(f"removed {path.name}")
    return 0


def show_help() -> int:
    """Prints the list of commands."""
    print("make COMMAND, or: python tools/dev.py COMMAND\n")
    for name, command in COMMANDS.items():
        print(f"  {name:<15} {command.help}")
    return 0


def pack_module(name: str) -> Any:
    """A module of this repository, imported as part of package `mixlora` without that being installed."""
    spec = importlib.util.spec_from_file_location("mixlora_standalone", ROOT / "standalone.py")
    assert spec is not None and spec.loader is not None
    standalone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standalone)
    standalone.import_pack()
    return importlib.import_module(f"mixlora.{name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
