"""A planned mix -> the tensors of one LoRA file that does the same at strength 1, exactly or re-compressed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from .. import execution, low_rank
from ..adapter import Patch, PatchKey, Target
from ..errors import AdapterError, TensorError
from ..files.families import Anatomy
from ..files.layouts import best_names
from ..stack import StyleStack
from .energy import WeightOf, applied
from .weighted_mix import HalfResult, MixPlan

FORMATS = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Layer:
    """One weight in the file."""

    name: str
    rank: int
    """0 for a bias or norm, whose change is stored as it is."""
    norm: float
    """||dW|| of the mix."""
    error: float
    """||dW - what the file holds||, rounding to the file's number format included."""


@dataclass(frozen=True, eq=False)
class MixTensors:
    """The content of the file, and how near to the mix it is."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    @property
    def error(self) -> float:
        """||all errors|| / ||all changes||; 0 where nothing changes."""
        change = sum(layer.norm**2 for layer in self.layers) ** 0.5
        return sum(layer.error**2 for layer in self.layers) ** 0.5 / change if change else 0.0


@dataclass(frozen=True, eq=False)
class _Part:
    """What one file of the stack adds to a weight."""

    file: str
    patch: Patch
    anatomy: Anatomy
    coefficient: float


def tensors_of(model: Any, clip: Any, stack: StyleStack, plan: MixPlan, rank: int, dtype: torch.dtype) -> MixTensors:
    """The mix as low-rank pairs under the names that most programs know; `alpha` is the rank, so the scale is 1.

    `rank` 0: exact, the pairs of all files side by side. Else each layer is brought to that rank, if it has more, in
    the best possible way. Raises AdapterError where exact is impossible or nothing is left to write, TensorError where
    numbers do not fit into `dtype`.
    """
    targets = {"model": execution.unet_target(model)}
    owners, halves = {"model": model}, {"model": plan.model_half}
    if plan.clip_half is not None:
        targets["clip"], owners["clip"], halves["clip"] = execution.clip_target(clip), clip, plan.clip_half
    parts = {
        half: _parts(stack, plan, halves[half], [getattr(a, f"{half}_patches") for a in plan.adapters])
        for half in targets
    }
    _check_possible([part for keys in parts.values() for part in keys.items()], targets, rank)
    result, bar = MixTensors(), comfy.utils.ProgressBar(sum(map(len, parts.values())))
    for half, target in targets.items():
        names, (weight_of, device) = best_names(target.names), execution.base_weights(owners[half])
        for key, key_parts in parts[half].items():
            comfy.model_management.throw_exception_if_processing_interrupted()
            shape = target.shape_at(key)
            assert shape is not None  # the patch was matched to it
            if len(shape) < 2:
                _add_vector(result, key, names, _change(key, key_parts, shape, weight_of, device), dtype)
            elif all(part.anatomy.factors for part in key_parts):
                exact = low_rank.concatenated([(f[0], f[1], f[2] * part.coefficient) for f, part in _pairs(key_parts)])
                nearest = low_rank.shortened(exact, rank) if 0 < rank < exact[0].shape[1] else exact
                _add_pair(result, names[key], shape, nearest, dtype, exact)
            else:
                change = _change(key, key_parts, shape, weight_of, device).flatten(1)
                _add_pair(result, names[key], shape, low_rank.factored(change, rank), dtype, change)
            bar.update(1)
    _check_finite(result)
    return result


def _parts(
    stack: StyleStack, plan: MixPlan, half: HalfResult, patches: Sequence[Mapping[PatchKey, Patch]]
) -> dict[PatchKey, list[_Part]]:
    found: dict[PatchKey, list[_Part]] = {}
    for index, entry in enumerate(stack.entries):
        anatomies = plan.adapters[index].anatomies
        for key, coefficient in half.applied[index].items():
            part = _Part(entry.lora_name, patches[index][key], anatomies[key], coefficient)
            found.setdefault(key, []).append(part)
    return found


def _pairs(parts: Sequence[_Part]) -> Iterator[tuple[tuple[Tensor, Tensor, float], _Part]]:
    return ((part.anatomy.factors, part) for part in parts if part.anatomy.factors)


def _check_possible(parts: Sequence[tuple[PatchKey, list[_Part]]], targets: Mapping[str, Target], rank: int) -> None:
    if not parts:
        raise AdapterError("There is nothing to save: the stack is empty, or every strength in it is 0.")
    if rank:
        return
    matrices = [part for key, found in parts for part in found if len(_shape(targets, key)) > 1]
    strange = Counter((part.file, part.anatomy.family) for part in matrices if not part.anatomy.factors)
    if strange:
        listed = ", ".join(f"{file} has {family} in {count} layers" for (file, family), count in strange.items())
        raise AdapterError(
            f"An exact file is impossible: {listed}. Only low-rank pairs (LoRA, LoCon) can be put side by side. Set "
            "rank to what the file may have, for example 32: the mix is then re-compressed, and the report states the "
            "error."
        )


def _shape(targets: Mapping[str, Target], key: PatchKey) -> tuple[int, ...]:
    return next(shape for target in targets.values() if (shape := target.shape_at(key)) is not None)


def _change(
    key: PatchKey, parts: Sequence[_Part], shape: tuple[int, ...], weight_of: WeightOf, device: torch.device
) -> Tensor:
    """What ComfyUI adds to the weight, as a full matrix."""
    linear = all(part.anatomy.linear for part in parts)
    base = torch.zeros(shape, device=device) if linear else weight_of(key)  # from zero no digits are lost
    after = applied(key, [(part.patch, part.coefficient) for part in parts], base.clone())
    if after.shape != base.shape:
        raise TensorError(
            f"{parts[0].file} makes {key} larger ({tuple(base.shape)} to {tuple(after.shape)}): such a change cannot "
            "be written as a LoRA. Leave the file out of the mix that you save."
        )
    return after - base


def _add_vector(result: MixTensors, key: PatchKey, names: Mapping, change: Tensor, dtype: torch.dtype) -> None:
    """A bias or a norm: no pair can hold it, so it is stored as ComfyUI's and A1111's `diff`."""
    module = str(key).removesuffix(".bias")
    bias = module != key
    name = f"{names[module + '.weight']}.diff_b" if bias and module + ".weight" in names else f"{names[key]}.diff"
    stored = change.cpu().to(dtype)
    result.tensors[name] = stored
    result.layers.append(Layer(name, 0, change.norm().item(), (change.cpu() - stored.float()).norm().item()))


def _add_pair(
    result: MixTensors, name: str, shape: tuple[int, ...], factors: low_rank.Factors, dtype: torch.dtype,
    wanted: low_rank.Factors | Tensor,
) -> None:  # fmt: skip
    up, down = (factor.to(dtype) for factor in low_rank.balanced(factors))
    rank, ones = up.shape[1], [1] * (len(shape) - 2)
    result.tensors[f"{name}.lora_up.weight"] = up.reshape(shape[0], rank, *ones).contiguous()
    result.tensors[f"{name}.lora_down.weight"] = down.reshape(rank, *shape[1:]).contiguous()
    result.tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    if isinstance(wanted, Tensor):
        norm = wanted.norm().item()
        error = torch.addmm(wanted, up.to(wanted), down.to(wanted), alpha=-1).norm().item()
    else:
        norm, error = low_rank.norm(wanted), low_rank.distance(wanted, (up.double(), down.double()))
    result.layers.append(Layer(name, rank, norm, error))


def _check_finite(result: MixTensors) -> None:
    broken = [name for name, tensor in result.tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TensorError(
            f"{len(broken)} tensors of the mix are not finite in this number format, such as {broken[0]}. Save as "
            "fp32, or lower the strengths."
        )
