"""One of several processes of test_training_processes.py: trains the toy in several ways, writes what came out.

python training_process.py FOLDER
"""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from mixlora.training.checkpoint import Autosave
from mixlora.training.distribution import World, joined_world
from mixlora.training.loop import train
from mixlora.training.settings import TrainingError
from safetensors.torch import save_file

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("test_training_loop.py"))
assert _spec and _spec.loader
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

SETTINGS = replace(toy.SETTINGS, steps=20, ema=0.9, noise_offset=0.1)
UNEVEN = replace(SETTINGS, accumulate=3)


def autosave(folder: Path, name: str) -> Autosave:
    return Autosave(folder / name, every_steps=0, every_minutes=0, resume=True)


def stopping(after: int, every: int):
    """Asks to stop in step `after` + 1, for a process that asks `every` times a step."""
    calls = iter(range(10**6))
    return lambda: next(calls) >= after * every


def main(folder: Path, world: World) -> None:
    assert world.size == 2
    results = {}
    for name, settings in (("even", SETTINGS), ("uneven", UNEVEN)):
        trained = train(toy.base(), toy.samples(), settings, world=world)
        results[name] = trained.lora.flat.detach()
        results[f"{name} losses"] = torch.tensor(trained.losses, dtype=torch.float64)

    # asked of the other process alone: of an uneven split it has the smaller half
    stop = stopping(7, 1) if world.rank else lambda: False
    part = train(toy.base(), toy.samples(), UNEVEN, world=world, stop=stop, autosave=autosave(folder, "two-one"))
    assert not part.finished and part.steps == 7
    with world.main_first():
        print(f"process {world.rank}", flush=True)
    results["resumed"] = train(
        toy.base(), toy.samples(), UNEVEN, world=world, autosave=autosave(folder, "one-two")
    ).lora.flat.detach()

    failing = toy.base()
    if world.rank:
        failing = replace(failing, call=lambda *_: 1 / 0)
    pictures = toy.samples(4 + world.rank)
    messages = {"failed": "", "few": ""}
    for name, base, samples, settings in (
        ("failed", failing, toy.samples(), SETTINGS),
        ("differ", toy.base(), pictures, SETTINGS),
        ("few", toy.base(), toy.samples(), replace(SETTINGS, accumulate=1)),
    ):
        try:
            train(base, samples, settings, world=world)
        except (TrainingError, ZeroDivisionError) as error:
            messages[name] = str(error)
    save_file(results, folder / f"{world.rank}.safetensors", {"messages": json.dumps(messages)})


def threads() -> list[str]:
    """Names of this process's threads, of torch's own too, where the system lists them."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]


if __name__ == "__main__":
    with joined_world("cpu") as joined:
        main(Path(sys.argv[1]), joined)
    # one that still runs while Python exits may abort the process, whose work was done
    assert not [name for name in threads() if "gloo" in name], threads()
