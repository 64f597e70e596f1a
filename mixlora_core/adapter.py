"""A LoRA file -> what it is, and, once the model is known, the patches that ComfyUI will apply. Uses comfy's key map.

Nothing here interprets tensors on its own: `comfy.lora` reads every family, exactly as core's LoraLoader lets it.
What is added is an account: which tensors were taken, which were left out, and whether the taken ones fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
from torch import Tensor

from . import bases
from .errors import NoMatchError, TensorError, UnreadableFileError
from .files.families import Anatomy, MisfitError, check_fit, examine
from .files.lora_file import LoraFile

PatchKey = str | tuple[Any, ...]
"""A weight's name in the model, or (name, (dim, start, length), ...) for a part of a fused weight."""
Patch = Any
"""What ComfyUI makes of a module's tensors: a weight adapter, or a tuple ("diff" | "set", tensors)."""

TEXT_ENCODER_PREFIXES = ("lora_te", "text_encoder", "lora_prior_te")
_INPUT = "diffusion_model.input_blocks.0.0.weight"

# What a module's tensors may be called after the module's name; ComfyUI's readers know these and their partners.
_SUFFIXES = tuple(
    f"{joint}{tail}"
    for joint, tails in (
        (".", "lora_up.weight lora_down.weight lora_mid.weight lora_A.weight lora_B.weight lora_A lora_B"),
        (".", "lora.up.weight lora.down.weight lora_linear_layer.up.weight lora_linear_layer.down.weight"),
        (".", "lora_A.default.weight lora_B.default.weight alpha dora_scale reshape_weight row_offset"),
        (".", "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2"),
        (".", "lokr_w1 lokr_w2 lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b lokr_t2"),
        (".", "a1.weight a2.weight b1.weight b2.weight oft_blocks rescale"),
        (".", "diff diff_b w_norm b_norm set_weight"),
        ("_", "lora.up.weight lora.down.weight"),
    )
    for tail in tails.split()
)


@dataclass(frozen=True, eq=False)
class Target:
    """What a file is matched against: one half of a loaded model, its UNet or its text encoders."""

    label: str
    names: Mapping[str, PatchKey]
    """Module names that a file may use -> the weight they mean (ComfyUI's key map)."""
    shape_of: Callable[[str], Sequence[int] | None]
    """Shape of a weight by its name in the model; None where the model has no such weight."""

    def shape_at(self, key: PatchKey) -> tuple[int, ...] | None:
        """Shape of what a patch changes: a weight, or the part of a fused one."""
        shape = self.shape_of(key if isinstance(key, str) else key[0])
        if shape is None or isinstance(key, str):
            return None if shape is None else tuple(shape)
        dim, _, length = key[1]
        return tuple(length if i == dim else size for i, size in enumerate(shape))


@dataclass(frozen=True, eq=False)
class Summary:
    """What a file is, before any model is known."""

    modules: Mapping[str, Anatomy]
    """By the module's name in the file; modules that ComfyUI cannot read under any name are missing."""
    patches: Mapping[PatchKey, Patch]
    """What ComfyUI makes of them, by the module's name and ".weight" or ".bias"."""
    unread: tuple[str, ...]
    """Tensors that belong to no LoRA family that ComfyUI reads."""
    base: bases.Base | None
    evidence: str
    unknown: tuple[str, ...]
    """Tensors whose module ComfyUI does not know in `base`; empty where no base was recognised."""
    peft: tuple[str, ...]
    """Those of them that this pack knows all the same, by PEFT's names."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """One file, matched to one model."""

    file: LoraFile
    model_patches: Mapping[PatchKey, Patch]
    clip_patches: Mapping[PatchKey, Patch]
    anatomies: Mapping[PatchKey, Anatomy]
    left_out: tuple[str, ...]
    """Tensors that the model has no place for."""
    without_clip: int
    """How many more were left out only because they are for the text encoder and no CLIP is connected."""
    whole: Adapter | None = None
    """The adapter that this is a part of, see `splitting`; None for a whole file."""


def summarise(file: LoraFile) -> Summary:
    """Reads the file under its own names. Raises UnreadableFileError where it holds no LoRA, TensorError where factors
    do not fit each other.
    """
    tensors = _Noting(comfy.lora_convert.convert_lora(dict(file.tensors)))
    names = {module: f"{module}.weight" for key in tensors if (module := module_of(key))}
    loaded = _load(file, tensors, names)
    if not loaded:
        raise UnreadableFileError(
            f"{file.name} holds no LoRA: none of its {len(tensors)} tensors has a name that a LoRA family uses (the "
            f"first: {_some(tensors)}). Expected names like lora_unet_....lora_up.weight. A checkpoint, VAE or "
            "embedding belongs to another folder and another loader."
        )
    modules: dict[str, Anatomy] = {}
    for module, key in names.items():
        for target in (key, f"{module}.bias"):
            if target in loaded and (module not in modules or target == key):
                modules[module] = _examined(file, module, loaded[target])
    guessed = bases.guess(modules, file.metadata)
    base, evidence = guessed or (None, "")
    known = bases.lora_names(base) if base else None
    unknown = tuple(key for key in tensors.taken if module_of(key) not in known) if known is not None else ()
    named = bases.peft_names(base.unet) if base else {}
    peft = tuple(key for key in unknown if module_of(key) in named)
    return Summary(modules, loaded, tuple(tensors.untaken()), base, evidence, unknown, peft)


def match(file: LoraFile, unet: Target | None, clip: Target | None) -> Adapter:
    """The file's patches for a model, with ComfyUI's own reading of every family.

    Raises NoMatchError where nothing of the file belongs to the model, TensorError where a part that belongs to it
    does not fit. What has no place in the model is left out and listed in the result, as is an input convolution of
    other channels: an inpainting model's.
    """
    model_patches: dict[PatchKey, Patch] = {}
    clip_patches: dict[PatchKey, Patch] = {}
    halves = [(target, half) for target, half in ((unet, model_patches), (clip, clip_patches)) if target is not None]
    names: dict[str, PatchKey] = {}
    for target, _ in halves:
        names.update(target.names)
    tensors = _Noting(comfy.lora_convert.convert_lora(dict(file.tensors)))
    anatomies: dict[PatchKey, Anatomy] = {}
    homeless: list[str] = []
    for key, patch in _load(file, tensors, names).items():
        for target, half in halves:
            shape = target.shape_at(key)
            if shape is not None:
                anatomy, misfit = _fitted(file, names, key, patch, shape, target)
                if misfit:
                    homeless.append(f"{key} ({misfit})")
                else:
                    anatomies[key], half[key] = anatomy, patch
                break
        else:
            homeless.append(f"{key} (the model has no such weight)")
    for_clip = [key for key in tensors.untaken() if key.startswith(TEXT_ENCODER_PREFIXES)] if clip is None else []
    if not anatomies:
        raise NoMatchError(_no_match(file, tensors, [target for target, _ in halves], for_clip))
    left_out = (*(key for key in tensors.untaken() if key not in set(for_clip)), *homeless)
    return Adapter(file, model_patches, clip_patches, anatomies, left_out, without_clip=len(for_clip))


def module_of(key: str) -> str | None:
    """The module that a tensor of a LoRA file belongs to; None where its name ends as no LoRA tensor's does."""
    return next((key[: -len(suffix)] for suffix in _SUFFIXES if key.endswith(suffix)), None)


class _Noting(dict):
    """A state dict that notes which of its tensors ComfyUI takes: `load_lora` itself only logs the others."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        value = super().__getitem__(key)
        self.taken.add(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401  (this is `get`)

    def untaken(self) -> list[str]:
        return [key for key in self if key not in self.taken]


def _load(file: LoraFile, tensors: _Noting, names: Mapping[str, PatchKey]) -> dict[PatchKey, Patch]:
    try:
        return comfy.lora.load_lora(tensors, names, log_missing=False)
    except KeyError as error:
        raise TensorError(
            f"{file.name}: tensor {error.args[0]} is missing, but its partner is there. The file is incomplete: "
            "download or export it again."
        ) from error
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise TensorError(f"{file.name}: ComfyUI cannot read its tensors ({error}). Export the file again.") from error


def _examined(file: LoraFile, module: str, patch: Patch) -> Anatomy:
    try:
        return examine(patch)
    except MisfitError as error:
        raise TensorError(
            f"{file.name}: module {module}: {error}. The file is damaged or was exported wrongly: export it again."
        ) from error


def _fitted(
    file: LoraFile, names: Mapping[str, PatchKey], key: PatchKey, patch: Patch, shape: Sequence[int], target: Target
) -> tuple[Anatomy, str]:
    """The patch's anatomy, and how it misfits its weight, as only the input convolution may; else ""."""
    module = next(
        (name for name, k in names.items() if k == key and any(t.startswith(name) for t in file.tensors)), key
    )
    anatomy = _examined(file, str(module), patch)
    try:
        check_fit(anatomy, shape)
    except MisfitError as error:  # ComfyUI would log it and leave the layer out
        if key == _INPUT:
            return anatomy, str(error)
        raise TensorError(
            f"{file.name}: module {module}: {error} in {target.label} ({key}).{_hint(file, target)} Use a LoRA made "
            "for this model, or the model that this LoRA was made for."
        ) from error
    return anatomy, ""


def _hint(file: LoraFile, target: Target) -> str:
    """What the file looks made for, where that reads another text than the target."""
    made_for = summarise(file)
    keys = (key for name, key in target.names.items() if bases.CROSS_ATTENTION.search(name))
    width = next((shape[1] for key in keys if (shape := target.shape_at(key))), None)
    if made_for.base is None or width == made_for.base.width:
        return ""
    return f" It looks made for {made_for.base.label} ({made_for.evidence})."


def _no_match(file: LoraFile, tensors: _Noting, targets: Sequence[Target], for_clip: Sequence[str]) -> str:
    where = " and ".join(target.label for target in targets)
    text = f"{file.name}: none of its {len(tensors)} tensors belongs to {where}, so it would do nothing."
    if len(for_clip) == len(tensors):
        return text + " All are for the text encoder: connect CLIP, or encode the prompt with Encode Text per LoRA."
    made_for = summarise(file)
    if made_for.base:
        return text + f" It looks made for {made_for.base.label} ({made_for.evidence}): use it with such a model."
    return text + f" Its names are like {_some(tensors)}: it was made for another kind of model."


def _some(names: Mapping[str, Any] | Sequence[str], count: int = 2) -> str:
    return ", ".join(list(names)[:count])
