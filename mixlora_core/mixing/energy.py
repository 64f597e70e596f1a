"""How large each adapter's change of each weight is: Gram matrices for `modes`, for every family that ComfyUI reads.

Plain low-rank pairs never become full matrices: with dW = s B A, <dW_i, dW_j> = s_i s_j sum((B_i^T B_j) * (A_i A_j^T)),
r x r numbers instead of out x in. Any other family is materialised by ComfyUI's own `calculate_weight`. Families
whose change is not proportional to their strength (DoRA, OFT, BOFT, GLoRA) are measured at strength 1 on the
untouched weight; what they really do at other strengths is measured again, layer by layer, for the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import comfy.lora
import comfy.model_management
import torch
from torch import Tensor

from ..adapter import Patch, PatchKey
from ..files.families import Anatomy, examine
from . import modes

WeightOf = Callable[[PatchKey], Tensor]
"""A fresh fp32 copy of the model's own weight, on the device where the work is done."""


class LayerEnergies:
    """The Gram matrices of K adapters in the L layers that any of them touches."""

    def __init__(self, patches: Sequence[Mapping[PatchKey, Patch]], weight_of: WeightOf, device: torch.device) -> None:
        """`patches`: one mapping for each adapter. Visits every layer once; can be interrupted."""
        self.layers: list[PatchKey] = list(dict.fromkeys(key for mapping in patches for key in mapping))
        self._patches = [[mapping.get(key) for mapping in patches] for key in self.layers]
        self._weight_of = weight_of
        self._device = device
        self._weight_norms: Tensor | None = None
        self.gram = torch.zeros(len(self.layers), len(patches), len(patches), dtype=torch.float64)
        for row in range(len(self.layers)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._measure(row)

    @property
    def norms(self) -> Tensor:
        """||dW|| of every adapter in every layer at strength 1, (L, K); 0 where it does not touch the layer."""
        return self.gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()

    def ratios(self, coefficients: Tensor) -> Tensor:
        """||change|| / ||W|| of every layer under coefficients (L, K). Returns (L,)."""
        if self._weight_norms is None:
            norms = [self._weight_of(key).norm().item() for key in self.layers]
            self._weight_norms = torch.tensor(norms, dtype=torch.float64)
        found = modes.ratios(coefficients, self.gram, self._weight_norms)
        for row, patches in enumerate(self._patches):
            if self._weight_norms[row] > 0 and not all(a.linear for a in _anatomies(patches).values()):
                found[row] = self._applied(row, coefficients[row].tolist()) / self._weight_norms[row]
        return found

    def _measure(self, row: int) -> None:
        anatomies = _anatomies(self._patches[row])
        present = [index for index, anatomy in anatomies.items() if anatomy.scalable]
        factors = [anatomies[index].factors for index in present]
        if all(found is not None for found in factors):
            gram = factor_gram([found for found in factors if found is not None], self._device)
        else:
            deltas = torch.stack([self._delta(row, index, anatomies[index]).flatten() for index in present])
            gram = deltas @ deltas.T
        at = torch.tensor(present, dtype=torch.long)  # of none it would be of floats
        self.gram[row, at[:, None], at[None, :]] = gram.cpu().double()

    def _delta(self, row: int, index: int, anatomy: Anatomy) -> Tensor:
        weight = self._weight_of(self.layers[row])
        base = torch.zeros_like(weight) if anatomy.linear else weight  # from zero no digits are lost
        return self._calculate(row, [(index, 1.0)], base.clone()) - base

    def _applied(self, row: int, coefficients: Sequence[float]) -> float:
        weight = self._weight_of(self.layers[row])
        present = [
            (index, coefficients[index])
            for index, anatomy in _anatomies(self._patches[row]).items()
            if anatomy.scalable and coefficients[index] != 0
        ]
        return (self._calculate(row, present, weight.clone()) - weight).norm().item()

    def _calculate(self, row: int, strengths: Sequence[tuple[int, float]], weight: Tensor) -> Tensor:
        return applied(self.layers[row], [(self._patches[row][index], c) for index, c in strengths], weight)


def applied(key: PatchKey, patches: Sequence[tuple[Patch, float]], weight: Tensor) -> Tensor:
    """The weight (of a fused one only the key's part) with the patches at their strengths, by ComfyUI's arithmetic.

    `weight` is changed in place.
    """
    name, *part = (key,) if isinstance(key, str) else key  # a part of a fused weight may come with a function
    function = part[1] if len(part) > 1 else None
    entries = [(strength, patch, 1.0, None, function) for patch, strength in patches]
    return comfy.lora.calculate_weight(entries, weight, name)


def factor_gram(factors: Sequence[tuple[Tensor, Tensor, float]], device: torch.device | str = "cpu") -> Tensor:
    """<dW_i, dW_j> for dW = scale * up @ down. `factors`: (up (out, r), down (r, in), scale). Returns (K, K), fp32."""
    moved = [(up.to(device, torch.float32), down.to(device, torch.float32), scale) for up, down, scale in factors]
    gram = torch.zeros(len(moved), len(moved), device=device)
    for i, (up_i, down_i, scale_i) in enumerate(moved):
        for j, (up_j, down_j, scale_j) in enumerate(moved[: i + 1]):
            gram[i, j] = gram[j, i] = scale_i * scale_j * ((up_i.T @ up_j) * (down_i @ down_j.T)).sum()
    return gram


def _anatomies(patches: Sequence[Patch | None]) -> dict[int, Anatomy]:
    return {index: examine(patch) for index, patch in enumerate(patches) if patch is not None}
