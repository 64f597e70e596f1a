"""Makes ComfyUI and the pack importable outside ComfyUI's server: for the trainer, the tests and the tools.

The repository root is itself the Python package, and it must never be on ``sys.path``: its ``nodes/`` would shadow
ComfyUI's ``nodes.py``. A script inside the repository therefore loads this one file by its path:

    spec = importlib.util.spec_from_file_location("standalone", Path(__file__).parents[1] / "standalone.py")
    standalone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standalone)
    standalone.import_comfy()
    mixlora = standalone.import_pack()
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def _as_called(file: str) -> str:
    """The absolute path of `file`, by the way that the shell's user came into the current folder.

    Python names a script by the folder's real path, where a ComfyUI around a link is out of sight.
    """
    file = os.path.abspath(file)
    try:
        shell = os.environ["PWD"]
        if os.path.samefile(shell, os.curdir):  # else the variable is older than the folder
            seen = os.path.normpath(os.path.join(shell, os.path.relpath(file)))
            if os.path.samefile(seen, file):
                return seen
    except (KeyError, OSError, ValueError):  # no such variable, no such folder, another drive
        pass
    return file


ROOT = Path(_as_called(__file__)).parent  # not resolved: seen through a link, the pack lies where the link lies
PACKAGE = "mixlora"
FETCHED = ROOT / ".comfyui"


def is_comfyui(folder: Path) -> bool:
    """Whether `folder` is the top folder of a ComfyUI installation."""
    return (folder / "main.py").is_file() and (folder / "comfy" / "cli_args.py").is_file()


def find_comfyui() -> Path:
    """The ComfyUI to use: the one around this pack, else what `COMFYUI_PATH` names, else what set-up fetched.

    Raises FileNotFoundError, which says what to do, where there is none.
    """
    if ROOT.parent.name == "custom_nodes" and is_comfyui(ROOT.parent.parent):
        return ROOT.parent.parent
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().absolute()
        if is_comfyui(folder):
            return folder
        raise FileNotFoundError(
            f"COMFYUI_PATH names {folder}, which is no ComfyUI (expected main.py and comfy/cli_args.py in it). "
            "Correct the variable, or unset it and run `python tools/dev.py setup`, which fetches a ComfyUI."
        )
    if is_comfyui(FETCHED):
        return FETCHED
    raise FileNotFoundError(
        f"No ComfyUI: {ROOT} lies in no ComfyUI's custom_nodes, COMFYUI_PATH is not set, and {FETCHED} is missing. "
        "Set COMFYUI_PATH to your ComfyUI, or run `make setup` (python tools/dev.py setup), which fetches one."
    )


def has_gpu() -> bool:
    """Whether torch sees a device that ComfyUI would use instead of the CPU."""
    import torch

    devices = (torch.cuda, torch.backends.mps, getattr(torch, "xpu", None))
    return any(device is not None and device.is_available() for device in devices)


def import_comfy(*, cpu: bool | None = None, extra_args: Sequence[str] = ()) -> None:
    """Puts ComfyUI first on `sys.path` and sets its options, as its own `main.py` would; does nothing a second time.

    `cpu` None means: the CPU where torch sees no GPU. `extra_args` are options of ComfyUI's command line, for instance
    ``("--base-directory", folder)``. Attention is PyTorch's own unless `extra_args` chooses another one.
    Raises FileNotFoundError where there is no ComfyUI, SystemExit for an option that ComfyUI does not know.
    """
    if "comfy.model_management" in sys.modules:  # running inside ComfyUI, or called before: options are fixed by now
        return
    comfyui = str(find_comfyui())
    # "python -m" and pytest put the current folder on the path; see the top of this file.
    sys.path[:] = [entry for entry in sys.path if entry != comfyui and not _is_root(entry)]
    sys.path.insert(0, comfyui)

    arguments = list(extra_args)
    if not any(argument.startswith("--use-") and argument.endswith("-attention") for argument in arguments):
        arguments.append("--use-pytorch-cross-attention")
    if cpu if cpu is not None else not has_gpu():
        arguments.append("--cpu")
    cli_args = importlib.import_module("comfy.cli_args")
    vars(cli_args.args).update(vars(cli_args.parser.parse_args(arguments)))
    # parse_args leaves --fast as None, [] or a list; cli_args.py turns that into a set once, at import.
    cli_args.args.fast = set(cli_args.args.fast or ())


def import_pack() -> ModuleType:
    """The repository root as package `mixlora` in `sys.modules`, whether it is installed or not.

    Raises ImportError where another copy of the pack was imported under that name before.
    """
    loaded = sys.modules.get(PACKAGE)
    if loaded is None:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{ROOT / '__init__.py'} cannot be loaded as package {PACKAGE!r}.")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = loaded
        spec.loader.exec_module(loaded)
    elif not loaded.__file__ or not os.path.samefile(loaded.__file__, ROOT / "__init__.py"):
        raise ImportError(
            f"Package {PACKAGE!r} is already imported from {loaded.__file__}, expected {ROOT / '__init__.py'}: "
            "start Python with only one copy of the pack."
        )
    return loaded


def show_all_letters() -> None:
    """From now on letters that the console's encoding lacks are printed by their numbers; they were an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever else stands in for them knows its own letters
            stream.reconfigure(errors="backslashreplace")


def _is_root(entry: str) -> bool:
    try:
        return os.path.samefile(entry or os.curdir, ROOT)
    except OSError:  # an entry of sys.path need not exist
        return False
