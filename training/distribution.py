"""Several processes, GPUs or machines as one run: who does what, and what they exchange.

Every process holds the whole base and adapter, computes its share of a step's micro-batches, and adds its gradient to
that of the others; then all make the same update. `accelerate launch` (or torchrun) starts them.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .settings import TrainingError

_PATIENCE = datetime.timedelta(hours=6)  # the others wait while the main process encodes, paints samples, saves


@dataclass(frozen=True)
class World:
    """One process among all of a run; alone where nothing is given."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def sum_(self, *tensors: Tensor) -> None:
        """Replaces each tensor by its sum over all processes, in place and with the same bits everywhere."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def send(self, data: bytes, device: torch.device) -> bytes:
        """The main process's `data`, everywhere."""
        if self.size == 1:
            return data
        length = torch.tensor([len(data)], device=device)
        torch.distributed.broadcast(length, 0)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.main and data:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        content = content.to(device)
        torch.distributed.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    def agree(self, recipe: Mapping[str, Any], device: torch.device) -> None:
        """Raises TrainingError in every process if they are about to train different things."""
        if self.size == 1:
            return
        mine = json.loads(json.dumps(recipe))
        mains = json.loads(self.send(json.dumps(mine).encode(), device))
        changed = [name for name in sorted(mine.keys() | mains.keys()) if mine.get(name) != mains.get(name)]
        differ = torch.zeros(self.size, device=device)
        differ[self.rank] = len(changed)
        self.sum_(differ)
        if others := differ.nonzero().flatten().tolist():
            what = "; here: " + ", ".join(changed) if changed else ""
            raise TrainingError(
                f"Process(es) {', '.join(map(str, others))} of {self.size} have other settings, another base or other "
                f"samples than process 0{what}. Give all of them the same files and options."
            )

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Within the block only the main process prints."""
        with ExitStack() as stack:
            if not self.main:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others do: what it writes to a shared disk they find there."""
        if self.size > 1 and not self.main:
            torch.distributed.barrier()
        yield
        if self.size > 1 and self.main:
            torch.distributed.barrier()


@contextmanager
def joined_world(device: str = "auto") -> Iterator[World]:
    """Meets the other processes, if a launcher started several, and makes this one's GPU torch's current one.

    Enter it before the first import of comfy, which works on that GPU from then on. Raises TrainingError where
    accelerate is needed and missing, and for a `device` with a number: each process has its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if ":" in device:
        raise TrainingError(f"--device {device}: {size} processes were started, each on its own device; give cuda.")
    try:
        from accelerate import PartialState
    except ImportError as error:
        missing = f"{size} processes need the package accelerate ({error}): pip install accelerate."
        raise TrainingError(missing) from error
    # torch.optim imports it at its first use. Imported while the processes are joined it holds on to what joins them,
    # whose threads then outlive the run and now and then abort the exit of a process that has done all its work.
    importlib.import_module("torch._dynamo")
    state = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    try:
        yield World(state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()
