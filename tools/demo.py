"""The demo: ``python -m mixlora.tools.demo`` paints the stand-in's styles, alone and mixed, through a real ComfyUI.

Every picture is one of the example workflows with other widget values, queued over the server's HTTP API. The PNG files
contain their workflow: drop one on ComfyUI's editor to see how it was made.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from .. import standalone
from ..mixlora_core.contact_sheet import Cell, Row, contact_sheet
from ..standin import elements
from ..standin.styles import STYLES, TRIGGERS
from . import comfyui as installation
from . import links, standin_files, workflows
from .client import Client, NodeError, Picture, Result
from .graph import Json, with_widgets
from .server import Server, ServerError

SCENE = "a mountain landscape at sunset"
SWEEP = ("van_gogh", "ghibli")
SINGLE, THREE = "MixLoRA stand-in", "MixLoRA three styles stand-in"
METHODS = ("Merge", "LoRA Switch", "LoRA Composite")
COMPARED = {
    "a sea landscape at sunset": ("lighthouse", "ghibli"),
    "a hill landscape at day with trees": ("lighthouse", "snow", "van_gogh"),
    "a mountain landscape at day with a house": ("lighthouse", "snow", "van_gogh", "monet", "ghibli"),
}
"""Scene -> the LoRAs that speak in it at strength 1, concepts before styles; painted by each of METHODS."""


class Shot(NamedTuple):
    """One picture to paint: the workflow, and what to change in it (None: nothing)."""

    row: str
    name: str
    label: str
    workflow: str
    prompt: str | None = None
    strengths: dict[str, float] | None = None


def shots() -> Iterator[Shot]:
    """The pictures of the demo, row by row of the contact sheet."""
    row = "One style at a time"
    yield Shot(row, "base", "base model, no LoRA", SINGLE, SCENE, {})
    for style in STYLES:
        trigger = TRIGGERS[style]
        yield Shot(row, style, f"{trigger}, strength 1", SINGLE, f"{SCENE}, {trigger}", {style: 1.0})
    first, second = SWEEP
    row = f"From {TRIGGERS[first]} to {TRIGGERS[second]}"
    prompt = f"{SCENE}, {TRIGGERS[first]}, {TRIGGERS[second]}"
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        label = f"{1 - share:.2f} {TRIGGERS[first]}\n{share:.2f} {TRIGGERS[second]}"
        strengths = {first: 1 - share, second: share}
        yield Shot(row, f"sweep_{round(100 * share):03d}", label, SINGLE, prompt, strengths)
    row = "Three styles at once: the example workflows as they are"
    yield Shot(row, "mixed", "0.15 monet, 0.70 van gogh,\n0.15 ghibli", SINGLE)
    yield Shot(row, "equal_mix", "1/3 each: van gogh texture,\nmonet lighting, ghibli style", THREE)


def comparison(scene: str, loras: Sequence[str]) -> Json:
    """The example workflow that compares METHODS, for these LoRAs: they are called in the prompt after the scene."""
    prompt = ", ".join([scene, *(elements.TRIGGERS[name] for name in loras)])
    prefix = f"mixlora/compared_{len(loras)}"
    drawn = workflows.compared(workflows.STANDIN, prefix, prompt, dict.fromkeys(loras, 1.0))
    return drawn.saved(f"{len(loras)} LoRAs compared")


def prepared(shot: Shot, object_info: dict[str, Json]) -> Json:
    """The workflow of a shot with its prompt and strengths set."""
    workflow = json.loads((workflows.FOLDER / f"{shot.workflow}.json").read_text("utf-8"))
    changes: dict[int, Json] = {}
    for node in workflow["nodes"]:
        if node["type"] == "LoadStyleLoRA" and shot.strengths is not None:
            of_file = {standin_files.LORAS[style]: value for style, value in shot.strengths.items()}
            strength = of_file.get(node["widgets_values"][0], 0.0)
            changes[node["id"]] = {"strength_model": strength, "strength_clip": strength}
        elif node.get("title") == "Prompt" and shot.prompt is not None:
            changes[node["id"]] = {"text": shot.prompt}
    return with_widgets(workflow, object_info, changes)


def paint(server: Server, folder: Path) -> list[Path]:
    """Paints all pictures into `folder` and returns the contact sheets' paths."""
    client = Client(server.address)
    object_info = client.object_info()
    todo, rows, report = list(shots()), {}, ""
    count = len(todo) + len(COMPARED)
    for index, shot in enumerate(todo, 1):
        result = follow(client, f"[{index:2}/{count}] {shot.name:<12}", prepared(shot, object_info))
        image = save(result.saved[0], folder / f"{index:02}_{shot.name}.png")
        rows.setdefault(shot.row, []).append(Cell(shot.label, image))
        report = "\n".join(text for texts in result.texts.values() for text in texts)
    compared: dict[str, list[Cell]] = {}
    for index, (scene, loras) in enumerate(COMPARED.items(), len(todo) + 1):
        name = f"{len(loras)} LoRAs"
        result = follow(client, f"[{index:2}/{count}] {name:<12}", comparison(scene, loras))
        cells = [
            Cell(method, save(picture, folder / f"{index:02}_{len(loras)}_{method.split()[-1].lower()}.png"))
            for method, picture in zip(METHODS, result.saved, strict=True)
        ]
        compared[f"{name} at once: {', '.join(lora.replace('_', ' ') for lora in loras)}"] = cells
    print(f"\nThe report of the three-style mix:\n{report}\n")
    return [
        draw_sheet("MixLoRA: three style LoRAs on the stand-in model", rows, folder / "contact_sheet.png"),
        draw_sheet("Merge, LoRA Switch and LoRA Composite", compared, folder / "compared.png"),
    ]


def follow(client: Client, line: str, workflow: Json) -> Result:
    """Runs a workflow with its progress shown after `line`."""
    result = client.run_workflow(workflow, lambda *step: show_progress(line, *step))
    show_progress(line, "", 1, 1, f"{result.seconds:.1f} s")
    return result


def draw_sheet(title: str, rows: dict[str, list[Cell]], path: Path) -> Path:
    """Writes a contact sheet and returns its path."""
    contact_sheet(title, [Row(heading, cells) for heading, cells in rows.items()]).save(path)
    return path


def save(picture: Picture, path: Path) -> Image.Image:
    """Writes a picture as it came from the server, with the workflow in it, and returns it."""
    path.write_bytes(picture.data)
    return Image.open(io.BytesIO(picture.data))


def show_progress(line: str, node: str, done: int, total: int, end: str = "") -> None:
    """Draws a progress bar after `line`; where the output is no terminal, only the last state is printed."""
    if end or sys.stdout.isatty():
        bar = "█" * (20 * done // total)
        print(f"\r{line} {bar:<20} {end or f'{node} {done}/{total}':<24}", end="\n" if end else "", flush=True)


def main() -> int:
    """Paints the demo's pictures and says where they are."""
    parser = argparse.ArgumentParser(prog="demo", description="Paint the demo's pictures through a real ComfyUI.")
    parser.add_argument("--output", type=Path, default=standalone.ROOT / "demo_output", help="folder for the pictures")
    folder = parser.parse_args().output.absolute()
    # `kill` is to stop the server as Ctrl-C does: sys.exit runs the `with` below to its end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.perf_counter()
    try:
        comfyui = standalone.find_comfyui()
        standin_files.place(comfyui / "models")
        folder.mkdir(parents=True, exist_ok=True)
        print(f"Starting ComfyUI {installation.version(comfyui)} ...", flush=True)
        pack = links.link_pack(comfyui / "custom_nodes")
        with Server(comfyui, standalone.ROOT / ".scratch" / "demo", packs=[pack]) as server:
            try:
                sheets = paint(server, folder)
            except NodeError:
                print(f"\n{server.tail()}", file=sys.stderr)
                raise
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    except (NodeError, ServerError, OSError) as error:
        print(f"\nThe demo failed. {error}", file=sys.stderr)
        return 1
    print(f"Pictures:       {folder}\nContact sheets: {', '.join(map(str, sheets))}")
    print(f"Done in {time.perf_counter() - begin:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
