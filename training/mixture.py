"""Frozen adapters whose coefficients are learned: one number for each adapter and group of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own abbreviation)
from torch import Tensor, nn

from ..mixlora_core.layers import blocks
from .settings import TrainingError

LowRank = tuple[Tensor, Tensor, float]
"""up (out, r), down (r, in * kernel), factor: the change of weight is factor * up @ down."""


@dataclass(frozen=True, eq=False)
class Voice:
    """One adapter as the mixture needs it."""

    name: str
    layers: Mapping[str, LowRank]
    """By the layer's path in the UNet; the adapter's full strength is in the factor."""


class Mixture:
    """W + sum of c[i, group] * dW_i in every layer that an adapter touches; only `coefficients` asks for gradients.

    `coefficients` (N adapters, G groups) is fp32 whatever the base's format. Raises TrainingError for layers that the
    UNet does not have or that no low-rank product fits.
    """

    def __init__(self, unet: nn.Module, voices: Sequence[Voice], grouping: str = blocks.BLOCK, start: float = 1.0):
        if not voices:
            raise TrainingError("There is no adapter to mix; give one or more.")
        self.voices, self.grouping = tuple(voices), grouping
        group_of = blocks.grouping(grouping)
        names = [name for name, _ in unet.named_modules() if any(name in voice.layers for voice in voices)]
        for voice in voices:
            if strange := [name for name in voice.layers if name not in names]:
                raise TrainingError(f"{voice.name}: the base has no layer {strange[0]} ({len(strange)} such layers).")
        self.groups = tuple(blocks.in_order({group_of(name) for name in names}))
        parameter = next(unet.parameters())
        self._layers = {
            name: _Joined.of(unet.get_submodule(name), name, voices, self.groups.index(group_of(name)), parameter.dtype)
            for name in names
        }
        device = parameter.device
        self.coefficients = nn.Parameter(torch.full((len(voices), len(self.groups)), float(start), device=device))
        self.touched = torch.zeros(self.coefficients.shape, dtype=torch.bool, device=device)
        """Which adapter has layers in which group; the others' coefficients do nothing."""
        for layer in self._layers.values():
            self.touched[layer.owners.unique(), layer.group] = True
        self._spoken: Tensor | None = self.coefficients

    @contextmanager
    def attached(self, unet: nn.Module) -> Iterator[None]:
        """Within the block the UNet's layers speak with the mixture; after it they are as before."""
        changed = []
        try:
            for name, joined in self._layers.items():
                layer: Any = unet.get_submodule(name)
                layer.forward = self._forward(layer, joined)
                changed.append(layer)
            yield
        finally:
            for layer in changed:
                del layer.forward  # the class's own shows again

    @contextmanager
    def speaking(self, coefficients: Tensor | None) -> Iterator[None]:
        """Within the block these coefficients (N, G) count instead of the learned ones; None: the base alone."""
        former, self._spoken = self._spoken, coefficients
        try:
            yield
        finally:
            self._spoken = former

    def alone(self, index: int) -> Tensor:
        """The coefficients with which one adapter speaks alone at full strength."""
        one = torch.zeros_like(self.coefficients)
        one[index] = 1.0
        return one.detach()

    def _forward(self, layer: Any, joined: _Joined) -> Callable[[Tensor], Tensor]:
        linear, dtype = isinstance(layer, nn.Linear), layer.weight.dtype
        geometry = () if linear else (layer.stride, layer.padding, layer.dilation)

        def forward(x: Tensor) -> Tensor:
            own = F.linear(x, layer.weight, layer.bias) if linear else F.conv2d(x, layer.weight, layer.bias, *geometry)
            if self._spoken is None:
                return own
            loud = self._spoken[:, joined.group][joined.owners].to(dtype)  # (ranks of all,)
            if linear:
                return own + F.linear(F.linear(x, joined.down) * loud, joined.up)
            hidden = F.conv2d(x, joined.down, None, *geometry) * loud[:, None, None]
            return own + F.conv2d(hidden, joined.up)

        return forward


@dataclass(frozen=True, eq=False)
class _Joined:
    """All adapters of one layer side by side along their rank."""

    group: int
    owners: Tensor
    """(R,): which adapter each rank belongs to."""
    down: Tensor
    """(R, in) or (R, in, kh, kw)."""
    up: Tensor
    """(out, R) or (out, R, 1, 1), with factors in it."""

    @classmethod
    def of(cls, layer: Any, name: str, voices: Sequence[Voice], group: int, dtype: torch.dtype) -> _Joined:
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise TrainingError(f"{name} is {type(layer).__name__}; only linear layers and convolutions can be mixed.")
        if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or isinstance(layer.padding, str)):
            raise TrainingError(f"{name}: grouped convolutions and those with special padding cannot be mixed.")
        shape, device, ups, downs, owners = layer.weight.shape, layer.weight.device, [], [], []
        for index, voice in enumerate(voices):
            if name not in voice.layers:
                continue
            up, down, factor = voice.layers[name]
            if up.shape[0] != shape[0] or down[0].numel() != shape[1:].numel() or up.shape[1] != len(down):
                found = f"{tuple(up.shape)} and {tuple(down.shape)}"
                raise TrainingError(f"{voice.name}: {found} do not fit {name}, whose weight is {tuple(shape)}.")
            ups.append(up.float() * factor)
            downs.append(down.float().reshape(len(down), *shape[1:]))
            owners += [index] * len(down)
        up, down = torch.cat(ups, 1).to(device, dtype), torch.cat(downs).to(device, dtype)
        up = up if isinstance(layer, nn.Linear) else up[:, :, None, None]
        return cls(group, torch.tensor(owners, device=device), down.contiguous(), up.contiguous())
