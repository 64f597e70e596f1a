"""What is inside a patch that ComfyUI's LoRA reader made: family, rank, alpha, and the shape of its change of weight.

ComfyUI represents a patch as a weight adapter (`.name`, `.weights`: a tuple whose meaning depends on the name) or as
a tuple ("diff", (tensor,)) / ("set", (tensor,)). Its own arithmetic logs a shape error and goes on without the patch;
this module finds such patches before. Families that it does not know pass unexamined. Needs torch, not ComfyUI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class MisfitError(ValueError):
    """Tensors of one patch that do not fit each other or the weight; says which, without the file's name."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One patch, examined. The change of weight is dW, seen as a matrix: rows x (columns * kernel)."""

    family: str
    rank: int | None = None
    alpha: float | None = None
    """None where the file has none; ComfyUI then takes the scale 1."""
    rows: int | None = None
    columns: int | None = None
    shape: tuple[int, ...] | None = None
    """The exact shape that the weight must have, where the family demands one."""
    factors: tuple[Tensor, Tensor, float] | None = None
    """(up (rows, r), down (r, columns), scale) where dW = scale * up @ down and nothing else."""
    linear: bool = True
    """Whether dW is proportional to the strength and does not depend on the weight."""
    scalable: bool = True
    """Whether the strength does anything at all: a patch that sets a weight ignores it."""
    magnitude: Tensor | None = None
    """DoRA's learned norms."""


def examine(patch: Any) -> Anatomy:
    """The anatomy of a patch from `comfy.lora.load_lora`. Raises MisfitError where its tensors do not fit together."""
    if isinstance(patch, tuple):
        kind, values = patch if len(patch) == 2 else ("diff", patch)
        return _FULL.get(kind, _unknown)(kind, values)
    name, weights = getattr(patch, "name", type(patch).__name__), getattr(patch, "weights", ())
    reader, length = _READERS.get(name, (None, 0))
    if reader is None or len(weights) != length:  # a family, or a layout of it, from another ComfyUI
        return Anatomy(str(name), linear=False)
    return reader(weights)


def check_fit(anatomy: Anatomy, weight_shape: Sequence[int]) -> None:
    """Raises MisfitError where the patch does not fit a weight of `weight_shape` (out, in, *kernel)."""
    found, rows, columns = tuple(weight_shape), anatomy.rows, anatomy.columns
    if anatomy.shape is not None and anatomy.shape != found:
        raise MisfitError(f"its change has the shape {_x(anatomy.shape)}, the weight has {_x(found)}")
    have = (found[0] if found else 1, math.prod(found[1:]))
    if (rows is not None and rows != have[0]) or (columns is not None and columns != have[1]):
        wanted = f"{rows if rows is not None else have[0]}x{columns if columns is not None else have[1]}"
        raise MisfitError(f"its change is {wanted}, the weight is {have[0]}x{have[1]} (shape {_x(found)})")
    if anatomy.magnitude is not None:
        try:
            fits = torch.broadcast_shapes(anatomy.magnitude.shape, found) == found
        except RuntimeError:
            fits = False
        if not fits:
            raise MisfitError(f"dora_scale has the shape {_x(anatomy.magnitude.shape)}, the weight has {_x(found)}")


def _lora(weights: Sequence[Any]) -> Anatomy:
    up, down, alpha, mid, dora_scale, reshape = weights
    _matrices(lora_up=up, lora_down=down)
    rank = down.shape[0]
    kernel = down.shape[2:] if mid is None else mid.shape[2:]
    if up.flatten(1).shape[1] != rank:
        raise MisfitError(f"lora_up {_x(up.shape)} and lora_down {_x(down.shape)} do not multiply")
    if mid is not None and (mid.dim() != 4 or tuple(mid.shape[:2]) != (rank, rank)):
        raise MisfitError(f"lora_mid has the shape {_x(mid.shape)}, expected {rank}x{rank}xKxK")
    plain = dora_scale is None and reshape is None
    # a Tucker core between the factors belongs to the second: the rank stays
    across = (
        down.flatten(1)
        if mid is None or not plain
        else torch.einsum("rskl,si->rikl", mid.float(), down.flatten(1).float()).flatten(1)
    )
    return Anatomy(
        "DoRA" if dora_scale is not None else "LoCon" if math.prod(kernel) > 1 else "LoRA",
        rank,
        alpha,
        rows=None if reshape else up.shape[0],  # reshape_weight pads the model's weight before
        columns=None if reshape else down[0].numel() * (1 if mid is None else math.prod(kernel)),
        factors=(up.flatten(1), across, 1.0 if alpha is None else alpha / rank) if plain else None,
        linear=dora_scale is None and reshape is None,
        magnitude=dora_scale,
    )


def _loha(weights: Sequence[Any]) -> Anatomy:
    w1_a, w1_b, alpha, w2_a, w2_b, t1, t2, dora_scale = weights
    first, second = _product("hada_w1", w1_a, w1_b, t1), _product("hada_w2", w2_a, w2_b, t2)
    if first != second:
        raise MisfitError(f"hada_w1 gives {_x(first)}, hada_w2 gives {_x(second)}; they must be equal")
    return _kronecker_like("LoHa", w1_b.shape[0], alpha, first, dora_scale)


def _lokr(weights: Sequence[Any]) -> Anatomy:
    w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, dora_scale = weights
    rank = None
    if w1 is None:
        first, rank = _product("lokr_w1", w1_a, w1_b, None), w1_b.shape[0]
    else:
        first = tuple(w1.shape)
    if w2 is None:
        second, rank = _product("lokr_w2", w2_a, w2_b, t2), w2_b.shape[0]
    else:
        second = tuple(w2.shape)
    if len(first) != 2 or len(second) < 2:
        raise MisfitError(f"lokr_w1 {_x(first)} and lokr_w2 {_x(second)} must be matrices")
    shape = (first[0] * second[0], first[1] * second[1], *second[2:])
    return _kronecker_like("LoKr", rank, alpha, shape, dora_scale)


def _kronecker_like(family: str, rank: int | None, alpha: Any, shape: tuple[int, ...], dora_scale: Any) -> Anatomy:
    return Anatomy(
        family if dora_scale is None else "DoRA",
        rank,
        alpha,
        rows=shape[0],
        columns=math.prod(shape[1:]),
        linear=dora_scale is None,
        magnitude=dora_scale,
    )


def _glora(weights: Sequence[Any]) -> Anatomy:
    """GLoRA: dW = (b1 b2 + W a1 a2) * alpha / rank, or the same transposed in files of older LyCORIS versions."""
    a1, a2, b1, b2, alpha, dora_scale = weights
    _matrices(a1=a1, a2=a2, b1=b1, b2=b2)
    old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    if not old and not new:
        raise MisfitError(f"b1 {_x(b1.shape)} and b2 {_x(b2.shape)} do not multiply, or a1 and a2 have another rank")
    left, right = (b1, b2) if new else (b2, b1)
    shape = (None, None) if old and new else (left.shape[0], right[0].numel())  # ComfyUI decides by the weight then
    rank = b2.shape[0] if new else b1.shape[0]
    return Anatomy("GLoRA", rank, alpha, *shape, linear=False, magnitude=dora_scale)


def _oft(weights: Sequence[Any]) -> Anatomy:
    blocks, _, alpha, dora_scale = weights
    boft = blocks.dim() == 4
    if blocks.shape[-1] != blocks.shape[-2]:
        raise MisfitError(f"oft_blocks has the shape {_x(blocks.shape)}, expected square blocks")
    if boft and alpha is None:  # ComfyUI compares it with 0 and would leave the layer out
        raise MisfitError("alpha (the constraint of BOFT) is missing")
    rows = blocks.shape[-3] * blocks.shape[-2]
    return Anatomy("BOFT" if boft else "OFT", None, alpha, rows=rows, linear=False, magnitude=dora_scale)


def _diff(kind: str, values: Sequence[Any]) -> Anatomy:
    pads = len(values) > 1 and isinstance(values[1], dict) and values[1].get("pad_weight")
    return Anatomy("full diff", shape=None if pads else tuple(values[0].shape), linear=not pads)


def _set(kind: str, values: Sequence[Any]) -> Anatomy:
    return Anatomy("set weight", shape=tuple(values[0].shape), linear=False, scalable=False)


def _unknown(kind: str, values: Sequence[Any]) -> Anatomy:
    return Anatomy(str(kind), linear=False)


_FULL: dict[str, Callable[[str, Sequence[Any]], Anatomy]] = {"diff": _diff, "set": _set}

_READERS: dict[str, tuple[Callable[[Sequence[Any]], Anatomy], int]] = {  # name: (reader, tensors it expects)
    "lora": (_lora, 6),
    "loha": (_loha, 8),
    "lokr": (_lokr, 9),
    "glora": (_glora, 6),
    "oft": (_oft, 4),
    "boft": (_oft, 4),
}


def _product(name: str, a: Tensor | None, b: Tensor | None, core: Tensor | None) -> tuple[int, ...]:
    """Shape of a @ b, or of the Tucker form sum_ij core[i, j, k, l] a[i, p] b[j, r] -> (p, r, k, l)."""
    if a is None or b is None:
        raise MisfitError(f"{name} is incomplete: expected the whole matrix, or both {name}_a and {name}_b")
    _matrices(**{f"{name}_a": a, f"{name}_b": b})
    if core is not None:
        if core.dim() != 4 or tuple(core.shape[:2]) != (a.shape[0], b.shape[0]):
            raise MisfitError(f"the Tucker core of {name} has the shape {_x(core.shape)}, expected rank x rank x K x K")
        return (a.shape[1], b.shape[1], *core.shape[2:])
    if a.shape[1] != b.shape[0]:
        raise MisfitError(f"{name}_a {_x(a.shape)} and {name}_b {_x(b.shape)} do not multiply")
    return (a.shape[0], b.shape[1])


def _matrices(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() < 2 or 0 in tensor.shape:
            raise MisfitError(f"{name} has the shape {_x(tensor.shape)}, expected a matrix or a kernel")


def _x(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"
