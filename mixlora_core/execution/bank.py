"""The tensors of a stack's adapters as one module that ComfyUI loads, unloads and counts like any other model.

ComfyUI moves it to the device together with the model it belongs to and keeps it there from queue to queue as long as
memory allows. Where it does not, the bank stays where it is, and executors fetch each tensor when they need it.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import comfy.model_patcher
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor, nn

from ..adapter import Adapter, Patch, PatchKey

KEPT = 4
"""How many banks of a model are kept for the next queue."""


class Part(NamedTuple):
    """What one adapter does to one weight: low-rank factors, or else the patch that ComfyUI applies."""

    factors: tuple[Tensor, Tensor, float] | None
    """(up (out, r), down (r, in * kernel), alpha / r)."""
    patch: Patch = None


class Bank(nn.Module):
    """All parts of a stack as they are in the files; the tensors are this module's parameters, so they move with it."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        super().__init__()
        self.tensors = nn.ParameterList()
        self.weights: dict[str, list[tuple[int, PatchKey]]] = {}
        """Name of a weight -> who changes it: (adapter, key) in the order of the stack."""
        self._parts: dict[tuple[int, PatchKey], Part] = {}
        for index, adapter in enumerate(adapters):
            for key, patch in adapter.model_patches.items():
                name = key if isinstance(key, str) else key[0]
                self.weights.setdefault(name, []).append((index, key))
                factors = adapter.anatomies[key].factors if isinstance(key, str) else None
                part = Part(factors) if factors is not None else Part(None, patch)
                self._parts[index, key] = _mapped(part, Tensor, self._keep)

    def part(self, adapter: int, key: PatchKey) -> Part:
        """What this adapter does to this weight, on the device where the bank is now."""
        return _mapped(self._parts[adapter, key], _Place, lambda place: self.tensors[place.index].data)

    def _keep(self, tensor: Tensor) -> _Place:
        self.tensors.append(nn.Parameter(tensor, requires_grad=False))
        return _Place(len(self.tensors) - 1)


@dataclass(frozen=True)
class _Place:
    index: int


def _mapped(content: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same structure of tuples, lists and weight adapters with everything of a kind changed."""
    if isinstance(content, kind):
        return change(content)
    if isinstance(content, WeightAdapterBase):
        copy: Any = object.__new__(type(content))
        copy.__dict__ = {name: _mapped(value, kind, change) for name, value in vars(content).items()}
        return copy
    if isinstance(content, Part):
        return Part(*(_mapped(value, kind, change) for value in content))
    if isinstance(content, tuple | list):
        return type(content)(_mapped(value, kind, change) for value in content)
    return content


class BankPatcher(comfy.model_patcher.ModelPatcher):
    """A bank as ComfyUI loads it: as a whole or not at all, for what ComfyUI can load in parts has layers."""

    def partially_load(self, device_to: Any, extra_memory: int = 0, force_patch_weights: bool = False) -> int:
        """Loads it where it fits into `extra_memory` bytes, and says how many it took."""
        if 0 <= extra_memory <= self.model_size() - self.loaded_size():
            return 0
        return super().partially_load(device_to, extra_memory, force_patch_weights)

    def partially_unload(self, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False) -> int:
        """Frees nothing: ComfyUI then unloads it as a whole."""
        return 0


_Module = TypeVar("_Module", bound=nn.Module)
_Banks = OrderedDict[Hashable, BankPatcher]
_banks: weakref.WeakKeyDictionary[nn.Module, _Banks] = weakref.WeakKeyDictionary()


def kept(
    model: Any, kind: Hashable, adapters: Sequence[Adapter], make: Callable[[], _Module], beside: int = 0
) -> tuple[_Module, BankPatcher]:
    """The bank of this kind that was made for this MODEL and these adapters before, or a new one.

    `beside` are bytes that an executor needs on the device besides the bank: ComfyUI makes room for them, too.
    Returns it bare and as ComfyUI loads it. A second queue finds its adapters where they are; banks live as long as
    the model, the latest few of them.
    """
    banks = _banks.setdefault(model.model, OrderedDict())
    key = (kind, *adapters)  # the adapters themselves: an id could come again
    if key not in banks:
        patcher = banks[key] = BankPatcher(make(), model.load_device, model.offload_device)
        patcher.size = patcher.model_size() + beside
        if len(banks) > KEPT:
            banks.popitem(last=False)
    banks.move_to_end(key)
    module: Any = banks[key].model
    return module, banks[key]
