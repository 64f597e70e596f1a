"""Draws the example workflows: ``python -m mixlora.tools.workflows`` writes example_workflows/*.json.

Each is drawn twice: for the stand-in that ships with the project and for a real SD v1.5 checkpoint. Nodes stand in
columns, from left to right as the picture comes about.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .. import standalone
from ..standin.styles import STYLES
from .canvas import Canvas, Json, Socket
from .standin_files import CHECKPOINT, LORAS

FOLDER = standalone.ROOT / "example_workflows"
SD15_URL = (
    "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors"
)


class Base(NamedTuple):
    """What is painted with: a checkpoint, where to get it (or ""), the picture's side in pixels, what must be said."""

    checkpoint: str
    url: str
    side: int
    note: str
    lora: Callable[[str], str]
    """Style -> the name of its LoRA file."""


STANDIN = Base(
    CHECKPOINT,
    "",
    128,
    "The checkpoint and the LoRAs are the tiny stand-in of this project: landscapes of 128 × 128 pixels. "
    "`make demo` puts them into ComfyUI's `models` folder.\n",
    LORAS.__getitem__,
)
SD15 = Base(
    "v1-5-pruned-emaonly-fp16.safetensors",
    SD15_URL,
    512,
    "**Before you queue**\n"
    f"- put [the SD v1.5 checkpoint]({SD15_URL}) into `models/checkpoints`\n"
    "- put your own three style LoRAs for SD v1.5 into `models/loras` and choose them: the names in the three "
    "*Load style LoRA* nodes are placeholders\n"
    "- write each LoRA's trigger words into the prompt; the node's *trigger_words* output shows them\n",
    "your_{}_style_sd15.safetensors".format,
)

VAN_GOGH = "a mountain landscape at sunset, van gogh style"
THREE = (
    "a fantasy landscape with hills, flowers and sky, "
    "equal mix of van gogh texture, monet lighting and studio ghibli animation style"
)
SPOKEN = (
    "a fantasy landscape with hills, flowers and sky, 60 % van gogh texture and 40 % monet lighting, "
    "studio ghibli style:0.5@50-100%"
)
LOUD = {"monet": 0.15, "van_gogh": 0.7, "ghibli": 0.15}
EQUAL: dict[str, float] = dict.fromkeys(STYLES, round(1 / 3, 4))
FULL: dict[str, float] = dict.fromkeys(STYLES, 1.0)
SAMPLING = (42, "fixed", 30, 2.0, "euler", "normal", 1.0)
"""Seed, what happens to it after, steps, guidance, sampler, scheduler, denoise."""


@dataclass
class Drawing:
    """A workflow that comes about from left to right; every method draws one column or part of one."""

    base: Base
    about: str
    canvas: Canvas = field(default_factory=Canvas)

    def __post_init__(self) -> None:
        add = self.canvas.add
        add("MarkdownNote", (0, 0, 340, 460), f"{self.about}\n{self.base.note}", title="About this workflow")
        self.checkpoint = add("CheckpointLoaderSimple", (420, 0, 360, 100), self.base.checkpoint)
        if self.base.url:
            model = {"name": self.base.checkpoint, "url": self.base.url, "directory": "checkpoints"}
            self.checkpoint["properties"]["models"] = [model]
        self.latent = add("EmptyLatentImage", (420, 230, 360, 110), self.base.side, self.base.side, 1)
        self.canvas.frame("1  Model and size", self.checkpoint, self.latent)

    def styles(self, strengths: dict[str, float]) -> Socket:
        """The stack of styles; returns its output."""
        loaders: list[Json] = []
        for index, (style, strength) in enumerate(strengths.items()):
            box = (860, 230 * index, 380, 180)
            loader = self.canvas.add("LoadStyleLoRA", box, self.base.lora(style), strength, strength)
            if loaders:
                self.canvas.connect(Socket(loaders[-1], "stack"), loader, "stack")
            loaders.append(loader)
        self.canvas.frame("2  Styles and strengths", *loaders)
        return Socket(loaders[-1], "stack")

    def mix(self, stack: Socket, left: int) -> Json:
        """The mix with its report."""
        mix = self.canvas.add(
            "MixLoRAWeights",
            *((left, 0, 380, 200), "sum", 1.0, 0.0),
            model=Socket(self.checkpoint, "MODEL"),
            clip=Socket(self.checkpoint, "CLIP"),
            stack=stack,
        )
        source = Socket(mix, "report")
        report = self.canvas.add("PreviewAny", (left, 260, 380, 380), title="What was mixed", source=source)
        self.canvas.frame("3  The mix", mix, report)
        return mix

    def prompts(self, left: int, prompt: str, clip: Socket, stack: Socket | None = None) -> dict[str, Socket]:
        """Positive and negative prompt as inputs of a sampler; encoded for each LoRA alone where there is a stack."""
        kind, output = ("EncodeTextPerLoRA", "conditioning") if stack else ("CLIPTextEncode", "CONDITIONING")
        inputs: dict[str, Any] = {"clip": clip} | ({"stack": stack} if stack else {})
        positive = self.canvas.add(kind, (left, 0, 400, 200), prompt, title="Prompt", **inputs)
        negative = self.canvas.add(kind, (left, 260, 400, 140), "", title="Negative prompt", **inputs)
        self.canvas.frame("The prompt", positive, negative)
        return {"positive": Socket(positive, output), "negative": Socket(negative, output)}

    def painting(
        self, title: str, place: tuple[int, int], kind: str, values: tuple, prefix: str, **inputs: Any
    ) -> Json:
        """A sampler of a kind with further values, and the picture that it paints; returns the sampler."""
        (left, top), height = place, 280 + 30 * len(values)
        latent = Socket(self.latent, "LATENT")
        sampler = self.canvas.add(kind, (left, top, 340, height), *SAMPLING, *values, latent_image=latent, **inputs)
        samples = Socket(sampler, "LATENT" if kind == "KSampler" else "latent")
        vae = Socket(self.checkpoint, "VAE")
        decode = self.canvas.add("VAEDecode", (left, top + height + 60, 340, 60), samples=samples, vae=vae)
        save = self.canvas.add("SaveImage", (left + 380, top, 400, 440), prefix, images=Socket(decode, "IMAGE"))
        self.canvas.frame(title, sampler, decode, save)
        return sampler


def mixed(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """MixLoRA: one blend of weights."""
    about = (
        "# MixLoRA\n\nThree style LoRAs in one picture, each as loud as its **strength_model** (λ) says.\n\n"
        "**Try**\n- other strengths, and other modes of *Mix LoRA weights*\n"
        "- *monet style*, *van gogh style*, *studio ghibli style* in the prompt\n"
        "- the report under *Mix LoRA weights*: what was really applied\n"
        "- styles too strong together? *mode* `sum to total`, or lower strengths\n"
    )
    drawing = Drawing(base, about)
    mix = drawing.mix(drawing.styles(strengths), 1320)
    prompts = drawing.prompts(1780, prompt, Socket(mix, "clip"))
    drawing.painting("The picture", (2260, 0), "KSampler", (), prefix, model=Socket(mix, "model"), **prompts)
    return drawing.canvas


def prompted(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """LoRA Weights from Prompt: strengths and windows stand in the prompt."""
    about = (
        "# LoRA Weights from Prompt\n\nThe prompt itself says how strongly, and when, each style speaks. The report "
        "under the node says what was understood.\n\n**Try**\n- `70 % monet, 30 % studio ghibli`\n"
        "- `equal mix of van gogh texture, monet lighting and studio ghibli animation style`\n"
        "- `<lora:file name:0.6>`, and for the first 40 % of the steps `<lora:file name:0.6@0-40%>`\n"
        "- a prompt that only names a style: it speaks alone\n"
    )
    drawing = Drawing(base, about)
    add = drawing.canvas.add
    model, clip = Socket(drawing.checkpoint, "MODEL"), Socket(drawing.checkpoint, "CLIP")
    stack = drawing.styles(strengths)
    values = (prompt, "silent", "error", False)
    node = add(
        "LoRAWeightsFromPrompt", (1320, 0, 460, 380), *values, title="Prompt", model=model, clip=clip, stack=stack
    )
    report = add("PreviewAny", (1320, 440, 460, 320), title="What was understood", source=Socket(node, "report"))
    drawing.canvas.frame("3  The prompt", node, report)
    negative = add("CLIPTextEncode", (1860, 0, 380, 140), "", title="Negative prompt", clip=Socket(node, "clip"))
    drawing.canvas.frame("Not in the picture", negative)
    texts = {"positive": Socket(node, "conditioning"), "negative": Socket(negative, "CONDITIONING")}
    drawing.painting("The picture", (2320, 0), "KSampler", (), prefix, model=Socket(node, "model"), **texts)
    return drawing.canvas


def switched(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """LoRA Switch: the styles take turns."""
    about = (
        "# LoRA Switch\n\nThree style LoRAs take turns: in each step one speaks, alone and at its full strength. As "
        "fast as one LoRA.\n\n**Try**\n- *switch_every*: 0 is automatic, more makes turns longer\n"
        "- *order*, such as `3, 1, 2`: who begins decides the layout\n- the timetable under the sampler\n"
    )
    drawing = Drawing(base, about)
    stack = drawing.styles(strengths)
    prompts = drawing.prompts(1320, prompt, Socket(drawing.checkpoint, "CLIP"), stack)
    inputs = {"model": Socket(drawing.checkpoint, "MODEL"), "stack": stack} | prompts
    sampler = drawing.painting("The picture", (1800, 0), "LoRASwitchSampler", (0, ""), prefix, **inputs)
    text, table = Socket(sampler, "timetable"), Socket(sampler, "timetable_picture")
    said = drawing.canvas.add("PreviewAny", (2640, 0, 400, 200), title="Who speaks when", source=text)
    drawn = drawing.canvas.add("PreviewImage", (2640, 260, 400, 260), images=table)
    drawing.canvas.frame("The timetable", said, drawn)
    return drawing.canvas


def composited(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """LoRA Composite: the styles' predictions are averaged."""
    about = (
        "# LoRA Composite\n\nEvery style LoRA predicts alone in each step, and the predictions are averaged: no LoRA "
        "distorts another's weights. Costs up to three times as much.\n\n**Try**\n"
        "- *weights*, such as `2, 1, 1`: how much each style decides\n"
        "- strengths above 1: an average softens every style\n"
    )
    drawing = Drawing(base, about)
    stack = drawing.styles(strengths)
    prompts = drawing.prompts(1320, prompt, Socket(drawing.checkpoint, "CLIP"), stack)
    inputs = {"model": Socket(drawing.checkpoint, "MODEL"), "stack": stack} | prompts
    drawing.painting("The picture", (1800, 0), "LoRACompositeSampler", ("",), prefix, **inputs)
    return drawing.canvas


def compared(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """Merge, Switch and Composite beside each other, with one seed."""
    about = (
        "# Merge, Switch, Composite\n\nThe same prompt, seed, LoRAs and strengths in three ways: all LoRAs in the "
        "weights at once (merge), in turns (switch), and averaged (composite).\n\n**Try**\n"
        "- more or fewer LoRAs: the more, the more a merge suffers\n- other strengths, for all three at once\n"
    )
    drawing = Drawing(base, about)
    stack, model = drawing.styles(strengths), Socket(drawing.checkpoint, "MODEL")
    mix = drawing.mix(stack, 1320)
    prompts = drawing.prompts(1780, prompt, Socket(drawing.checkpoint, "CLIP"))
    composed = {"model": model, "stack": stack} | prompts
    drawing.painting("Merge", (2260, 0), "KSampler", (), f"{prefix}_merge", model=Socket(mix, "model"), **prompts)
    drawing.painting("Switch", (2260, 620), "LoRASwitchSampler", (0, ""), f"{prefix}_switch", **composed)
    drawing.painting("Composite", (2260, 1240), "LoRACompositeSampler", ("",), f"{prefix}_composite", **composed)
    return drawing.canvas


WORKFLOWS: dict[str, tuple[Callable[..., Canvas], str, dict[str, float]]] = {
    "MixLoRA": (mixed, VAN_GOGH, LOUD),
    "MixLoRA three styles": (mixed, THREE, EQUAL),
    "LoRA Weights from Prompt": (prompted, SPOKEN, FULL),
    "LoRA Switch": (switched, THREE, FULL),
    "LoRA Composite": (composited, THREE, FULL),
    "Merge Switch Composite": (compared, THREE, FULL),
}
"""Title -> how it is drawn, its prompt, and how loudly each style speaks."""


def all_workflows() -> dict[str, Json]:
    """Every example workflow: title, which is also the file's stem -> the workflow."""
    workflows = {}
    for base, suffix in ((STANDIN, "stand-in"), (SD15, "SD v1.5")):
        for title, (draw, prompt, strengths) in WORKFLOWS.items():
            name = f"{title} {suffix}"
            prefix = "mixlora/" + name.replace(" ", "_")
            workflows[name] = draw(base, prefix, prompt, strengths).saved(name)
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
