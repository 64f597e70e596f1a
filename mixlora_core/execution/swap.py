"""Executor `swap`: the live weights become W + sum of c * dW, and the very same W again afterwards.

A changed weight is a new parameter put in the place of the model's own, which is set aside untouched. So putting W
back moves no byte and cannot round, whatever happened in between; the cost is one copy of the touched weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor
from torch.nn import Parameter

from ..adapter import Adapter, PatchKey
from .bank import Bank, Part
from .executor import Speech

Speaking = list[tuple[float, PatchKey, Part]]
"""Coefficient, key and tensors of everyone who speaks on one weight, in the order of the stack."""


@dataclass(eq=False)
class Swap:
    """The weights of one run, which are those of one branch at a time."""

    bank: Bank
    _own: dict[str, tuple[Parameter, Parameter]] = field(default_factory=dict)
    """Name of a weight -> the model's own parameter and the one that stands in for it."""
    _speaking: tuple[float, ...] | None = None
    together = 1

    def prepare(self, model: torch.nn.Module, coefficients: Sequence[tuple[float, ...]]) -> None:
        """Lets adapter i speak with coefficients[0][i]; does nothing where that is so already."""
        (own,) = coefficients
        if own == self._speaking:
            return
        self._speaking = None  # until all are written
        for name, parts in self.bank.weights.items():
            self._write(model, name, [(own[i], key, self.bank.part(i, key)) for i, key in parts if own[i]])
        self._speaking = own

    @contextmanager
    def speaking(
        self, model: torch.nn.Module, speeches: Sequence[Speech], batch: Tensor, options: dict[str, Any]
    ) -> Iterator[None]:
        """Nothing: the weights say it already."""
        yield

    def close(self, model: torch.nn.Module) -> None:
        """Puts the model's own parameters back."""
        for name, (original, standin) in self._own.items():
            # Something else may have loaded or unloaded the model meanwhile; what it left is not ours to replace.
            if comfy.utils.get_attr(model, name) is standin:
                if original.device != standin.device:
                    original.data = original.data.to(standin.device)
                comfy.utils.set_attr(model, name, original)
        self._own.clear()
        self._speaking = None

    def _write(self, model: torch.nn.Module, name: str, speaking: Speaking) -> None:
        if name not in self._own:
            if not speaking:
                return
            original: Any = comfy.utils.get_attr(model, name)
            standin = Parameter(torch.empty_like(original.data), requires_grad=False)
            self._own[name] = (original, standin)
        original, standin = self._own[name]
        if speaking:
            _add(original.data, speaking, name, out=standin.data)
        comfy.utils.set_attr(model, name, standin if speaking else original)


def _add(weight: Tensor, speaking: Speaking, name: str, out: Tensor) -> None:
    """Writes weight + sum of c * dW into `out`, in the operations, order and rounding of ComfyUI's own LoRA patches."""
    if weight.dtype == torch.float32 and all(part.factors is not None for _, _, part in speaking):
        for coefficient, _, part in speaking:
            torch.add(weight, _change(part, coefficient, weight), out=out)
            weight = out
        return
    sum32 = comfy.model_management.cast_to_device(weight, weight.device, torch.float32, copy=True)
    for coefficient, key, part in speaking:
        if part.factors is not None:
            sum32 += _change(part, coefficient, sum32)
        else:
            offset, function = (None, None) if isinstance(key, str) else (*key[1:], None)[:2]
            entry = (coefficient, part.patch, 1.0, offset, function)
            sum32 = comfy.lora.calculate_weight([entry], sum32, name)
    seed = comfy.model_patcher.string_to_seed(name)
    out.copy_(comfy.float.stochastic_rounding(sum32, weight.dtype, seed=seed))


def _change(part: Part, coefficient: float, weight: Tensor) -> Tensor:
    up, down, scale = part.factors  # type: ignore[misc]  # asked for by the callers
    up, down = (factor.to(weight.device, torch.float32) for factor in (up, down))
    return torch.mm(up, down).mul_(coefficient * scale).view(weight.shape)


def copied(model: torch.nn.Module, adapters: Sequence[Adapter]) -> int:
    """How many bytes a copy of the weights takes that these change."""
    return sum(comfy.model_patcher.get_key_weight(model, name)[0].nbytes for name in _touched(adapters))


def writable(model: torch.nn.Module, adapters: Sequence[Adapter]) -> bool:
    """Whether these change plain numbers only, which can be replaced: a quantised layer keeps its own form."""
    return all(_plain(*comfy.model_patcher.get_key_weight(model, name)[:2]) for name in _touched(adapters))


def _touched(adapters: Sequence[Adapter]) -> set[str]:
    return {key if isinstance(key, str) else key[0] for adapter in adapters for key in adapter.model_patches}


def _plain(weight: Any, set_weight: Any) -> bool:
    """Packed weights, as those of GGUF files, say another shape than that of the bytes that they hold."""
    return set_weight is None and weight.is_floating_point() and weight.data.size() == weight.shape
