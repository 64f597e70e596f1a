"""Low-rank adapters for a UNet's attention: every factor is a view of one flat fp32 parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .draw import generator
from .settings import TrainingError

ATTENTION = tuple(f"{block}.{layer}" for block in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0"))


def attention_layers(unet: nn.Module, endings: tuple[str, ...] = ATTENTION) -> dict[str, nn.Linear]:
    """The linear layers to adapt, by their path in the UNet, in its order. Raises TrainingError if there are none."""
    dotted = tuple("." + ending for ending in endings)
    layers = {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and ("." + name).endswith(dotted)
    }
    if not layers:
        raise TrainingError(f"{type(unet).__name__} has no linear layer whose path ends with {', '.join(endings)}.")
    return layers


class LoRA:
    """Trainable ``down`` [rank, in] and ``up`` [out, rank] per layer, which then adds ``alpha/rank * up(down(x))``.

    `flat` is the only parameter: 797,184 numbers for SD v1.5's 128 attention layers at rank 4. `down[name]` and
    `up[name]` share its storage and their gradients that of `gradient`, which is ``flat.grad``, so one optimizer entry,
    one norm and one all-reduce serve them all. It stays fp32: in bf16 a weight of 0.1 cannot move by less than 0.0004,
    and most entries would never change. `down` starts uniform as in a linear layer (Kaiming, a = √5), `up` at zero.
    """

    def __init__(
        self, layers: Mapping[str, nn.Linear], rank: int, alpha: float, *, seed: int = 0, device: Any = None
    ) -> None:
        self.rank, self.alpha = rank, float(alpha)
        self.shapes = {
            f"{side} {name}": (rank, layer.in_features) if side == "down" else (layer.out_features, rank)
            for name, layer in layers.items()
            for side in ("down", "up")
        }
        self.names = tuple(layers)
        size = sum(math.prod(shape) for shape in self.shapes.values())
        self.flat = nn.Parameter(torch.zeros(size, device=device))
        self.gradient = self.flat.grad = torch.zeros_like(self.flat)

        factors = self._views(self.flat.detach())
        for (key, factor), gradient in zip(factors.items(), self._views(self.gradient).values(), strict=True):
            factor.requires_grad_().grad = gradient
            if key.startswith("down "):
                start = torch.empty(factor.shape)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator(seed, "init", key))
                factor.detach().copy_(start)
        self.down = {name: factors[f"down {name}"] for name in self.names}
        self.up = {name: factors[f"up {name}"] for name in self.names}

    @property
    def scale(self) -> float:
        """What ``up(down(x))`` is multiplied by."""
        return self.alpha / self.rank

    @contextmanager
    def attached(self, unet: nn.Module) -> Iterator[None]:
        """Within the block the UNet's layers speak with the adapter; after it no hook is left.

        The layers keep their own weights and number format. The factors are cast to that format once per change of
        `flat`, not once per layer and forward.
        """
        dtype = unet.get_parameter(f"{self.names[0]}.weight").dtype
        working = torch.empty_like(self.flat, dtype=dtype, requires_grad=False)
        views, seen = self._views(working), -1

        def refresh(*_: Any) -> None:
            nonlocal seen
            if self.flat._version != seen:  # counts every in-place change, also through a view
                working.copy_(self.flat.detach())
                seen = self.flat._version

        def hook(name: str):
            down, up, scale = self.down[name], self.up[name], self.scale
            cast_down, cast_up = views[f"down {name}"], views[f"up {name}"]

            def add_adapter(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                return _AddLowRank.apply(output, inputs[0], down, up, cast_down, cast_up, scale)  # type: ignore

            return add_adapter

        handles = [unet.register_forward_pre_hook(refresh)]
        try:
            for name in self.names:
                handles.append(unet.get_submodule(name).register_forward_hook(hook(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = flat.split([math.prod(shape) for shape in self.shapes.values()])
        return {key: piece.view(shape) for (key, shape), piece in zip(self.shapes.items(), pieces, strict=True)}


class _AddLowRank(torch.autograd.Function):
    """``output + scale * (x @ down.T) @ up.T``, computed with the cast factors, differentiated to the fp32 ones.

    Two matrix products forward and four backward; only x and the rank-wide ``x @ down.T`` are kept. Left to autograd,
    each layer would also cast, scale and add in steps of their own, and those hundreds of small launches are what a
    low-rank layer costs on a GPU.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, x: Tensor, down: Tensor, up: Tensor, cast_down: Tensor, cast_up: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ cast_down.t()
        ctx.save_for_backward(rows, hidden, cast_down, cast_up)
        ctx.scale, ctx.x_shape = scale, x.shape
        return torch.addmm(output.reshape(-1, output.shape[-1]), hidden, cast_up.t(), alpha=scale).view(output.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, down, up = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        to_hidden = (flat @ up) * ctx.scale
        to_output = gradient if ctx.needs_input_grad[0] else None
        to_x = (to_hidden @ down).view(ctx.x_shape) if ctx.needs_input_grad[1] else None
        to_down = (to_hidden.t() @ rows).float()
        to_up = (flat.t() @ hidden).float() * ctx.scale
        return to_output, to_x, to_down, to_up, None, None, None
