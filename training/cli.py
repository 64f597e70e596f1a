"""The trainer's command line: the order of work."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import standalone
from .ending import conclude, exit_code, memory_advice, seen_off
from .options import Job, parse, read_prompts
from .run_folder import RunFolder
from .settings import TrainingError

if TYPE_CHECKING:
    from .display import Display
    from .distribution import World
    from .samples import Samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trainer and returns the exit code; `options` lists them for the user."""
    return exit_code(lambda: run(parse(arguments)))


def run(job: Job) -> int:
    """Checks, then trains while it holds the output's lock; see `main` for the exit code."""
    from .distribution import joined_world

    began = time.monotonic()
    if job.output.suffix != ".safetensors":
        raise TrainingError(f"--output {job.output}: expected a name that ends with .safetensors.")
    prompts = read_prompts(job.run.sample_prompts)
    folder = RunFolder(job.output)
    with joined_world(job.device) as world, world.quiet(), folder.locked() if world.main else nullcontext():
        if world.main:
            check_output(job, folder)
        start_comfy(job.device, world)
        with memory_advice(job.settings, folder):
            return _train(job, folder, prompts, began, world)


def _train(job: Job, folder: RunFolder, prompts: list[str], began: float, world: World) -> int:
    """Validates, encodes, trains, exports."""
    import comfy.sd1_clip

    from .base import load_base, make_room
    from .between import Between
    from .board import Board
    from .cache import Cache
    from .captions import count_chunks
    from .checkpoint import Autosave
    from .dataset import find_pictures
    from .display import Display
    from .encoding import encode, skipping
    from .export import export
    from .loop import train
    from .metadata import describe
    from .sample_pictures import SamplePictures, default_prompts
    from .stopping import Stop

    settings, display, date = job.settings, Display(), now()
    board = Board(folder.path / "tensorboard") if job.run.tensorboard and world.main else None
    data, cache = find_pictures(job.data, settings, count_chunks(comfy.sd1_clip.SD1Tokenizer())), Cache(job.cache)
    display.say(str(data))
    base, clip, vae = load_base(job.base, settings.dtype)
    sdxl = base.family == "sdxl"
    clip = skipping(clip, settings.clip_skip, sdxl=sdxl)
    if sdxl and settings.resolution < 768:
        display.warn(f"WARNING: SDXL paints about 1024 x 1024 pixels; --resolution is {settings.resolution}.")
    with world.main_first():  # what it caches, the others find
        everything = encode(
            data.pictures, clip, vae, base.model.process_latent_in, flip=settings.flip, sdxl=sdxl, cache=cache,
            progress=display.count,
        )  # fmt: skip
    display.say(str(cache))
    painter = None
    if job.run.sample_every and world.main:
        prompts = prompts or default_prompts(everything.captions)
        painter = SamplePictures(prompts, clip, vae, job.run, folder.path, settings.resolution)
    del clip, vae
    make_room(base)
    samples, held_out = split(job, everything, display)
    display.say(
        f"training on {base.device} in {str(base.dtype).removeprefix('torch.')}: {settings.steps} steps of "
        f"{settings.global_batch} samples ({settings.batch} x {settings.accumulate}), seed {settings.seed}"
        + (f", shared by {world.size} processes" if world.size > 1 else "")
    )

    def write(lora: Any, path: Path, steps: int) -> Any:
        about = describe(base, samples, settings, title=path.stem, steps=steps, date=date)
        return export(lora, path, base.model, about, keep_previous=path == folder.output)

    autosave = Autosave(folder.state, job.run.save_every, job.run.save_minutes, job.goes_on, display.warn)
    with Stop(job.run.max_minutes, began, at_once=job.finish) as stop:
        watch = Between(folder, job.run, display, stop, write, held_out, painter, board)
        with seen_off(watch):
            trained = train(
                base, samples, settings, autosave=autosave, on_step=watch.on_step, watch=watch, stop=stop, world=world
            )
    save = partial(write, trained.lora, folder.output, trained.steps)
    return conclude(trained, job, stop, world, folder, display, watch, autosave, save)


def split(job: Job, everything: Samples, display: Display) -> tuple[Samples, Any]:
    """What is trained on, and a Validation on the rest, if there is to be one."""
    from .validation import FEWEST_FOR_A_SHARE, Validation, held_out

    count, amount = len(everything), job.run.validation
    held = held_out(count, amount, job.settings.seed)
    if not held:
        if amount:
            display.say(
                f"fewer than {FEWEST_FOR_A_SHARE} pictures: none is held out; --validation 2 would hold out two"
            )
        return everything, None
    names = ", ".join(Path(everything.names[i]).name for i in held[:5]) + (", ..." if len(held) > 5 else "")
    display.say(f"held out for validation: {len(held)} of {count} pictures ({names})")
    rest = [i for i in range(count) if i not in held]
    return everything.subset(rest), Validation(everything.subset(held), job.run.validate_every)


def check_output(job: Job, folder: RunFolder) -> None:
    """Everything that would make the end of a long run fail, found before its start."""
    from .checkpoint import Autosave

    unfinished = Autosave(folder.state).exists()
    existing = [path for path in ([job.output] if unfinished else folder.adapters()) if path.exists()]
    if existing and not job.overwrite:
        names = ", ".join(map(str, existing))
        raise TrainingError(f"Existing: {names}; give --overwrite to replace, or another --output.")
    if unfinished and not job.goes_on:
        raise TrainingError(
            f"{folder.path} holds an unfinished run; give --resume to continue it, --finish to make a file of it as it "
            "is, or delete it."
        )
    if job.finish and not unfinished:
        raise TrainingError(f"--finish: {folder.path} holds no unfinished run; leave it out.")


def start_comfy(device: str, world: World) -> None:
    """Imports ComfyUI so that it works on `device`."""
    name, _, number = device.partition(":")
    if name not in ("auto", "cpu", "cuda") or (number and not (name == "cuda" and number.isdecimal())):
        raise TrainingError(f"--device {device}: expected auto, cpu, cuda or cuda:N.")
    if name == "cuda" and world.size == 1:  # of several processes, each has its own already
        import torch

        if int(number or 0) >= torch.cuda.device_count():
            raise TrainingError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA device(s).")
        torch.cuda.set_device(int(number or 0))  # ComfyUI takes the current one
    standalone.import_comfy(cpu=None if name == "auto" else name == "cpu")


def now() -> str:
    """Now, or what SOURCE_DATE_EPOCH says (reproducible-builds.org), so that equal runs can give equal files."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    utc = datetime.timezone.utc
    moment = datetime.datetime.fromtimestamp(int(epoch), utc) if epoch else datetime.datetime.now(utc)
    return moment.isoformat(timespec="seconds")
