"""A LoRA in training: the low-rank factors of all its layers are views of one flat fp32 parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .draw import generator
from .lowrank import AdaptedConv, AdaptedLinear, Factors
from .settings import TrainingError
from .targets import Layer


class LoRA:
    """Trainable ``down`` and ``up`` per layer, which then adds ``alpha/rank * up(down(x))``.

    Shapes are [rank, in] and [out, rank], for convolutions [rank, in, kh, kw] and [out, rank, 1, 1]: those of the file.
    `flat` is the only parameter: 797,184 numbers for SD v1.5's 128 attention layers at rank 4. `down[name]` and
    `up[name]` are views of it, and `gradient`, which is ``flat.grad``, is laid out alike, so one optimizer entry, one
    norm and one all-reduce serve them all. It stays fp32: in bf16 a weight of 0.1 cannot move by less than 0.0004, and
    most entries would never change. `down` starts uniform as in a linear layer (Kaiming, a = √5), `up` at zero.
    """

    def __init__(
        self, layers: Mapping[str, Layer], rank: int, alpha: float, *, seed: int = 0, device: Any = None
    ) -> None:
        self.rank, self.alpha, self.names = rank, float(alpha), tuple(layers)
        self.shapes = {
            f"{side} {name}": shape
            for name, layer in layers.items()
            for side, shape in zip(("down", "up"), _shapes(name, layer, rank), strict=True)
        }
        self.flat = nn.Parameter(torch.zeros(sum(map(math.prod, self.shapes.values())), device=device))
        self.gradient = self.flat.grad = torch.zeros_like(self.flat)
        factors = self.views(self.flat.detach())
        self.down = {name: factors[f"down {name}"] for name in self.names}
        self.up = {name: factors[f"up {name}"] for name in self.names}
        for name, down in self.down.items():
            start = torch.empty(down.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator(seed, "init", f"down {name}"))
            down.copy_(start)
        self._products: Tensor | None = None  # gradients of one batch in the number format of a base that is not fp32

    @property
    def scale(self) -> float:
        """What ``up(down(x))`` is multiplied by."""
        return self.alpha / self.rank

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """A tensor laid out as `flat`, cut into its factors: "down NAME" and "up NAME" of every layer."""
        pieces = flat.split([math.prod(shape) for shape in self.shapes.values()])
        return {key: piece.view(shape) for (key, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    @contextmanager
    def attached(self, unet: nn.Module) -> Iterator[None]:
        """Within the block the UNet's layers speak with the adapter; after it they are as before.

        The layers keep their own weights and number format. The factors are cast to that format in one go as a forward
        of the UNet begins, not layer by layer; so the gradient of a loss is taken before the next forward.
        """
        dtype = unet.get_parameter(f"{self.names[0]}.weight").dtype
        working, products = self.flat.detach(), self.gradient

        def refresh(*_: Any) -> None:
            # Every time, changed or not: torch does not count every change (a fused optimizer's step leaves `_version`
            # as it was), and beside a forward the cast costs nothing.
            working.copy_(self.flat.detach())

        handles, layers = [], []
        if dtype != self.flat.dtype:
            working = torch.empty_like(working, dtype=dtype)
            products = self._products = torch.zeros_like(working)
            handles.append(unet.register_forward_pre_hook(refresh))
        factors, gradients = self.views(working), self.views(products)
        try:
            for name in self.names:
                layer = unet.get_submodule(name)
                keys = f"down {name}", f"up {name}"
                adapter = Factors(*map(factors.get, keys), *map(gradients.get, keys), self.scale)  # type: ignore
                layer.forward = self._adapted(layer, adapter)
                layers.append(layer)
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._products = None
            for layer in layers:
                del layer.forward  # the class's own shows again

    @contextmanager
    def holding(self, weights: Tensor) -> Iterator[None]:
        """Within the block `flat` is `weights`; after it the former bits are back."""
        former = self.flat.detach().clone()
        with torch.no_grad():
            self.flat.copy_(weights)
        try:
            yield
        finally:
            with torch.no_grad():
                self.flat.copy_(former)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss that was computed while attached to `gradient`."""
        loss.backward()
        if self._products is not None:
            self.gradient.add_(self._products)
            self._products.zero_()

    def _adapted(self, layer: Any, factors: Factors) -> Callable[[Tensor], Tensor]:
        function = AdaptedLinear if isinstance(layer, nn.Linear) else AdaptedConv
        return lambda x: function.apply(x, self.flat, layer, factors)  # type: ignore


def _shapes(name: str, layer: Layer, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        return (rank, layer.in_features), (layer.out_features, rank)
    if layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise TrainingError(f"{name}: grouped convolutions and those with special padding cannot be adapted.")
    return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)
