"""Command line of train_router.py -> RouterJob. Every flag of training is made from a field of a settings class."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from .options import Job, add_option
from .router_settings import RouterSettings
from .settings import RunSettings, TrainingError, TrainSettings

_DESCRIPTION = """\
Trains a router over finished LoRAs (the MixLoRA block, arXiv 2404.15159): in
every feed-forward layer of the UNet it says for each token which of them speak.
The base stays frozen, and so do the LoRAs unless --train-experts is given. They
must change feed-forward layers: train them with --targets ff or attention+ff.

Data are the folders of captioned pictures that the LoRAs were trained on. With
as many folders as LoRAs, in the same order, each folder's captions get the
trigger words of its LoRA where they lack them.

Ctrl-C saves the run, --resume continues it, --finish writes it as it is.
"""
_EXIT_CODES = """\
exit codes: 0 done; 1 the system failed (disk, memory); 2 something to correct;
124 stopped by --max-minutes; 130 by Ctrl-C; 128 + n by signal n
"""
_FILES = {
    "base": "the SD v1.5 or SDXL checkpoint that the LoRAs were trained on, .safetensors",
    "experts": "two or more finished LoRA files, .safetensors",
    "data": "folders of pictures and captions",
    "output": "the router file to write, .safetensors; routers and LoRAs are in it",
}
_SEVERAL = ("experts", "data")
_CALL = {
    "device": "auto (ComfyUI's choice), cpu, cuda or cuda:N (default: auto)",
    "cache": "folder that keeps encoded pictures and captions (default: mixlora-cache beside the output)",
    "resume": "continue the output's unfinished run, if there is one",
    "finish": "end the output's unfinished run here: write what it has trained, and keep nothing to continue",
    "overwrite": "replace existing files of that name; each is kept, as NAME.safetensors.previous",
}
_NOT_OF_ROUTERS = ("targets", "blocks", "rank", "alpha")
_OF_RUNS = ("save_every", "save_minutes", "max_minutes", "export_every", "keep_best", "validation", "validate_every")


@dataclass(frozen=True)
class RouterJob(Job):
    """One call of the trainer of routers; `data` of a Job is the first of `folders`."""

    experts: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    router: RouterSettings = field(default_factory=RouterSettings)


def parse(arguments: Sequence[str] | None = None) -> RouterJob:
    """The job that a command line asks for. Raises TrainingError for what argparse does not see."""
    given = vars(parser().parse_args(arguments))
    made, problems = {}, []
    for name, kind in (("settings", TrainSettings), ("run", RunSettings), ("router", RouterSettings)):
        own = {option.name: given.pop(option.name) for option in _options(kind) if option.name in given}
        try:
            made[name] = kind(**own)
        except TrainingError as error:
            problems.append(str(error))
    if problems:
        raise TrainingError("\n".join(problems))
    experts, folders = ([Path(one).expanduser() for one in given.pop(name)] for name in _SEVERAL)
    if twice := [folder for index, folder in enumerate(folders) if folder.resolve() in _resolved(folders[:index])]:
        raise TrainingError(f"--data {twice[0]}: is there twice; name each folder once.")
    if made["router"].k > len(experts):
        raise TrainingError(f"--k {made['router'].k}: there are {len(experts)} experts; lower it, or give more.")
    output = Path(given.pop("output")).expanduser()
    cache = Path(given.pop("cache", output.with_name("mixlora-cache"))).expanduser()
    return RouterJob(
        base=Path(given.pop("base")).expanduser(), data=folders[0], output=output, cache=cache,
        experts=tuple(experts), folders=tuple(folders), **made, **given,
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line; what is not given on it stays out of the result."""
    command = argparse.ArgumentParser(
        prog="train_router.py", description=_DESCRIPTION, epilog=_EXIT_CODES, argument_default=argparse.SUPPRESS,
        usage="train_router.py --base PATH --experts PATH PATH ... --data PATH ... --output PATH [more options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    files = command.add_argument_group("files (all needed)")
    for name, text in _FILES.items():
        more: dict[str, Any] = {"nargs": "+"} if name in _SEVERAL else {}
        files.add_argument(f"--{name}", metavar="PATH", required=True, help=text, **more)
    call = command.add_argument_group("this call")
    for name, text in _CALL.items():
        flag = name in ("resume", "finish", "overwrite")
        more = (
            {"action": argparse.BooleanOptionalAction} if flag else {"metavar": "PATH" if name == "cache" else "NAME"}
        )
        call.add_argument(f"--{name}", help=text, **more)
    groups: dict[str, Any] = {}
    for kind in (RouterSettings, TrainSettings, RunSettings):
        for option in _options(kind):
            group = option.metadata["group"]
            if group not in groups:
                groups[group] = command.add_argument_group(group)
            add_option(groups[group], option)
    return command


def _options(kind: type) -> list[Field[Any]]:
    """The fields of a settings class that mean something to a router."""
    if kind is RunSettings:
        return [option for option in fields(kind) if option.name in _OF_RUNS]
    return [option for option in fields(kind) if option.name not in _NOT_OF_ROUTERS]


def _resolved(paths: Sequence[Path]) -> set[Path]:
    return {path.resolve() for path in paths}
