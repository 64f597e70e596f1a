"""A trained LoRA as one file that ComfyUI, A1111/Forge and diffusers all read, checked by loading it again.

Of the dozen layouts in use only this one loads everywhere: ``lora_unet_<diffusers path with _ for .>`` with
``.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``. Nothing else may be in the file: diffusers refuses one with a
stray tensor. One layer is lost in one place: A1111 (not Forge) leaves out SDXL's first upsampling convolution, which
only targets with "conv" adapt; see `layouts.a1111_losses`. No other name would do, as diffusers knows it by this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import serialise, write_atomically
from .lora import LoRA
from .metadata import with_hashes
from .settings import TrainingError


@dataclass(frozen=True)
class Exported:
    """What was written, as read back from the disk."""

    path: Path
    modules: int
    """Layers of the model that the file adapts: all that were trained."""
    bytes: int
    sha256: str
    """Of the tensors, without the header: the file's `sshs_model_hash`."""
    norm: float
    """Root of the sum of all ‖alpha/rank * up @ down‖²; an adapter that learned nothing is near 0."""

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.modules} of {self.modules} layers matched by ComfyUI, {self.bytes / 1e6:.2f} MB, "
            f"norm of all changes {self.norm:.3g}, hash {self.sha256[:12]}"
        )


def export(
    lora: LoRA,
    path: Path | str,
    model: Any,
    metadata: Mapping[str, str],
    *,
    dtype: torch.dtype = torch.float16,
    keep_previous: bool = False,
) -> Exported:
    """Writes the adapter for `model` (a ComfyUI MODEL or BaseModel) and loads the file back through ComfyUI's key map.

    Atomic; equal adapters and metadata give equal bytes. With `keep_previous` a file that is replaced stays beside it,
    ending with .previous. Raises TrainingError for factors that are zero or not finite
    in `dtype` and if ComfyUI would not read back exactly what was written, OSError where it cannot be written.
    """
    path, model = Path(path), getattr(model, "model", model)
    tensors = file_tensors(lora, model.model_config.unet_config, dtype)
    _check_values(lora, tensors, path)
    metadata = with_hashes(tensors, metadata)
    data = serialise(tensors, metadata)
    write_atomically(path, data, keep_previous=keep_previous)
    _check_loads(path, model, lora, tensors)
    return Exported(path, len(lora.names), len(data), metadata["sshs_model_hash"], _norm(lora))


def file_tensors(lora: LoRA, unet_config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The adapter's tensors under their names in the file; alpha stays fp32, it need not be a number that fp16 has."""
    tensors = {}
    for name, prefix in file_prefixes(lora.names, unet_config).items():
        tensors[f"{prefix}.lora_down.weight"] = lora.down[name].detach().to("cpu", dtype)
        tensors[f"{prefix}.lora_up.weight"] = lora.up[name].detach().to("cpu", dtype)
        tensors[f"{prefix}.alpha"] = torch.tensor(lora.alpha)
    return tensors


def file_prefixes(names: Iterable[str], unet_config: Mapping[str, Any]) -> dict[str, str]:
    """Per layer, named as in ComfyUI's UNet, its prefix in the file, for a UNet of that configuration (of any depth).

    Raises TrainingError for layers that ComfyUI has no diffusers name for.
    """
    import comfy.utils

    to_comfy = comfy.utils.unet_to_diffusers(dict(unet_config))
    diffusers = {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for theirs, ours in to_comfy.items()}
    prefixes = {name: f"lora_unet_{diffusers[name].replace('.', '_')}" for name in names if name in diffusers}
    if unnamed := [name for name in names if name not in prefixes]:
        raise TrainingError(f"ComfyUI knows no diffusers name for {len(unnamed)} layer(s): {', '.join(unnamed)}.")
    return prefixes


def _norm(lora: LoRA) -> float:
    """From the factors' small Gram matrices: ‖up @ down‖² is the sum over (upᵀ up) * (down downᵀ)."""
    pairs = [(lora.up[name].flatten(1), lora.down[name].flatten(1)) for name in lora.names]
    squares = [((up.t() @ up) * (down @ down.t())).sum() for up, down in pairs]
    return lora.scale * torch.stack(squares).sum().clamp(min=0).sqrt().item()


def _check_values(lora: LoRA, tensors: Mapping[str, Tensor], path: Path) -> None:
    wrong = [f"{key} is not finite" for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    wrong += [f"{key} is zero" for key, tensor in tensors.items() if not tensor.any()]
    if wrong:
        raise TrainingError(
            f"{path} is not written: {len(wrong)} of {len(tensors)} tensors are unusable, first {wrong[0]}. "
            "The adapter has not been trained, or its learning rate was too low or too high."
        )


def _check_loads(path: Path, model: Any, lora: LoRA, written: Mapping[str, Tensor]) -> None:
    import comfy.lora
    import comfy.utils

    file: Any = comfy.utils.load_torch_file(str(path), safe_load=True)
    loaded = comfy.lora.load_lora(file, comfy.lora.model_lora_keys_unet(model, {}))
    expected = {f"diffusion_model.{name}.weight" for name in lora.names}
    same = file.keys() == written.keys() and all(torch.equal(file[key], tensor) for key, tensor in written.items())
    if loaded.keys() != expected or not same:
        raise TrainingError(
            f"{path} was written, but ComfyUI reads {len(loaded.keys() & expected)} of {len(expected)} layers from it"
            f"{'' if same else ' and other values than were written'}. This is the trainer's defect; please report it."
        )
