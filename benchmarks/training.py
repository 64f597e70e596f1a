"""How good and how fast the trainer is: ``python -m mixlora.benchmarks.training`` (`make bench-train`).

All trainers train the same LoRA on the same random SD v1.5, side by side, turn by turn; what counts is each one's
fastest step, and of every number only the ratio. What a row compares is said in its name and in `training_peers`.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..standalone import has_gpu, import_comfy
from .results import FOLDER, Row, table, write_results

if TYPE_CHECKING:
    from ..training.base import Base
    from ..training.samples import Samples
    from .training_peers import Task

PARTS = ("file", "processes", "resume", "speed")
"""What is measured unless --only says less; --styles adds what takes hours."""


@dataclass(frozen=True)
class Extent:
    """How much is measured; the defaults are what the table asks."""

    side: int = 32
    """Of the latents; a GPU takes 64."""
    steps: int = 2
    """Timed steps of each trainer in a turn."""
    rounds: int = 3
    depth: str = "full"


def fastest(trainers: dict[str, Callable[[int], list[float]]], steps: int, rounds: int) -> dict[str, float]:
    """Seconds of each trainer's fastest step; they take turns. Each drops the first step of its turn itself."""
    seconds = dict.fromkeys(trainers, float("inf"))
    for _ in range(rounds):
        for name, run in trainers.items():
            gc.collect()
            spent = run(steps)
            seconds[name] = min(seconds[name], *spent)
            print(f"  {name:<28} " + " ".join(f"{each:7.2f}" for each in spent) + "  s per step", flush=True)
    return seconds


def speed_rows(task: Task, extent: Extent) -> list[Row]:
    """Samples per second against the peers, one picture at a time, four to a step."""
    from . import training_peers as peers

    scripts = peers.Scripts(task)
    seconds = fastest(
        {
            "ours": lambda steps: ours(task, steps),
            "ours, all layers": lambda steps: ours(task, steps, targets="all"),
            "TrainLoraNode": lambda steps: peers.train_lora_node(task, steps),
            "diffusers' way": scripts.diffusers_way,
            "kohya's way": scripts.kohya_way,
        },
        extent.steps,
        extent.rounds,
    )
    own = seconds.pop("ours")
    every = seconds.pop("ours, all layers")
    samples = peers.BATCH * peers.ACCUMULATE
    where = f"SD v1.5 {extent.depth}, {8 * extent.side} px, batch 1 x 4, rank 4, {_name(task.dtype)}"
    rows = [
        Row(f"samples/s, ours, {where}", samples / own),
        Row("ours / ComfyUI's TrainLoraNode, which adapts all layers", seconds["TrainLoraNode"] / own, 1.5),
        Row("ours with all matrices adapted / ComfyUI's TrainLoraNode", seconds["TrainLoraNode"] / every),
        Row("ours / diffusers' way, VAE and CLIP in every batch", seconds["diffusers' way"] / own, 1.15),
        Row("ours / kohya's way, latents cached, CLIP in every batch", seconds["kohya's way"] / own, 1.15),
    ]
    return rows + (gpu_rows(task, min(seconds.values()) / own) if has_gpu() else [])


def gpu_rows(task: Task, against_fastest: float) -> list[Row]:
    """The share of the device's peak at batch 4, and the memory at batch 1."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        ours(task, 0, accumulate=1)
    per_sample = counter.get_total_flops()
    speed = 4 / min(ours(task, 8, batch=4, accumulate=1))
    torch.cuda.reset_peak_memory_stats()
    ours(task, 2, accumulate=1)
    memory = torch.cuda.max_memory_allocated() / 1e9
    return [
        Row("share of the measured bf16 matmul peak, batch 4", speed * per_sample / matmul_peak(), 0.3),
        Row("ours / the fastest peer", against_fastest, 1.2),
        Row("peak memory, batch 1 (GB)", memory, 3.5, at_most=True),
    ]


def matmul_peak(size: int = 8192, repeats: int = 20) -> float:
    """Floating-point operations per second of a large bf16 matrix product on torch's GPU."""
    import torch

    a, b, product = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    for _ in range(3):
        torch.mm(a, b, out=product)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, b, out=product)
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - begin)


def ours(task: Task, steps: int, **settings: Any) -> list[float]:
    """Seconds of each step of this trainer after its first."""
    from ..training.loop import train
    from ..training.settings import TrainSettings
    from .training_peers import between

    base, samples, times = base_of(task), samples_of(task), []
    options = {"batch": 1, "accumulate": 4, **settings, "steps": steps + 1}
    train(base, samples, TrainSettings(**options), on_step=lambda _: times.append(task.synchronise()))
    return between(times)


def file_rows(task: Task) -> list[Row]:
    """What the UNet predicts while the adapter is trained, against the exported file applied by ComfyUI."""
    import comfy.model_management
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    from ..training.export import export
    from ..training.loop import train
    from ..training.settings import TrainSettings

    base, samples = base_of(task), samples_of(task)
    trained = train(base, samples, TrainSettings(steps=3, accumulate=1, lr=1e-2, warmup=0.0))

    @torch.no_grad()
    def predict() -> Any:
        rows = task.latents[:2].to(base.device, base.dtype), task.context[:2].to(base.device, base.dtype)
        return base(rows[0], torch.tensor([20.0, 800.0], device=base.device), rows[1]).float()

    plain = predict()
    with trained.lora.attached(base.unet):
        training = predict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trained.safetensors"
        export(trained.lora, path, task.model, {}, dtype=torch.float32)
        patched: Any = comfy.sd.load_lora_for_models(task.model, None, load_file(path), 1.0, 0.0)[0]
    patched.patch_model(device_to=patched.load_device)
    try:
        applied = predict()
    finally:
        patched.unpatch_model(device_to=patched.load_device)
    effect = ((training - plain).norm() / plain.norm()).item()
    error = ((training - applied).norm() / applied.norm()).item()
    return [
        Row("training forward / exported file in ComfyUI, relative error", error, 1e-5, at_most=True),
        Row("the same, of the adapter's effect on the prediction", error / effect),
    ]


def resume_rows(task: Task, steps: int = 6) -> list[Row]:
    """A run that is stopped at a random step and resumed, against one that is not."""
    from ..training.checkpoint import Autosave
    from ..training.files import raw_bytes
    from ..training.loop import train
    from ..training.settings import TrainSettings

    base, samples = base_of(task), samples_of(task)
    settings = TrainSettings(steps=steps, accumulate=1, ema=0.9)
    whole = train(base, samples, settings)
    last = random.randint(1, steps - 1)
    with tempfile.TemporaryDirectory() as folder:
        autosave = Autosave(Path(folder) / "state", every_steps=0, every_minutes=0, resume=True)
        calls = iter(range(steps))
        part = train(base, samples, settings, autosave=autosave, stop=lambda: next(calls) >= last)
        print(f"  stopped after step {part.steps} of {steps}")
        rest = train(base, samples, settings, autosave=autosave)
    pairs = zip(raw_bytes(whole.lora.flat), raw_bytes(rest.lora.flat), strict=True)
    different = sum(a != b for a, b in pairs) + sum(a != b for a, b in zip(whole.losses, rest.losses, strict=True))
    return [Row("resumed at a random step / uninterrupted, different bytes", different, 0, at_most=True)]


def make_task(extent: Extent) -> Task:
    """The common task: eight random pictures and texts."""
    import torch

    from . import world
    from .training_peers import Task

    dtype = torch.bfloat16 if has_gpu() else torch.float32
    model = world.full_unet(dtype, levels={"full": 4, "two levels": 2}[extent.depth])
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(8, 4, extent.side, extent.side, generator=source)
    context = torch.randn(8, 77, 768, generator=source)
    task = Task(model, latents, context, extent.depth)
    model.model.diffusion_model.to(task.device)
    return task


def measure(parts: Sequence[str], extent: Extent) -> list[Row]:
    """The rows of the parts asked for, in the table's order."""
    from .training_processes import process_rows

    task, rows = make_task(extent), []
    runs = {
        "file": lambda: file_rows(task),
        "processes": process_rows,
        "resume": lambda: resume_rows(task),
        "speed": lambda: speed_rows(task, extent),
    }
    for part in (part for part in PARTS if part in parts):
        print(f"{part}:", flush=True)
        rows += runs[part]()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table, writes benchmarks/results/training-<device>.json where nothing was left out."""
    wanted = Extent(side=64 if has_gpu() else 32)
    parser = argparse.ArgumentParser(prog="bench-train", description="Measure the trainer and print the table.")
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"parts of {', '.join(PARTS)}")
    add("--side", type=int, default=wanted.side, help="side of the latents (default: %(default)s)")
    add("--steps", type=int, default=wanted.steps, help="timed steps in a turn (default: %(default)s)")
    add("--rounds", type=int, default=wanted.rounds, help="turns of each trainer (default: %(default)s)")
    add("--depth", choices=("full", "two levels"), default="full", help="two levels: a quick look, not SD v1.5")
    add("--styles", action="store_true", help="retrain the stand-in's styles with default settings, too: hours")
    given = parser.parse_args(arguments)
    import_comfy()
    extent = Extent(given.side, given.steps, given.rounds, given.depth)
    rows = measure(given.only, extent)
    if given.styles:
        from .training_styles import style_rows

        rows += style_rows()
    print(table(rows))
    enough = given.depth == "full" and extent.steps >= wanted.steps and extent.rounds >= wanted.rounds
    if set(given.only) == set(PARTS) and enough and extent.side >= wanted.side:
        print(f"written: {write_results('training', rows, FOLDER)}")
    return 0


def base_of(task: Task) -> Base:
    """The task's model, as the trainer wants it."""
    from ..training.base import Base

    return Base.from_comfy(task.model)


def samples_of(task: Task) -> Samples:
    """The task's pictures and texts, as the trainer wants them."""
    from ..training.samples import Samples

    return Samples(latents=task.latents, context=task.context, empty=task.context[0] * 0.5)


def _name(dtype: Any) -> str:
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[str(dtype).removeprefix("torch.")]


if __name__ == "__main__":
    main()
