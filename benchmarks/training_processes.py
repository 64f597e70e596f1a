"""One process against two that share its global batch, over gloo on the CPU.

As a module, ``python -m mixlora.benchmarks.training_processes FILE``, it is one of the two; a launcher's variables in
the environment tell it which.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..standalone import import_comfy
from ..training.distribution import World, joined_world
from ..training.files import serialise, write_atomically
from .results import Row


def process_rows(steps: int = 20) -> list[Row]:
    """Relative difference of adapter and losses after `steps` steps of four samples, on the stand-in's layout."""
    from safetensors.torch import load_file

    with one_thread():  # as each of the two has: with more of them matrix products have other last bits
        start, one = trained(World(), 0)["adapter"], trained(World(), steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two.safetensors"
        _run_two(path, steps)
        two = load_file(path)

    def relative(name: str) -> float:
        return ((two[name] - one[name]).norm() / one[name].norm()).item()

    moved = one["adapter"] - start
    where = f"same global batch, a thread each, {steps} steps"
    return [
        Row(f"1 process / 2 processes (gloo), {where}, adapter", relative("adapter"), 1e-6, at_most=True),
        Row(f"1 process / 2 processes (gloo), {where}, losses", relative("losses"), 1e-6, at_most=True),
        Row(
            "the same, of the adapter's way from its start",
            ((two["adapter"] - one["adapter"]).norm() / moved.norm()).item(),
        ),
    ]


def trained(world: World, steps: int) -> dict[str, Any]:
    """What came out: the adapter's numbers and the losses; of 0 steps, the start. ComfyUI must have been imported."""
    import torch

    from ..training.loop import train
    from ..training.settings import TrainSettings
    from .training import base_of, make_task, samples_of

    task, settings = make_task("two levels", side=8), TrainSettings(steps=max(steps, 1), accumulate=4)
    outcome = train(base_of(task), samples_of(task), settings, world=world, stop=lambda: steps == 0)
    return {"adapter": outcome.lora.flat.detach(), "losses": torch.tensor(outcome.losses)}


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block torch computes with one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_two(path: Path, steps: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __name__, str(path), str(steps)]
        processes.append(subprocess.Popen(command, env={**os.environ, **names, **where}))
    if any(codes := [process.wait() for process in processes]):
        raise RuntimeError(f"The two processes ended with {codes}; what failed is said above.")


if __name__ == "__main__":
    with joined_world("cpu") as joined:
        import_comfy(cpu=True)
        found = trained(joined, int(sys.argv[2]))
        if joined.main:
            write_atomically(Path(sys.argv[1]), serialise(found, {}))
