"""Command line and TOML file -> Job. Every flag of training is made from a field of TrainSettings or RunSettings."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from .settings import RunSettings, TrainingError, TrainSettings

_DESCRIPTION = """\
Trains a style LoRA for an SD v1.5 or SDXL checkpoint on a folder of pictures.
Beside each picture lies a caption of the same name, .txt or .caption; or the
folder has a metadata.jsonl with {"file_name": ..., "text": ...} for each. The
file that comes out loads in ComfyUI, A1111/Forge and diffusers.

Options may also stand in a TOML file, named as the flags: steps = 800,
save-every = 100. Flags win over the file. (Python 3.10 needs the package
tomli for it.)

Ctrl-C saves the run, --resume continues it, --finish makes a LoRA file of it as
it is. All that is not the LoRA itself (saved run, curves, sample pictures) is
in the folder NAME.run beside NAME.safetensors.
"""
_EXIT_CODES = """\
exit codes: 0 done; 1 the system failed (disk, memory); 2 something to correct;
124 stopped by --max-minutes; 130 by Ctrl-C; 128 + n by signal n
"""
_PATHS = {
    "base": "the SD v1.5 or SDXL checkpoint, .safetensors",
    "data": "folder of pictures and captions, with all folders in it",
    "output": "the LoRA file to write, .safetensors",
}
_CALL = {
    "device": (str, "auto (ComfyUI's choice), cpu, cuda or cuda:N (default: auto)"),
    "resume": (bool, "continue the output's unfinished run, if there is one"),
    "finish": (bool, "end the output's unfinished run here: write its adapter as it is, and keep nothing to continue"),
    "cache": (str, "folder that keeps encoded pictures and captions for further runs (default: mixlora-cache beside "
                   "the output)"),
    "overwrite": (bool, "replace existing LoRA files of that name; each is kept, as NAME.safetensors.previous"),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One call of the trainer."""

    base: Path
    data: Path
    output: Path
    settings: TrainSettings
    run: RunSettings
    cache: Path
    device: str = "auto"
    resume: bool = False
    finish: bool = False
    overwrite: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether it takes up an unfinished run."""
        return self.resume or self.finish


def parse(arguments: Sequence[str] | None = None) -> Job:
    """The job that a command line asks for. Raises TrainingError for what argparse does not see."""
    given = vars(parser().parse_args(arguments))
    config = given.pop("config", None)
    options = {**_read_toml(Path(config)), **given} if config else given
    if missing := [f"--{name} ({help})" for name, help in _PATHS.items() if not options.get(name)]:
        raise TrainingError("Missing: " + ", ".join(missing) + ".")
    options.setdefault("cache", Path(options["output"]).with_name("mixlora-cache"))
    paths = {name: Path(options.pop(name)).expanduser() for name in (*_PATHS, "cache")}
    call = {name: options.pop(name) for name in _CALL if name in options}
    made, problems = [], []
    for kind in (TrainSettings, RunSettings):
        own = {option.name: options[option.name] for option in fields(kind) if option.name in options}
        try:
            made.append(kind(**own))
        except TrainingError as error:
            problems.append(str(error))
    if problems:
        raise TrainingError("\n".join(problems))
    return Job(**paths, settings=made[0], run=made[1], **call)


def parser() -> argparse.ArgumentParser:
    """The command line; what is not given on it stays out of the result, so that a TOML file may give it."""
    command = argparse.ArgumentParser(
        prog="train.py", usage="train.py [FILE.toml] --base PATH --data PATH --output PATH [more options]",
        description=_DESCRIPTION, epilog=_EXIT_CODES, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("config", nargs="?", metavar="FILE.toml", help="options as a TOML file")
    files = command.add_argument_group("files (all needed)")
    for name, text in _PATHS.items():
        files.add_argument(f"--{name}", metavar="PATH", help=text)
    call = command.add_argument_group("this call")
    for name, (kind, text) in _CALL.items():
        metavar = "PATH" if name == "cache" else "NAME"
        more: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if kind is bool else {"metavar": metavar}
        call.add_argument(f"--{name}", help=text, **more)
    groups: dict[str, Any] = {}
    for option in _settings():
        group = option.metadata["group"]
        if group not in groups:
            groups[group] = command.add_argument_group(group)
        add_option(groups[group], option)
    return command


def _settings() -> list[Field[Any]]:
    return [option for kind in (TrainSettings, RunSettings) for option in fields(kind)]


def add_option(group: Any, option: Field[Any]) -> None:
    """Adds the flag of a settings' field to a group of a command line."""
    about, default = option.metadata, option.default
    flag, kind = f"--{option.name.replace('_', '-')}", about["kind"]
    text = about["help"].replace("%", "%%")
    if default not in (None, "", ()):
        text += f" (default: {default if kind is not bool else 'yes' if default else 'no'})"
    if kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
    elif about["choices"]:
        group.add_argument(flag, choices=about["choices"], help=text)
    elif kind is tuple:
        group.add_argument(flag, nargs="+", metavar="TEXT", help=text)
    else:
        group.add_argument(flag, type=kind, metavar={int: "N", float: "X", str: "TEXT"}[kind], help=text)


def _read_toml(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by their Python names; paths in it are relative to the file."""
    table = _toml(path)
    options = {name.replace("-", "_"): value for name, value in table.items()}
    settings = {option.name: option.metadata["kind"] for option in _settings()}
    kinds = {**dict.fromkeys(_PATHS, str), **{name: kind for name, (kind, _) in _CALL.items()}}
    known, problems = {**settings, **kinds}, []
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(f"no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        elif name in kinds and not isinstance(value, kinds[name]):  # the settings check their own
            problems.append(f"{name}: expected {kinds[name].__name__}, found {value!r}")
    if problems:
        raise TrainingError(f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems))
    for name in {*_PATHS, "cache"} & options.keys():
        options[name] = str(path.parent / Path(options[name]).expanduser())
    prompts = options.get("sample_prompts")
    if isinstance(prompts, list):
        options["sample_prompts"] = [str(path.parent / text) if is_prompt_file(text) else text for text in prompts]
    return options


def _toml(path: Path) -> dict[str, Any]:
    try:
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise TrainingError(
            f"{path}: on Python 3.10 options in a file need a reader of TOML: pip install tomli, or give the options "
            "as flags."
        ) from error
    try:
        return toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of both a TOMLDecodeError is a ValueError
        raise TrainingError(f"{path}: not a readable TOML file ({error}).") from error


def is_prompt_file(text: object) -> bool:
    """Whether an entry of `sample_prompts` names a file of prompts."""
    return isinstance(text, str) and text.endswith(".txt")


def read_prompts(entries: Sequence[str]) -> list[str]:
    """All prompts, those in files one per line. Raises TrainingError for a file that cannot be read or has none."""
    prompts = []
    for entry in entries:
        if not is_prompt_file(entry):
            prompts.append(entry)
            continue
        try:
            lines = Path(entry).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"sample_prompts: {entry} cannot be read as UTF-8 text ({error}).") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise TrainingError(f"sample_prompts: {entry} has no prompt; write one on each line.")
        prompts += found
    return prompts
