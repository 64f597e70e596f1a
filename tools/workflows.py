"""Draws the example workflows: ``python -m mixlora.tools.workflows`` writes example_workflows/*.json.

Each is drawn twice: for the stand-in that ships with the project and for a real SD v1.5 checkpoint. Nodes stand in
columns, from left to right as the picture comes about.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .. import standalone
from ..standin.styles import STYLES
from .canvas import Canvas, Json, Socket
from .drawing import SD15, STANDIN, Base, Drawing

FOLDER = standalone.ROOT / "example_workflows"

VAN_GOGH = "a mountain landscape at sunset, van gogh style"
THREE = (
    "a fantasy landscape with hills, flowers and sky, "
    "equal mix of van gogh texture, monet lighting and studio ghibli animation style"
)
SPOKEN = (
    "a fantasy landscape with hills, flowers and sky, 60 % van gogh texture and 40 % monet lighting, "
    "studio ghibli style:0.5@50-100%"
)
HALVES = "a mountain landscape at day, van gogh style, studio ghibli style"
ABOVE = "a hill landscape at day, monet style, van gogh style"
THINGS = "a sea landscape at day, a lighthouse, a hot air balloon, in the snow, monet style"
SCENE = {"lighthouse": 1.0, "balloon": 1.0, "snow": 0.75, "monet": 0.75}
LOUD = {"monet": 0.15, "van_gogh": 0.7, "ghibli": 0.15}
EQUAL: dict[str, float] = dict.fromkeys(STYLES, round(1 / 3, 4))
PAIR = {"van_gogh": 1.0, "ghibli": 1.0}
FULL: dict[str, float] = dict.fromkeys(STYLES, 1.0)


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
    drawing = Drawing(base, about, base.need_names)
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
        "- *mode* `full strength`: nothing is softened, at half the cost\n"
    )
    drawing = Drawing(base, about)
    stack = drawing.styles(strengths)
    prompts = drawing.prompts(1320, prompt, Socket(drawing.checkpoint, "CLIP"), stack)
    inputs = {"model": Socket(drawing.checkpoint, "MODEL"), "stack": stack} | prompts
    drawing.painting("The picture", (1800, 0), "LoRACompositeSampler", ("", "average"), prefix, **inputs)
    return drawing.canvas


def added(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """LoRA Composite at full strength: two things, weather and a style, each added as it is alone."""
    about = (
        "# LoRA Composite at full strength\n\nWhat each of four LoRAs changes by itself is added up, in every fourth "
        "step anew: none is softened, none distorts another's weights. Costs about twice as much.\n\n**Try**\n"
        "- *mode* `average`: LoRA Composite as published\n"
        "- strengths from 0.7 to 1, as each LoRA needs alone\n"
    )
    drawing = Drawing(base, about)
    stack = drawing.styles(strengths)
    prompts = drawing.prompts(1320, prompt, Socket(drawing.checkpoint, "CLIP"))
    inputs = {"model": Socket(drawing.checkpoint, "MODEL"), "stack": stack} | prompts
    values = ("", "full strength")
    drawing.painting("The picture", (1800, 0), "LoRACompositeSampler", values, prefix, **inputs)
    return drawing.canvas


def placed(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """Regions: one style on the left, another on the right."""
    about = (
        "# LoRA Regions\n\nTwo style LoRAs in one picture, each in its own half. One pass of the model serves both, so "
        "land and light go through.\n\n**Try**\n- masks of your own: add *Load Image*, paint in its mask editor (right "
        "click), and connect its MASK to *mask_1*\n"
        "- a LoRA without a mask speaks everywhere\n- softer or harder edges: *Feather Mask*\n"
    )
    drawing = Drawing(base, about)
    add, side = drawing.canvas.add, base.side
    stack = drawing.styles(strengths)
    black = add("SolidMask", (1320, 0, 300, 110), 0.0, side, side, title="Nothing")
    white = add("SolidMask", (1320, 170, 300, 110), 1.0, side * 5 // 8, side, title="The left part")
    soft = add("FeatherMask", (1320, 340, 300, 140), 0, 0, side // 4, 0, mask=Socket(white, "MASK"))
    nothing, edge = Socket(black, "MASK"), Socket(soft, "MASK")
    left = add("MaskComposite", (1320, 540, 300, 130), 0, 0, "add", title="Left", destination=nothing, source=edge)
    right = add("InvertMask", (1320, 730, 300, 60), title="Right", mask=Socket(left, "MASK"))
    drawing.canvas.frame("3  Where each speaks", black, white, soft, left, right)
    inputs = {"model": Socket(drawing.checkpoint, "MODEL"), "clip": Socket(drawing.checkpoint, "CLIP"), "stack": stack}
    masks = {"mask_1": Socket(left, "MASK"), "mask_2": Socket(right, "MASK")}
    node = add("ApplyLoRARegions", (1700, 0, 340, 260), "share", title="", **inputs, **masks)
    drawing.canvas.frame("4  The regions", node)
    prompts = drawing.prompts(2120, prompt, Socket(node, "clip"))
    drawing.painting("The picture", (2600, 0), "KSampler", (), prefix, model=Socket(node, "model"), **prompts)
    return drawing.canvas


def layered(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """Layered: two things over weather and a style."""
    about = (
        "# LoRA Layered\n\nTwo things, snow and a style, four LoRAs in one picture. What covers the picture is "
        "merged, each thing is added alone over it.\n\n**Try**\n- *things*: which LoRAs of the stack are things, by "
        "name, trigger words or place\n- what covers the picture at 0.75, things at 1\n- one thing costs nothing; with "
        "more of them each costs a prediction a step\n"
    )
    drawing = Drawing(base, about)
    stack = drawing.styles(strengths)
    inputs = {"model": Socket(drawing.checkpoint, "MODEL"), "clip": Socket(drawing.checkpoint, "CLIP"), "stack": stack}
    things = "lighthouse, balloon" if base is STANDIN else "1, 2"  # a placeholder's name would not outlive the choice
    node = drawing.canvas.add("ApplyLoRALayered", (1320, 0, 340, 180), things, title="", **inputs)
    source = Socket(node, "report")
    report = drawing.canvas.add("PreviewAny", (1320, 240, 340, 320), title="Who is a thing", source=source)
    drawing.canvas.frame("3  Which are things", node, report)
    prompts = drawing.prompts(1740, prompt, Socket(node, "clip"))
    drawing.painting("The picture", (2220, 0), "KSampler", (), prefix, model=Socket(node, "model"), **prompts)
    return drawing.canvas


def routed(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """Router: two styles, each where the router puts it."""
    turned = "- the styles in the prompt the other way round: this router has learned that the first one is above\n"
    about = (
        "# LoRA Router\n\nA router that was trained over several styles says for every place in the picture which of "
        f"them speaks there. Its file holds the LoRAs, too.\n\n**Try**\n{turned if base is STANDIN else ''}"
        "- *experts_per_token* 1: each place belongs to one style\n- *strength*: 1 is soft, 2 too much\n"
        "- a router of your own: `python training/train_router.py`\n"
    )
    drawing = Drawing(base, about, base.need_router)
    model = Socket(drawing.checkpoint, "MODEL")
    node = drawing.canvas.add("ApplyLoRARouter", (860, 0, 380, 200), base.router, 1.5, 0, title="", model=model)
    source = Socket(node, "report")
    report = drawing.canvas.add("PreviewAny", (860, 260, 380, 260), title="What the router is", source=source)
    drawing.canvas.frame("2  The router", node, report)
    prompts = drawing.prompts(1320, prompt, Socket(drawing.checkpoint, "CLIP"))
    drawing.painting("The picture", (1800, 0), "KSampler", (), prefix, model=Socket(node, "model"), **prompts)
    return drawing.canvas


def saved(base: Base, prefix: str, prompt: str, strengths: dict[str, float]) -> Canvas:
    """Save Mixed LoRA: a blend that one likes, as one file."""
    about = (
        "# Save Mixed LoRA\n\nA blend that you like becomes one LoRA file, for any UI that loads LoRAs, and for "
        "sharing. The picture shows the blend, the file gives the same one at strength 1.\n\n**Try**\n"
        "- first the strengths, with *Save Mixed LoRA* bypassed (Ctrl-B), then the file\n"
        "- *rank* 8: a smaller file, and the report says how far it is from the blend\n"
        "- *Load Style LoRA* with the new file (press R to refresh the lists)\n"
    )
    drawing = Drawing(base, about)
    stack = drawing.styles(strengths)
    model, clip = Socket(drawing.checkpoint, "MODEL"), Socket(drawing.checkpoint, "CLIP")
    mix = drawing.mix(stack, 1320)
    add, values = drawing.canvas.add, ("sum", 1.0, 0.0, 0, "fp16", "mixlora/blend")
    save = add("SaveMixedLoRA", (1780, 560, 400, 520), *values, model=model, clip=clip, stack=stack)
    drawing.canvas.frame("4  The blend as one file", save)
    prompts = drawing.prompts(1780, prompt, Socket(mix, "clip"))
    drawing.painting("The picture", (2260, 0), "KSampler", (), prefix, model=Socket(mix, "model"), **prompts)
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
    drawing.painting(
        "Composite", (2260, 1240), "LoRACompositeSampler", ("", "average"), f"{prefix}_composite", **composed
    )
    return drawing.canvas


WORKFLOWS: dict[str, tuple[Callable[..., Canvas], str, dict[str, float]]] = {
    "MixLoRA": (mixed, VAN_GOGH, LOUD),
    "MixLoRA three styles": (mixed, THREE, EQUAL),
    "Save Mixed LoRA": (saved, VAN_GOGH, LOUD),
    "LoRA Weights from Prompt": (prompted, SPOKEN, FULL),
    "LoRA Switch": (switched, THREE, FULL),
    "LoRA Composite": (composited, THREE, FULL),
    "LoRA Composite full strength": (added, THINGS, SCENE),
    "LoRA Regions": (placed, HALVES, PAIR),
    "LoRA Layered": (layered, THINGS, SCENE),
    "LoRA Router": (routed, ABOVE, {}),
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
