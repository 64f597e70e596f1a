"""Executor `rows`: every row of the batch has its own coefficients; weights stay as they are.

y += c[row] * up(down(x)) beside each touched layer. All adapters are joined along their rank, so a layer costs two
products whatever their number, and layers that read the same input (q, k, v) share the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from ..adapter import Adapter

_SHARED_INPUT = re.compile(r"(.*\.attn1)\.to_[qkv]|(.*\.attn2)\.to_[kv]")


@dataclass(frozen=True)
class Layer:
    """One touched layer: where its ranks lie in the group's product, and where its `up` is."""

    module: str
    group: int
    start: int
    end: int


class RowsBank(nn.Module):
    """The adapters' factors joined along the rank; `alpha / r` is in the ups."""

    def __init__(self, adapters: Sequence[Adapter], dtype: torch.dtype) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.speakers: list[tuple[int, ...]] = []
        """For each group: which adapter each of its ranks belongs to."""
        self.kernels: list[tuple[int, ...]] = []
        """For each group: () for a linear layer, (in, height, width) for a convolution."""
        self.downs, self.ups = nn.ParameterList(), nn.ParameterList()
        groups: dict[str, list[str]] = {}
        for name in dict.fromkeys(key for adapter in adapters for key in adapter.model_patches):
            module = name.removesuffix(".weight")
            shared = _SHARED_INPUT.fullmatch(module)
            groups.setdefault((shared[1] or shared[2]) if shared else module, []).append(name)
        for names in groups.values():
            self._join(names, adapters, dtype)

    def _join(self, names: Sequence[str], adapters: Sequence[Adapter], dtype: torch.dtype) -> None:
        downs: list[Tensor] = []
        speakers: list[int] = []
        for name in names:
            start, ups = len(speakers), []
            for index, adapter in enumerate(adapters):
                if name in adapter.anatomies and name in adapter.model_patches:
                    up, down, scale = adapter.anatomies[name].factors  # type: ignore[misc]  # `low_rank` was asked
                    downs.append(down.to(dtype))
                    ups.append((up.float() * scale).to(dtype))
                    speakers += [index] * len(down)
            self.layers.append(Layer(name.removesuffix(".weight"), len(self.downs), start, len(speakers)))
            self.ups.append(nn.Parameter(torch.cat(ups, 1), requires_grad=False))
        self.speakers.append(tuple(speakers))
        self.downs.append(nn.Parameter(torch.cat(downs), requires_grad=False))


def low_rank(model: nn.Module, adapters: Sequence[Adapter]) -> bool:
    """Whether `rows` can run these: all change linear layers and convolutions by plain low-rank products."""
    return all(
        isinstance(key, str)
        and key.endswith(".weight")
        and adapter.anatomies[key].factors is not None
        and isinstance(comfy.utils.get_attr(model, key.removesuffix(".weight")), nn.Linear | nn.Conv2d)
        for adapter in adapters
        for key in adapter.model_patches
    )


@dataclass(eq=False)
class Rows:
    """The rows of one run. `speaking` holds during one forward."""

    bank: RowsBank
    _scales: dict[tuple, list[Tensor]] = field(default_factory=dict)

    @contextmanager
    def speaking(self, model: nn.Module, coefficients: Sequence[tuple[float, ...]], each: int) -> Iterator[None]:
        """Lets adapter i speak with coefficients[j][i] in the rows of chunk j; a chunk has `each` rows."""
        forward = _Forward(self.bank, self._scaled(tuple(coefficients), each))
        with ExitStack() as handles:
            for number, layer in enumerate(self.bank.layers):
                module: Any = comfy.utils.get_attr(model, layer.module)  # found anew: loading may have replaced it
                handle = module.register_forward_hook(forward.hook(number))
                handles.callback(handle.remove)
            yield

    def _scaled(self, coefficients: tuple[tuple[float, ...], ...], each: int) -> list[Tensor]:
        """For each group, the coefficients of all rows on all its ranks: (rows, ranks)."""
        device, dtype = self.bank.downs[0].device, self.bank.downs[0].dtype
        key = (coefficients, each, device)
        if key not in self._scales:
            rows = torch.tensor(coefficients, dtype=dtype, device=device).repeat_interleave(each, 0)
            places: dict[tuple[int, ...], Tensor] = {}
            for speakers in self.bank.speakers:
                if speakers not in places:
                    places[speakers] = rows[:, torch.tensor(speakers, device=device)]
            self._scales[key] = [places[speakers] for speakers in self.bank.speakers]
        return self._scales[key]


class _Forward:
    """What the hooks of one forward share: the last product of `down`, for q, k and v come one after the other."""

    def __init__(self, bank: RowsBank, scales: Sequence[Tensor]) -> None:
        self.bank, self.scales = bank, scales
        self.group, self.input, self.product = -1, torch.empty(0), torch.empty(0)

    def hook(self, number: int) -> Any:
        layer, up = self.bank.layers[number], self.bank.ups[number].data

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x, channels = inputs[0], 1 if isinstance(module, nn.Conv2d) else -1
            if layer.group != self.group or x is not self.input:
                self.group, self.input, self.product = layer.group, x, self._down(module, x, layer.group)
            own = self.product.narrow(channels, layer.start, layer.end - layer.start)
            return _convolved(output, own, up) if channels == 1 else _multiplied(output, own, up)

        return add

    def _down(self, module: nn.Module, x: Tensor, group: int) -> Tensor:
        down, scale = self.bank.downs[group].data.to(x.dtype), self.scales[group].to(x.dtype)
        if len(scale) != len(x):  # a model that folds frames or views into its batch
            scale = scale.repeat_interleave(len(x) // len(scale), 0)
        if isinstance(module, nn.Conv2d):
            kernel = down.view(len(down), x.shape[1], *module.kernel_size)
            product = F.conv2d(x, kernel, None, module.stride, module.padding, module.dilation)
            return product.mul_(scale[:, :, None, None])
        return F.linear(x, down).mul_(scale.view(len(x), *[1] * (x.dim() - 2), -1))


def _convolved(output: Tensor, product: Tensor, up: Tensor) -> Tensor:
    return output.add_(F.conv2d(product, up[:, :, None, None].to(output.dtype)))


def _multiplied(output: Tensor, product: Tensor, up: Tensor) -> Tensor:
    up = up.to(output.dtype)
    if not output.is_contiguous():
        return output.add_(F.linear(product, up))
    output.view(-1, output.shape[-1]).addmm_(product.reshape(-1, product.shape[-1]), up.t())  # product and sum in one
    return output
