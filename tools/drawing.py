"""What example workflows are drawn with: the two bases, and columns of nodes from left to right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..standin.styles import STYLES
from .canvas import Canvas, Json, Socket
from .standin_files import CHECKPOINT, LORAS, ROUTER

SD15_URL = (
    "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors"
)


class Base(NamedTuple):
    """What is painted with: a checkpoint, where to get it (or ""), the picture's side in pixels, what must be said."""

    checkpoint: str
    url: str
    side: int
    note: str
    """What is said of it in every workflow; after it what is needed besides the checkpoint."""
    need_loras: str
    need_names: str
    """Of a prompt that names LoRAs."""
    need_router: str
    lora: Callable[[str], str]
    """Style or thing -> the name of its LoRA file."""
    router: str
    """The name of a router file."""


STANDIN = Base(
    CHECKPOINT,
    "",
    128,
    "The checkpoint and the LoRAs are the tiny stand-in of this project: landscapes of 128 × 128 pixels. "
    "`make demo` puts them into ComfyUI's `models` folder.\n",
    "",
    "",
    "",
    LORAS.__getitem__,
    ROUTER,
)
SD15 = Base(
    "v1-5-pruned-emaonly-fp16.safetensors",
    SD15_URL,
    512,
    "**Before you queue**\n"
    f"- put [the SD v1.5 checkpoint]({SD15_URL}) into `models/checkpoints`\n"
    "- *cfg* 2 is what MixLoRA was tried with, soft and painterly; 7 keeps closer to prompt and trigger words\n",
    "- put your own LoRAs for SD v1.5 into `models/loras` and choose them: the names in the nodes are placeholders\n"
    "- write each LoRA's trigger words into the prompt; the node's *trigger_words* output shows them\n",
    "- put your own LoRAs for SD v1.5 into `models/loras` and choose them: the names in the nodes are placeholders\n"
    "- in the prompt, put their file names or trigger words in the place of *van gogh*, *monet* and *studio ghibli*: a "
    "name that is no LoRA is an error\n",
    "- train a router over your LoRAs (`python training/train_router.py`), put it into `models/loras` and choose it: "
    "the name in the node is a placeholder\n"
    "- write the trigger words of its LoRAs into the prompt; the node's *trigger_words* output shows them\n",
    lambda name: f"your_{name}_{'style_' if name in STYLES else ''}sd15.safetensors",
    "your_router_sd15.safetensors",
)

SAMPLING = (42, "fixed", 30, 2.0, "euler", "normal", 1.0)
"""Seed, what happens to it after, steps, guidance, sampler, scheduler, denoise."""


@dataclass
class Drawing:
    """A workflow that comes about from left to right; every method draws one column or part of one."""

    base: Base
    about: str
    needs: str | None = None
    """What is needed besides the checkpoint; None: LoRAs."""
    canvas: Canvas = field(default_factory=Canvas)

    def __post_init__(self) -> None:
        add, needs = self.canvas.add, self.base.need_loras if self.needs is None else self.needs
        add("MarkdownNote", (0, 0, 340, 460), f"{self.about}\n{self.base.note}{needs}", title="About this workflow")
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
