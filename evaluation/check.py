"""`check`: whether everything is there that a plan needs, and what must be known about ComposLoRA's files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .composlora import ComposLoRA
from .jobs import EvaluationError
from .plan import read_plan
from .testbeds import Testbed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `check`."""
    parser.add_argument("plan", nargs="?", type=Path, help="a plan; without one ComposLoRA's files are looked for")
    for kind in ("checkpoints", "vae", "loras"):
        parser.add_argument(
            f"--{kind}", default="", metavar="FOLDER", help="where they are (default: ComfyUI's folders)"
        )


def run(arguments: argparse.Namespace) -> int:
    """Prints what is found and what is missing; 1 where something is."""
    if arguments.plan is not None:
        plan = read_plan(arguments.plan)
        pictures = len(plan.sets) * len(plan.seeds) * len(plan.methods)
        print(
            f"{arguments.plan}: {len(plan.sets)} sets, {len(plan.methods)} methods, {pictures} pictures. All is there."
        )
        used = {name for one in plan.sets for name in one.elements}
        if isinstance(plan.testbed, ComposLoRA):
            print("\n".join(notices(plan.testbed, used)))
        return 0
    testbed = ComposLoRA(arguments.checkpoints, arguments.vae, arguments.loras)
    found, missing = look(testbed)
    print(f"ComposLoRA: {len(found)} files found, {len(missing)} missing.")
    print("\n".join([*(f"  found    {line}" for line in found), *(f"  MISSING  {line}" for line in missing)]))
    print("\n".join(notices(testbed, set(testbed.elements))))
    return int(bool(missing))


def look(testbed: Testbed) -> tuple[list[str], list[str]]:
    """The files of a testbed that are there, and for each of the others what to do."""
    found, missing = [], []
    worlds = dict.fromkeys(one.world for one in testbed.elements.values())
    looks = [(find, world) for world in worlds for find in (testbed.checkpoint, testbed.vae)]
    for find, what in [*looks, *((testbed.adapter, name) for name in testbed.elements)]:
        try:
            path = find(what)
        except EvaluationError as error:
            missing.append(str(error))
        else:
            found += [f"{what}: {path}"] if path is not None else []
    return found, missing


def notices(testbed: ComposLoRA, used: set[str]) -> list[str]:
    """What must be known before pictures are made with these elements."""
    people = [name for name in testbed.elements if name in used and testbed.sources[name].person]
    lines = [
        "Licences: every checkpoint and LoRA has its author's, on the page where it is offered; read it before "
        "pictures are published or sold. Characters and garments of films and games belong to their makers.",
        *(f"  {name}: {testbed.sources[name].page}" for name in testbed.elements if name in used),
    ]
    if people:
        quoted = ", ".join(f'"{name}"' for name in people)
        lines.append(
            f"Consent: {', '.join(people)} are real persons; nothing says that they agreed to be painted. "
            f"Without them: [sets] without = [{quoted}]"
        )
    return lines
