"""A mix as a file in ComfyUI's `loras` folder: where it goes, what it says about itself, whether it came out right."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import bases, execution
from ..adapter import match, summarise
from ..description import objections
from ..errors import AdapterError, LoraNameError, StrengthError
from ..files import hashes, lora_file
from ..files.writing import serialise, write_atomically
from ..stack import StyleStack, relative_parts
from .mix_file import FORMATS, MixTensors, tensors_of
from .weighted_mix import MixPlan, MixSettings, plan

# Kind of base -> modelspec.architecture, ss_base_model_version, ss_v2: what A1111, Forge and LoRA managers ask for.
_ARCHITECTURES = {
    "sd1": ("stable-diffusion-v1/lora", "sd_1.5", "False"),
    "sd2": ("stable-diffusion-v2-512/lora", "sd_v2", "True"),
    "sdxl": ("stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0", "False"),
}


@dataclass(frozen=True)
class SaveSettings:
    """How a mix becomes a file. Raises StrengthError for values out of range."""

    rank: int = 0
    """Of every layer; 0 is exact: the ranks of all files add up."""
    dtype: str = "fp16"

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise StrengthError(f"rank is {self.rank}; expected 0 (exact) or more.")
        if self.dtype not in FORMATS:
            raise StrengthError(f"dtype {self.dtype!r} is unknown; expected one of {', '.join(FORMATS)}.")


@dataclass(frozen=True, eq=False)
class SavedMix:
    """What was written."""

    path: Path
    lora_name: str
    """The name under which ComfyUI lists the file."""
    bytes: int
    sha256: str
    """Of the tensors: the file's `sshs_model_hash`."""
    content: MixTensors
    plan: MixPlan
    objections: Mapping[str, str]
    """Program -> why it does not read the whole file; "" if it does."""


def save_mix(
    model: Any, clip: Any, stack: StyleStack, mixing: MixSettings, settings: SaveSettings, prefix: str
) -> SavedMix:
    """Writes what `weighted_mix.mix` would apply as one new file, `prefix`_00001_.safetensors or the next number.

    `prefix` may name a folder inside ComfyUI's first `loras` folder, and dates as in core's Save Image. Nothing is ever
    overwritten. The file is read back and matched to the model. Raises AdapterError.
    """
    _parts_of(prefix)
    return save_plan(model, clip, stack, plan(model, clip, stack, mixing), asdict(mixing), settings, prefix)


def save_plan(
    model: Any,
    clip: Any,
    stack: StyleStack,
    found: MixPlan,
    how: Mapping[str, Any],
    settings: SaveSettings,
    prefix: str,
) -> SavedMix:
    """As `save_mix`, for what is planned already. `how` goes into the file's recipe; its "mode" names the method."""
    _parts_of(prefix)
    content = tensors_of(model, clip, stack, found, settings.rank, FORMATS[settings.dtype])
    path, lora_name = _claim(prefix)
    try:
        base = bases.of_config(model.model.model_config.unet_config)
        about = hashes.with_hashes(content.tensors, _about(path.stem, stack, how, settings, content, base))
        data = serialise(content.tensors, about)
        write_atomically(path, data)
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise AdapterError(
                f"{path} cannot be written ({error}). Free the disk or choose another folder."
            ) from error
        raise
    objected = _check(path, model, clip, content)
    return SavedMix(path, lora_name, len(data), about[hashes.MODEL], content, found, objected)


def _parts_of(prefix: str) -> tuple[str, ...]:
    name = prefix.strip()
    name = next((name[: -len(end)] for end in lora_file.SAFE_SUFFIXES if name.lower().endswith(end)), name)
    if not name or name.endswith(("/", "\\")):
        raise LoraNameError(f"filename_prefix is {prefix!r}; expected a name such as mix or styles/mix.")
    return relative_parts(name)


def _claim(prefix: str) -> tuple[Path, str]:
    """A new, empty file, and its name as ComfyUI lists it."""
    import folder_paths  # ComfyUI's; imported late, as in stack.py

    root = os.path.abspath(folder_paths.get_folder_paths("loras")[0])
    try:
        found = folder_paths.get_save_image_path(os.path.join(*_parts_of(prefix)), root)
        folder, name, counter, subfolder, _ = found
        while True:
            path = Path(folder) / f"{name}_{counter:05}_.safetensors"
            try:
                path.open("xb").close()
                return path, os.path.join(subfolder, path.name)
            except FileExistsError:  # another run was faster, or the counter was misled
                counter += 1
    except OSError as error:
        raise AdapterError(f"{root}: cannot write {prefix!r} there ({error}).") from error


def _about(
    title: str, stack: StyleStack, how: Mapping[str, Any], settings: SaveSettings, content: MixTensors,
    base: bases.Base | None,
) -> dict[str, str]:  # fmt: skip
    """The file's metadata but its hashes."""
    recipe = {
        **how,
        "rank": settings.rank or "exact",
        "relative_error": content.error,
        "loras": [
            {
                "name": entry.lora_name,
                "sha256": hashes.of_file(entry.file.identity.path)[1],
                "strength_model": entry.strength_model,
                "strength_clip": entry.strength_clip,
            }
            for entry in stack.entries
        ],
    }
    words = ", ".join(stack.trigger_words)
    ranks = [layer.rank for layer in content.layers if layer.rank] or [0]
    rank = str(ranks[0]) if len(set(ranks)) == 1 else "Dynamic"  # as kohya's tools call it
    spoken = ", ".join(f"{entry.strength_model:g} x {entry.lora_name}" for entry in stack.entries)
    about = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_output_name": title,
        "ss_training_comment": "mixed, not trained",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "mixlora",
        "modelspec.title": title,
        "modelspec.date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "modelspec.description": f"A mix ({how['mode']}) of {spoken}",
        "modelspec.merged_from": ", ".join(entry.lora_name for entry in stack.entries),
        "mixlora.recipe": json.dumps(recipe, ensure_ascii=False),
    }
    if words:
        about["modelspec.trigger_phrase"] = words
        about["modelspec.usage_hint"] = f"Write “{words}” into the prompt."
    if base is not None:
        names = ("modelspec.architecture", "ss_base_model_version", "ss_v2")
        about.update(zip(names, _ARCHITECTURES[base.kind], strict=True))
    return about


def _check(path: Path, model: Any, clip: Any, content: MixTensors) -> dict[str, str]:
    """Reads the file back; returns which programs do not read it, and why. Raises AdapterError for a loss."""
    file = lora_file.inspect(path)
    text = execution.clip_target(clip) if clip is not None else None
    read = match(file, execution.unet_target(model), text)
    layers = len(read.model_patches) + len(read.clip_patches)
    if read.left_out or layers != len(content.layers):
        raise AdapterError(
            f"{path} was written, but ComfyUI reads {layers} of {len(content.layers)} layers from it. Do not use the "
            "file, and report this: it is a defect of MixLoRA."
        )
    return objections(file.tensors, summarise(file))
