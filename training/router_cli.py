"""The command line of train_router.py: the order of work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli import check_output, now, split, start_comfy
from .ending import conclude, exit_code, memory_advice, seen_off
from .router_options import RouterJob, parse
from .run_folder import RunFolder
from .settings import TrainingError

if TYPE_CHECKING:
    from .dataset import Picture
    from .display import Display
    from .distribution import World
    from .router_experts import Loaded


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains a router and returns the exit code; `router_options` lists them for the user."""
    return exit_code(lambda: run(parse(arguments)))


def run(job: RouterJob) -> int:
    """Checks, then trains while it holds the output's lock; see `main` for the exit code."""
    from .distribution import joined_world

    began = time.monotonic()
    if job.output.suffix != ".safetensors":
        raise TrainingError(f"--output {job.output}: expected a name that ends with .safetensors.")
    folder = RunFolder(job.output)
    with joined_world(job.device) as world, world.quiet(), folder.locked() if world.main else nullcontext():
        if world.main:
            check_output(job, folder)
        start_comfy(job.device, world)
        with memory_advice(job.settings, folder):
            return _train(job, folder, began, world)


def _train(job: RouterJob, folder: RunFolder, began: float, world: World) -> int:
    """Validates, encodes, trains, exports."""
    from .base import load_base, make_room
    from .between import Between
    from .cache import Cache
    from .checkpoint import Autosave
    from .display import Display
    from .encoding import encode, skipping
    from .metadata import describe
    from .router import train_router
    from .router_experts import export_router, load_experts
    from .stopping import Stop

    settings, display, date, cache = job.settings, Display(), now(), Cache(job.cache)
    base, clip, vae = load_base(job.base, settings.dtype)
    loaded = load_experts(job.experts, base)
    sdxl = base.family == "sdxl"
    clip = skipping(clip, settings.clip_skip, sdxl=sdxl)
    _introduce(loaded, display)
    pictures = _pictures(job, loaded, display)
    with world.main_first():  # what it caches, the others find
        everything = encode(
            pictures, clip, vae, base.model.process_latent_in, flip=settings.flip, sdxl=sdxl, cache=cache,
            progress=display.count,
        )  # fmt: skip
    display.say(str(cache))
    del clip, vae
    make_room(base)
    samples, held_out = split(job, everything, display)
    display.say(
        f"training a router on {base.device} in {str(base.dtype).removeprefix('torch.')}: {settings.steps} steps of "
        f"{settings.global_batch} samples ({settings.batch} x {settings.accumulate}), {job.router.k} of {len(loaded)} "
        f"experts a token, {'trained with it' if job.router.train_experts else 'frozen'}, seed {settings.seed}"
    )
    if held_out:
        display.say("validation compares with the untrained router, where it says base or without an adapter")

    def write(routers: Any, path: Path, steps: int) -> Any:
        about = describe(base, samples, settings, title=path.stem, steps=steps, date=date)
        keep = path == folder.output
        return export_router(routers, loaded, job.router, path, base, about, keep_previous=keep)

    autosave = Autosave(folder.state, job.run.save_every, job.run.save_minutes, job.goes_on, display.warn)
    with Stop(job.run.max_minutes, began, at_once=job.finish) as stop:
        watch = Between(folder, job.run, display, stop, write, held_out)
        with seen_off(watch):
            trained = train_router(
                base, samples, settings, job.router, loaded,
                autosave=autosave, on_step=watch.on_step, watch=watch, stop=stop, world=world,
            )  # fmt: skip
    save = partial(write, trained.lora, folder.output, trained.steps)
    return conclude(trained, job, stop, world, folder, display, watch, autosave, save)


def _introduce(loaded: Sequence[Loaded], display: Display) -> None:
    for one in loaded:
        rest = f", {len(one.parts.rest)} other weights" if one.parts.rest else ""
        words = f"; trigger {', '.join(one.about.words)!r}" if one.about.words else ""
        display.say(f"expert {one.about.name}: {len(one.parts.layers)} feed-forward layers{rest}{words}")
        left_out = len(one.adapter.file.tensors) - len(one.tensors)
        if left_out:
            display.warn(
                f"WARNING: {one.adapter.file.name} also changes text encoders; these {left_out} tensors are left out."
            )


def _pictures(job: RouterJob, loaded: Sequence[Loaded], display: Display) -> list[Picture]:
    """Of all folders; with one for each expert, its captions get that expert's trigger words where they lack them."""
    import comfy.sd1_clip

    from .captions import count_chunks
    from .dataset import find_pictures

    chunks, pictures = count_chunks(comfy.sd1_clip.SD1Tokenizer()), []
    for index, folder in enumerate(job.folders):
        settings, words = job.settings, loaded[index].about.words if len(job.folders) == len(loaded) else ()
        if words and not settings.trigger:
            settings = replace(settings, trigger=words[0])
        found = find_pictures(folder, settings, chunks)
        display.say(str(found))
        pictures += found.pictures
    return pictures
