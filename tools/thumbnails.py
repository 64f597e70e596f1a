"""Paints the example workflows' thumbnails: ``python -m mixlora.tools.thumbnails`` writes example_workflows/*.jpg.

ComfyUI's template browser shows the .jpg of a workflow's name. The workflows for a real checkpoint show what the
stand-in paints in their place: a checkpoint cannot be shipped.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence

from PIL import Image

from .. import standalone
from . import links, standin_files, workflows
from .client import Client, Picture
from .server import Server

SIDE = 384
"""Height of a thumbnail in pixels; pictures beside each other are as wide as they are many."""


def thumbnail(pictures: Sequence[Picture]) -> Image.Image:
    """The pictures beside each other."""
    sheet = Image.new("RGB", (SIDE * len(pictures), SIDE))
    for column, picture in enumerate(pictures):
        image = Image.open(io.BytesIO(picture.data)).convert("RGB")
        sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (column * SIDE, 0))
    return sheet


def main() -> None:
    """Runs the stand-in's workflows and writes the picture of each for both of the workflow's versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("titles", nargs="*", metavar="TITLE", help="of the workflows to paint (default: all)")
    titles = parser.parse_args().titles or list(workflows.WORKFLOWS)
    if unknown := [title for title in titles if title not in workflows.WORKFLOWS]:
        parser.error(f"no workflow is called {unknown[0]!r}; there are {', '.join(workflows.WORKFLOWS)}")
    comfyui = standalone.find_comfyui()
    standin_files.place(comfyui / "models")
    pack = links.link_pack(comfyui / "custom_nodes")
    with Server(comfyui, standalone.ROOT / ".scratch" / "thumbnails", packs=[pack]) as server:
        client = Client(server.address)
        drawn = workflows.all_workflows()
        for title in titles:
            image = thumbnail(client.run_workflow(drawn[f"{title} stand-in"]).saved)
            for suffix in ("stand-in", "SD v1.5"):
                image.save(workflows.FOLDER / f"{title} {suffix}.jpg", quality=88)
            print(f"painted {title}", flush=True)


if __name__ == "__main__":
    main()
