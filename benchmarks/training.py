"""How good and how fast the trainer is: ``python -m mixlora.benchmarks.training`` (`make bench-train`).

All trainers train the same LoRA on the same random SD v1.5, side by side, turn by turn; what counts is each one's
fastest step, and of every number only the ratio. What a row compares is said in its name and in `training_peers`.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..standalone import has_gpu, import_comfy
from .allocator import keep_memory
from .results import FOLDER, Row, table, write_results

if TYPE_CHECKING:
    from ..training.base import Base
    from ..training.samples import Samples
    from .training_peers import Task

PARTS = ("file", "processes", "resume", "speed")
"""What is measured unless --only says less; --styles adds what takes hours."""


class Size(NamedTuple):
    """What goes through the UNet: latents of side x side, in batches, so many of them to a step."""

    side: int
    batch: int
    accumulate: int

    def __str__(self) -> str:
        return f"{8 * self.side} px, batch {self.batch}" + (f" x {self.accumulate}" if self.accumulate > 1 else "")


@dataclass(frozen=True)
class Extent:
    """How much is measured; the defaults are what the table asks of a CPU."""

    sizes: tuple[Size, ...] = (Size(32, 1, 4), Size(64, 1, 1))
    steps: int = 1
    """Timed steps of each trainer in a turn."""
    rounds: int = 2
    depth: str = "full"
    """"full": SD v1.5; "two levels": the stand-in's layout, for tests."""


GPU = Extent((Size(64, 4, 1),), steps=8)


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
    """Samples per second against the peers, for each size."""
    from . import training_peers as peers

    scripts, rows = peers.Scripts(task.device, task.dtype, extent.depth == "full"), []
    for size in extent.sizes:
        sized = resized(task, size)
        print(f" {size}", flush=True)
        trainers = {
            "ours": partial(ours, sized),
            "ours, all layers": partial(ours, sized, targets="all"),
            "TrainLoraNode": partial(peers.train_lora_node, sized),
            "diffusers' way": partial(scripts.diffusers_way, sized),
            "kohya's way": partial(scripts.kohya_way, sized),
        }
        seconds = fastest(trainers, extent.steps, extent.rounds)
        own, every = seconds.pop("ours"), seconds.pop("ours, all layers")
        rows += [
            Row(f"{size}: samples/s, ours, {_name(task.dtype)}", size.batch * size.accumulate / own),
            Row(f"{size}: ours / ComfyUI's TrainLoraNode (it adapts all layers)", seconds["TrainLoraNode"] / own, 1.5),
            Row(f"{size}: ours with all layers / the same", seconds["TrainLoraNode"] / every),
            Row(f"{size}: ours / diffusers' way (VAE, CLIP in each batch)", seconds["diffusers' way"] / own, 1.15),
            Row(f"{size}: ours / kohya's way (CLIP in each batch)", seconds["kohya's way"] / own, 1.15),
        ]
        if has_gpu():
            scripts.move("cpu")
            rows += gpu_rows(sized, size, own, min(seconds.values()))
            scripts.move(task.device)
    return rows


def gpu_rows(task: Task, size: Size, own: float, fastest_peer: float) -> list[Row]:
    """The share of the device's peak, given the seconds of a step, and the memory at batch 1."""
    import torch

    speed = operations(task) * size.batch * size.accumulate / own
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    ours(task, 2, batch=1, accumulate=1)
    memory = torch.cuda.max_memory_allocated() / 1e9
    return [
        Row(f"{size}: share of the measured bf16 matmul peak", speed / matmul_peak(), 0.3),
        Row(f"{size}: ours / the fastest peer", fastest_peer / own, 1.2),
        Row(f"{8 * size.side} px, batch 1: peak memory (GB)", memory, 3.5, at_most=True),
    ]


def operations(task: Task) -> int:
    """Floating-point operations of one sample, forward and backward; of attention only where torch counts its kernel.

    It counts those of GPUs: 1.7e12 for SD v1.5 at 512 px. On a CPU 1.33e12 are counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        ours(task, 0, batch=1, accumulate=1)
    return counter.get_total_flops()


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


def resized(task: Task, size: Size) -> Task:
    """The same model with pictures of another size."""
    import torch

    source = torch.Generator().manual_seed(1)
    latents = torch.randn(8, 4, size.side, size.side, generator=source)
    return replace(task, latents=latents, batch=size.batch, accumulate=size.accumulate)


def ours(task: Task, steps: int, **settings: Any) -> list[float]:
    """Seconds of each step of this trainer after its first."""
    from ..training.loop import train
    from ..training.settings import TrainSettings
    from .training_peers import between

    base, samples, times = base_of(task), samples_of(task), []
    options = {"batch": task.batch, "accumulate": task.accumulate, **settings, "steps": steps + 1}
    train(base, samples, TrainSettings(**options), on_step=lambda _: times.append(task.synchronise()))
    return between(times)


def make_task(depth: str = "full", side: int = 32) -> Task:
    """The model with eight random pictures and texts."""
    import torch

    from . import world
    from .training_peers import Task

    dtype = torch.bfloat16 if has_gpu() else torch.float32
    model = world.full_unet(dtype, levels={"full": 4, "two levels": 2}[depth])
    source = torch.Generator().manual_seed(0)
    latents, context = torch.randn(8, 4, side, side, generator=source), torch.randn(8, 77, 768, generator=source)
    task = Task(model, latents, context)
    model.model.diffusion_model.to(task.device)
    return task


def measure(parts: Sequence[str], extent: Extent) -> list[Row]:
    """The rows of the parts asked for, in the table's order."""
    from .training_exactness import file_rows, resume_rows
    from .training_processes import process_rows

    task, rows = make_task(extent.depth, extent.sizes[0].side), []
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
    """Measures, prints the table, writes benchmarks/results/training-<device>.json; parts alone have their names in it.

    A quick look writes nothing.
    """
    wanted = GPU if has_gpu() else Extent()
    parser = argparse.ArgumentParser(prog="bench-train", description="Measure the trainer and print the table.")
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"parts of {', '.join(PARTS)}")
    add("--side", type=int, nargs="+", metavar="N", help="sides of the latents, for another size of picture")
    add("--steps", type=int, default=wanted.steps, help="timed steps in a turn (default: %(default)s)")
    add("--rounds", type=int, default=wanted.rounds, help="turns of each trainer (default: %(default)s)")
    add("--depth", choices=("full", "two levels"), default="full", help="two levels: a quick look, not SD v1.5")
    add("--styles", action="store_true", help="retrain the stand-in's styles with default settings, too: hours")
    given = parser.parse_args(arguments)
    if given.steps < 1 or given.rounds < 1:
        parser.error("--steps and --rounds: expected 1 or more")
    keep_memory()
    import_comfy()
    sizes = tuple(Size(side, *wanted.sizes[0][1:]) for side in given.side or ()) or wanted.sizes
    extent = Extent(sizes, given.steps, given.rounds, given.depth)
    rows = measure(given.only, extent)
    if given.styles:
        from .training_styles import style_rows

        rows += style_rows()
    print(table(rows))
    enough = extent.steps >= wanted.steps and extent.rounds >= wanted.rounds and extent.depth == wanted.depth
    if enough and extent.sizes == wanted.sizes:
        parts = [part for part in PARTS if part in given.only]
        topic = "training" if len(parts) == len(PARTS) else "-".join(["training", *parts])
        print(f"written: {write_results(topic, rows, FOLDER)}")
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
