"""Executor `rows`: every row of the batch has its own coefficients; weights stay as they are.

y += c[row] * up(down(x)) beside each touched layer, in one of two ways. Joined: all adapters as one along their rank,
so that a layer costs two products whatever their number, and layers that read the same input (q, k, v) share the first;
for a GPU, which waits for launches. Apart: only what a row's own adapters need, and the model's own product of a text
once for all rows that read it; for a CPU, which waits for arithmetic. Regions are `placed`, joined everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from ..adapter import Adapter
from .executor import Speech
from .repeats import each_once, for_each_chunk

_SHARED_INPUT = re.compile(r"(.*\.attn1)\.to_[qkv]|(.*\.attn2)\.to_[kv]")
_READS_TEXT = re.compile(r".*\.attn2\.to_[kv]")

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


@dataclass(frozen=True)
class Layer:
    """One touched layer: the group whose `down` it uses, and which ranks there are whose."""

    module: str
    group: int
    start: int
    end: int
    ranks: dict[int, tuple[int, int]]
    """Adapter -> its ranks within start .. end."""


class RowsBank(nn.Module):
    """The adapters' factors joined along the rank; `alpha / r` is in the ups."""

    def __init__(self, adapters: Sequence[Adapter], dtype: torch.dtype) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.speakers: list[tuple[int, ...]] = []
        """For each group: which adapter each of its ranks belongs to."""
        self.downs, self.ups = nn.ParameterList(), nn.ParameterList()
        groups: dict[str, list[str]] = {}
        for name in dict.fromkeys(str(key) for adapter in adapters for key in adapter.model_patches):
            module = name.removesuffix(".weight")
            shared = _SHARED_INPUT.fullmatch(module)
            groups.setdefault((shared[1] or shared[2]) if shared else module, []).append(name)
        for names in groups.values():
            self._join(names, adapters, dtype)

    def _join(self, names: Sequence[str], adapters: Sequence[Adapter], dtype: torch.dtype) -> None:
        downs: list[Tensor] = []
        speakers: list[int] = []
        for name in names:
            start, ups, ranks = len(speakers), [], {}
            for index, adapter in enumerate(adapters):
                if name in adapter.model_patches:
                    up, down, scale = adapter.anatomies[name].factors  # type: ignore[misc]  # `low_rank` was asked
                    downs.append(down.to(dtype))
                    ups.append((up.float() * scale).to(dtype))
                    ranks[index] = (len(speakers), len(speakers) + len(down))
                    speakers += [index] * len(down)
            self.layers.append(Layer(name.removesuffix(".weight"), len(self.downs), start, len(speakers), ranks))
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
    """The rows of one run. `joined` None: as is faster on the device."""

    bank: RowsBank
    joined: bool | None = None
    _scales: dict[tuple, list[Tensor]] = field(default_factory=dict)
    _weights: dict[tuple, Any] = field(default_factory=dict)
    together = None

    def prepare(self, model: nn.Module, coefficients: Sequence[tuple[float, ...]]) -> None:
        """Nothing: coefficients matter in the forward."""

    def close(self, model: nn.Module) -> None:
        """Nothing: hooks live for one forward."""

    @contextmanager
    def speaking(
        self, model: nn.Module, speeches: Sequence[Speech], batch: Tensor, options: dict[str, Any]
    ) -> Iterator[None]:
        """Lets the adapters speak as speeches[j] says in the rows of chunk j; all chunks have as many."""
        coefficients = [speech.coefficients for speech in speeches]
        if not any(map(any, coefficients)):
            yield
            return
        if any(speech.regions is not None for speech in speeches):
            with self._placed(model, tuple(speeches), batch, options):
                yield
            return
        joined = batch.device.type != "cpu" if self.joined is None else self.joined
        way = Joined(self.bank, self._scaled(tuple(coefficients), batch)) if joined else _Apart(self.bank, coefficients)
        with ExitStack() as handles:
            for number, layer in enumerate(self.bank.layers):
                module: Any = comfy.utils.get_attr(model, layer.module)  # found anew: loading may have replaced it
                if not joined and _READS_TEXT.fullmatch(layer.module):
                    handles.callback(module.register_forward_pre_hook(each_once(len(coefficients))).remove)
                handles.callback(module.register_forward_hook(way.hook(number)).remove)
            yield

    def _placed(
        self, model: nn.Module, speeches: tuple[Speech, ...], batch: Tensor, options: dict[str, Any]
    ) -> AbstractContextManager[None]:
        from .placed import Weights, placed  # it builds on this module

        each = len(batch) // len(speeches)
        key = (speeches, each, batch.device)
        if key not in self._weights:
            self._weights[key] = Weights(speeches, each, self.bank.downs[0].data.new_empty(0, device=batch.device))
        return placed(model, self.bank, self._weights[key], options)

    def _scaled(self, coefficients: tuple[tuple[float, ...], ...], batch: Tensor) -> list[Tensor]:
        """For each group, the coefficients of all rows on all its ranks: (rows, ranks)."""
        device, dtype, each = batch.device, self.bank.downs[0].dtype, len(batch) // len(coefficients)
        key = (coefficients, each, device)
        if key not in self._scales:
            rows = torch.tensor(coefficients, dtype=dtype, device=device).repeat_interleave(each, 0)
            places = {speakers: torch.tensor(speakers, device=device) for speakers in set(self.bank.speakers)}
            scales = {speakers: rows[:, place] for speakers, place in places.items()}
            self._scales[key] = [scales[speakers] for speakers in self.bank.speakers]
        return self._scales[key]


class Joined:
    """The hooks of one forward; they share the last product of `down`, for q, k and v come one after the other."""

    def __init__(self, bank: RowsBank, scales: Sequence[Tensor]) -> None:
        self.bank, self.scales = bank, scales
        self.group, self.input, self.product = -1, torch.empty(0), torch.empty(0)

    def hook(self, number: int) -> Hook:
        """Adds what a layer's adapters say to its output."""
        layer, up = self.bank.layers[number], self.bank.ups[number].data

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return _up(module, output, self.product_of(module, inputs[0], layer), up, 1.0)

        return add

    def product_of(self, module: nn.Module, x: Tensor, layer: Layer) -> Tensor:
        """The layer's own ranks of the scaled `down` of an input."""
        if layer.group != self.group or x is not self.input:
            self.group, self.input, self.product = layer.group, x, self._scaled_down(module, x, layer.group)
        channels = 1 if isinstance(module, nn.Conv2d) else -1
        return self.product.narrow(channels, layer.start, layer.end - layer.start)

    def down(self, module: nn.Module, x: Tensor, group: int) -> Tensor:
        """`down` of an input, all ranks of a group."""
        return _down(module, x, self.bank.downs[group].data)

    def _scaled_down(self, module: nn.Module, x: Tensor, group: int) -> Tensor:
        product, scale = self.down(module, x, group), self.scales[group].to(x.dtype)
        scale = scale.repeat_interleave(len(x) // len(scale), 0)  # some models fold frames or views into the batch
        inner = [1] * (x.dim() - 2)
        shape = (*scale.shape, *inner) if isinstance(module, nn.Conv2d) else (len(scale), *inner, -1)
        return product.mul_(scale.view(shape))


class _Apart:
    """The hooks of one forward; each chunk of rows meets its own adapters only."""

    def __init__(self, bank: RowsBank, coefficients: Sequence[tuple[float, ...]]) -> None:
        self.bank, self.coefficients = bank, coefficients

    def hook(self, number: int) -> Hook:
        layer, up = self.bank.layers[number], self.bank.ups[number].data
        down = self.bank.downs[layer.group].data

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            given, output = for_each_chunk(inputs[0], output, len(self.coefficients))
            chunks = zip(given, output.chunk(len(self.coefficients)), self.coefficients, strict=True)
            for x, part, coefficients in chunks:
                for adapter, (first, end) in layer.ranks.items():
                    if coefficients[adapter]:
                        own = up[:, first - layer.start : end - layer.start]
                        _up(module, part, _down(module, x, down[first:end]), own, coefficients[adapter])
            return output

        return add


def _down(module: nn.Module, x: Tensor, down: Tensor) -> Tensor:
    if isinstance(module, nn.Conv2d):
        kernel = down.to(x).view(len(down), x.shape[1], *module.kernel_size)
        return F.conv2d(x, kernel, None, module.stride, module.padding, module.dilation)
    return F.linear(x, down.to(x))


def _up(module: nn.Module, output: Tensor, product: Tensor, up: Tensor, coefficient: float) -> Tensor:
    """Adds coefficient * up(product) to `output`, in one operation where its memory allows."""
    up = up.to(output)
    if isinstance(module, nn.Conv2d):
        return output.add_(F.conv2d(product, up[:, :, None, None]), alpha=coefficient)
    if not output.is_contiguous():
        return output.add_(F.linear(product, up), alpha=coefficient)
    flat = product.reshape(-1, product.shape[-1])
    output.view(-1, output.shape[-1]).addmm_(flat, up.t(), alpha=coefficient)
    return output
