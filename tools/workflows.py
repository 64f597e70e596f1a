"""Draws the example workflows: ``python -m mixlora.tools.workflows`` writes example_workflows/*.json.

One picture is drawn four ways: two prompts, each for the stand-in that ships with the project and for a real SD v1.5
checkpoint. Nodes stand in columns, from left to right as the picture comes about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from .. import standalone
from ..standin.styles import STYLES
from .canvas import Canvas, Json, Socket
from .standin_files import CHECKPOINT, LORAS

FOLDER = standalone.ROOT / "example_workflows"
SD15_URL = (
    "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors"
)


class Experiment(NamedTuple):
    """What is painted: the prompt and how loudly each style speaks, as file -> λ."""

    prompt: str
    strengths: dict[str, float]


class Base(NamedTuple):
    """What it is painted with: a checkpoint, where to get it (or ""), the side of the picture in pixels, and a note."""

    checkpoint: str
    url: str
    side: int
    note: str


STANDIN = Base(
    CHECKPOINT,
    "",
    128,
    "# MixLoRA, stand-in model\n\n"
    "Three style LoRAs in one picture, each as loud as its **strength_model** (λ) says.\n\n"
    "The checkpoint and the LoRAs are the tiny stand-in of this project: landscapes of 128 × 128 pixels. "
    "`make demo` puts them into ComfyUI's `models` folder.\n\n"
    "**Try**\n"
    "- other strengths, and other modes of *Mix LoRA weights*\n"
    "- *monet style*, *van gogh style*, *studio ghibli style* in the prompt\n"
    "- the report under *Mix LoRA weights*: what was really applied\n",
)
SD15 = Base(
    "v1-5-pruned-emaonly-fp16.safetensors",
    SD15_URL,
    512,
    "# MixLoRA, SD v1.5\n\n"
    "Three style LoRAs in one picture, each as loud as its **strength_model** (λ) says.\n\n"
    "**Before you queue**\n"
    f"- put [the SD v1.5 checkpoint]({SD15_URL}) into `models/checkpoints`\n"
    "- put your own three style LoRAs for SD v1.5 into `models/loras` and choose them: the names in the three "
    "*Load style LoRA* nodes are placeholders\n"
    "- write each LoRA's trigger words into the prompt; the node's *trigger_words* output shows them\n\n"
    "**Styles too strong together?** Set *mode* to `sum to total`, or lower the strengths.\n",
)

VAN_GOGH = "a mountain landscape at sunset, van gogh style"
THREE = (
    "a fantasy landscape with hills, flowers and sky, "
    "equal mix of van gogh texture, monet lighting and studio ghibli animation style"
)
LOUD = {"monet": 0.15, "van_gogh": 0.7, "ghibli": 0.15}
EQUAL = dict.fromkeys(STYLES, round(1 / 3, 4))


def draw(base: Base, experiment: Experiment, prefix: str) -> Canvas:
    """Draws one workflow; `prefix` starts the names of the saved pictures."""
    canvas = Canvas()
    canvas.add("MarkdownNote", (0, 0, 340, 420), base.note, title="About this workflow")
    checkpoint = canvas.add("CheckpointLoaderSimple", (420, 0, 360, 100), base.checkpoint)
    if base.url:
        model = {"name": base.checkpoint, "url": base.url, "directory": "checkpoints"}
        checkpoint["properties"]["models"] = [model]
    latent = canvas.add("EmptyLatentImage", (420, 230, 360, 110), base.side, base.side, 1)
    canvas.frame("1  Model and size", checkpoint, latent)

    loaders: list[Json] = []
    for index, (file, strength) in enumerate(experiment.strengths.items()):
        loader = canvas.add("LoadStyleLoRA", (860, 230 * index, 380, 180), file, strength, strength)
        if loaders:
            canvas.connect(Socket(loaders[-1], "stack"), loader, "stack")
        loaders.append(loader)
    canvas.frame("2  Styles and strengths", *loaders)

    mix = canvas.add(
        "MixLoRAWeights",
        *((1320, 0, 380, 200), "sum", 1.0, 0.0),
        model=Socket(checkpoint, "MODEL"),
        clip=Socket(checkpoint, "CLIP"),
        stack=Socket(loaders[-1], "stack"),
    )
    report = canvas.add("PreviewAny", (1320, 260, 380, 380), title="What was mixed", source=Socket(mix, "report"))
    canvas.frame("3  The mix", mix, report)

    clip = Socket(mix, "clip")
    positive = canvas.add("CLIPTextEncode", (1780, 0, 400, 180), experiment.prompt, title="Prompt", clip=clip)
    negative = canvas.add("CLIPTextEncode", (1780, 240, 400, 120), "", title="Negative prompt", clip=clip)
    canvas.frame("4  The prompt", positive, negative)

    sampler = canvas.add(
        "KSampler",
        *((2260, 0, 340, 270), 42, "fixed", 30, 2.0, "euler", "normal", 1.0),
        model=Socket(mix, "model"),
        positive=Socket(positive, "CONDITIONING"),
        negative=Socket(negative, "CONDITIONING"),
        latent_image=Socket(latent, "LATENT"),
    )
    decode = canvas.add(
        "VAEDecode", (2260, 330, 340, 60), samples=Socket(sampler, "LATENT"), vae=Socket(checkpoint, "VAE")
    )
    save = canvas.add("SaveImage", (2640, 0, 400, 440), prefix, images=Socket(decode, "IMAGE"))
    canvas.frame("5  The picture", sampler, decode, save)
    return canvas


def all_workflows() -> dict[str, Json]:
    """Every example workflow: title, which is also the file's stem -> the workflow."""
    workflows = {}
    for base, suffix, file in (
        (STANDIN, "stand-in", LORAS.__getitem__),
        (SD15, "SD v1.5", "your_{}_style_sd15.safetensors".format),
    ):
        for title, prompt, strengths in (("MixLoRA", VAN_GOGH, LOUD), ("MixLoRA three styles", THREE, EQUAL)):
            experiment = Experiment(prompt, {file(style): strength for style, strength in strengths.items()})
            name = f"{title} {suffix}"
            workflows[name] = draw(base, experiment, "mixlora/" + name.replace(" ", "_")).saved(name)
    return workflows


def text(workflow: Json) -> str:
    """The exact content of a workflow's file."""
    return json.dumps(workflow, indent=2, ensure_ascii=False) + "\n"


def main(folder: Path = FOLDER) -> None:
    """Writes every example workflow into `folder`."""
    folder.mkdir(exist_ok=True)
    for name, workflow in all_workflows().items():
        (folder / f"{name}.json").write_text(text(workflow), encoding="utf-8", newline="\n")
        print(f"wrote {folder.name}/{name}.json")


if __name__ == "__main__":
    main()
