"""The trainer's command line: options and TOML to settings, the order of work, and what the user sees."""

from __future__ import annotations

import argparse
import datetime
import difflib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import standalone
from .settings import TrainingError, TrainSettings

if TYPE_CHECKING:
    from .loop import Progress

_DESCRIPTION = """\
Trains a style LoRA for an SD v1.5 checkpoint on a folder of pictures. Beside each picture lies a caption of the same
name, .txt or .caption. The file that comes out loads in ComfyUI, A1111/Forge and diffusers.

Options may also stand in a TOML file (Python 3.11 or newer), named as the flags: steps = 800, save-every = 100.
Flags win over the file. Ctrl-C saves the run; --resume continues it.
"""
_PATHS = {
    "base": "the SD v1.5 checkpoint, .safetensors",
    "data": "folder of pictures and captions",
    "output": "the LoRA file to write, .safetensors",
}


@dataclass(frozen=True)
class Job:
    """One call of the trainer."""

    base: Path
    data: Path
    output: Path
    settings: TrainSettings
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False

    @property
    def state(self) -> Path:
        """Where the unfinished run is kept; no .safetensors at its end, so no list of LoRA files shows it."""
        return self.output.with_name(f"{self.output.stem}.training-state")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trainer and returns the exit code: 0 done, 2 bad input, 1 the system failed, 128 + n after signal n."""
    try:
        return run(parse(arguments))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str] | None = None) -> Job:
    """The job that a command line asks for. Raises TrainingError for what argparse does not see."""
    given = vars(_parser().parse_args(arguments))
    config = given.pop("config", None)
    options = {**_read_toml(Path(config)), **given} if config else given
    if missing := [f"--{name} ({help})" for name, help in _PATHS.items() if not options.get(name)]:
        raise TrainingError("Missing: " + ", ".join(missing) + ".")
    job = {name: options.pop(name) for name in ("device", "resume", "overwrite") if name in options}
    paths = {name: Path(options.pop(name)).expanduser() for name in _PATHS}
    return Job(**paths, settings=TrainSettings(**options), **job)


def run(job: Job) -> int:
    """Validates, encodes, trains, exports; see `main` for the exit code."""
    _check_output(job)
    _start_comfy(job.device)
    import comfy.sd1_clip

    from .base import load_base, make_room
    from .checkpoint import Autosave, StopOnSignal
    from .dataset import count_chunks, encode, find_pictures
    from .export import export
    from .loop import train
    from .metadata import describe

    settings, started = job.settings, datetime.datetime.now(datetime.timezone.utc)
    pictures = find_pictures(job.data, settings, count_chunks(comfy.sd1_clip.SD1Tokenizer()))
    print(f"{len(pictures)} pictures in {job.data}; the captions begin:")
    for picture in pictures[:3]:
        print(f"  {picture.path.name}: {picture.caption}")
    base, clip, vae = load_base(job.base, settings.dtype)
    samples = encode(pictures, clip, vae, base.model.process_latent_in, settings, _Counter("encoded", len(pictures)))
    del clip, vae
    make_room(base)
    print(
        f"training on {base.device} in {str(base.dtype).removeprefix('torch.')}: {settings.steps} steps of "
        f"{settings.global_batch} samples ({settings.batch} x {settings.accumulate}), seed {settings.seed}"
    )
    autosave = Autosave(job.state, settings.save_every, settings.save_minutes, job.resume)
    with StopOnSignal() as stop:
        trained = train(base, samples, settings, autosave=autosave, on_step=_Ticker(), stop=stop)
    if not trained.finished:
        print(f"stopped after step {trained.steps} of {settings.steps}; saved in {job.state}. --resume continues.")
        return 128 + (stop.received or 0)
    about = describe(
        base, samples, settings, title=job.output.stem, steps=trained.steps, date=started.isoformat(timespec="seconds")
    )
    print(export(trained.lora, job.output, base.model, about))
    job.state.unlink(missing_ok=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    parser.add_argument("config", nargs="?", metavar="FILE.toml", help="options as a TOML file")
    files = parser.add_argument_group("files (all needed)")
    for name, text in _PATHS.items():
        files.add_argument(f"--{name}", metavar="PATH", help=text)
    job = parser.add_argument_group("this call")
    job.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, help="continue the output's unfinished run, if any"
    )
    job.add_argument("--overwrite", action=argparse.BooleanOptionalAction, help="replace an existing output file")
    job.add_argument("--device", help="auto (ComfyUI's choice), cpu, cuda or cuda:N (default: auto)")
    options = parser.add_argument_group("training")
    for option in fields(TrainSettings):
        about = option.metadata
        flag, default = f"--{option.name.replace('_', '-')}", option.default
        text = about["help"].replace("%", "%%")
        text += f" (default: {default})" if default not in (None, "") else ""
        if about["kind"] is bool:
            options.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif about["choices"]:
            options.add_argument(flag, choices=about["choices"], help=text)
        else:
            metavar = {int: "N", float: "X", str: "TEXT"}[about["kind"]]
            options.add_argument(flag, type=about["kind"], metavar=metavar, help=text)
    return parser


def _read_toml(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by their Python names; paths in it are relative to the file."""
    try:
        import tomllib
    except ImportError as error:
        raise TrainingError(f"{path}: TOML files need Python 3.11 or newer; give the options as flags.") from error
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"{path}: not a readable TOML file ({error}).") from error
    options = {name.replace("-", "_"): value for name, value in table.items()}
    kinds = {option.name: option.metadata["kind"] for option in fields(TrainSettings)}
    known = {**kinds, **dict.fromkeys(_PATHS, str), "device": str, "resume": bool, "overwrite": bool}
    problems = []
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(f"no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        elif name not in kinds and not isinstance(value, known[name]):  # TrainSettings checks its own
            problems.append(f"{name}: expected {known[name].__name__}, found {value!r}")
    if problems:
        raise TrainingError(f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems))
    for name in _PATHS.keys() & options.keys():
        options[name] = str(path.parent / Path(options[name]).expanduser())
    return options


def _check_output(job: Job) -> None:
    """Everything that would make the end of a long run fail, found before its start."""
    output = job.output
    if output.suffix != ".safetensors":
        raise TrainingError(f"--output {output}: expected a name that ends with .safetensors.")
    if output.exists() and not job.overwrite:
        raise TrainingError(f"{output} exists; give --overwrite to replace it, or another name.")
    if job.state.exists() and not job.resume:
        raise TrainingError(f"{job.state} holds an unfinished run; give --resume to continue it, or delete it.")
    probe = output.with_name(f".{output.name}.{os.getpid()}.probe")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise TrainingError(f"--output {output}: cannot write there ({error}).") from error


def _start_comfy(device: str) -> None:
    """Imports ComfyUI so that it works on `device`."""
    name, _, number = device.partition(":")
    if name not in ("auto", "cpu", "cuda") or (number and not (name == "cuda" and number.isdecimal())):
        raise TrainingError(f"--device {device}: expected auto, cpu, cuda or cuda:N.")
    if name == "cuda":
        import torch

        if int(number or 0) >= torch.cuda.device_count():
            raise TrainingError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA device(s).")
        torch.cuda.set_device(int(number or 0))  # ComfyUI takes the current one
    standalone.import_comfy(cpu=None if name == "auto" else name == "cpu")


class _Ticker:
    """Prints a step at most once in two seconds, and the last one."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, at: Progress) -> None:
        now = time.monotonic()
        if now - self._last < 2 and at.step < at.steps:
            return
        self._last = now
        print(
            f"step {at.step}/{at.steps}  loss {at.loss:.4f}  gradient {at.gradient_norm:.3g}  lr {at.lr:.2e}  "
            f"{at.samples_per_second:.2f} samples/s",
            flush=True,
        )


class _Counter:
    """Prints how many pictures are done, at most once in two seconds, and the last."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._last = what, total, 0.0

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._last >= 2 or done == self._total:
            self._last = time.monotonic()
            print(f"{self._what} {done}/{self._total}", flush=True)
