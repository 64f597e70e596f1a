"""A frozen layer and its low-rank adapter as one differentiable function, for linear and convolutional layers.

Left to autograd, the two would be many small steps: casts, scalings, additions, and for each factor an accumulation,
hundreds of launches per batch that are what a low-rank layer costs on a GPU. Here the adapter adds into the layer's own
output, its share of the input's gradient into the layer's own, and the factors' gradients go straight into their views
of the flat gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own abbreviation)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: what it computes with, and where its gradients are added."""

    down: Tensor
    """[rank, in] or [rank, in, kh, kw], in the layer's number format."""
    up: Tensor
    """[out, rank] or [out, rank, 1, 1]."""
    down_gradient: Tensor
    up_gradient: Tensor
    scale: float


class AdaptedLinear(torch.autograd.Function):
    """``x Wᵀ + b + scale * (x downᵀ) upᵀ``; only x and the rank-wide ``x downᵀ`` are kept for the way back.

    `anchor` is any tensor that asks for gradients: it keeps the layer in the graph where x does not; it gets none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: nn.Linear, factors: Factors) -> Tensor:
        """The layer and its adapter."""
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ factors.down.t()
        ctx.save_for_backward(rows, hidden, factors.down, factors.up)
        ctx.layer, ctx.factors, ctx.x_shape = layer, factors, x.shape
        output = F.linear(x, layer.weight, layer.bias)
        output.view(-1, output.shape[-1]).addmm_(hidden, factors.up.t(), alpha=factors.scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient to x; the factors' own are added where `Factors` says."""
        rows, hidden, down, up = ctx.saved_tensors
        factors, to_output = ctx.factors, gradient.reshape(-1, gradient.shape[-1])
        to_hidden = to_output @ up
        factors.up_gradient.addmm_(to_output.t(), hidden, alpha=factors.scale)
        factors.down_gradient.addmm_(to_hidden.t(), rows, alpha=factors.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        to_x = to_output @ ctx.layer.weight
        return to_x.addmm_(to_hidden, down, alpha=factors.scale).view(ctx.x_shape), None, None, None


class AdaptedConv(torch.autograd.Function):
    """A convolution plus ``scale`` times a narrow one of the same geometry followed by a 1 x 1; else as above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: nn.Conv2d, factors: Factors) -> Tensor:
        """The layer and its adapter."""
        geometry = layer.stride, layer.padding, layer.dilation
        hidden = F.conv2d(x, factors.down, None, *geometry)  # type: ignore[arg-type]
        ctx.save_for_backward(x, hidden, factors.down, factors.up)
        ctx.layer, ctx.factors = layer, factors
        output = F.conv2d(x, layer.weight, layer.bias, *geometry)  # type: ignore[arg-type]
        return output.add_(F.conv2d(hidden, factors.up), alpha=factors.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient to x; the factors' own are added where `Factors` says."""
        x, hidden, down, up = ctx.saved_tensors
        layer, factors, to_x = ctx.layer, ctx.factors, ctx.needs_input_grad[0]
        to_hidden = F.conv2d(gradient, up.transpose(0, 1)) * factors.scale
        factors.up_gradient.flatten(1).addmm_(_rows(gradient).t(), _rows(hidden), alpha=factors.scale)
        narrow, to_down, _ = _back(to_hidden, x, down, layer, (to_x, True, False))
        factors.down_gradient.add_(to_down)
        if not to_x:
            return None, None, None, None
        return _back(gradient, x, layer.weight, layer, (True, False, False))[0].add_(narrow), None, None, None


def _rows(images: Tensor) -> Tensor:
    """[n, c, h, w] to [n h w, c]; a view where the memory is in channels-last order."""
    return images.movedim(1, -1).reshape(-1, images.shape[1])


def _back(gradient: Tensor, x: Tensor, weight: Tensor, layer: nn.Conv2d, wanted: tuple[bool, bool, bool]) -> Any:
    """A convolution's gradients to its input, weight and bias."""
    geometry = layer.stride, layer.padding, layer.dilation
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, False, [0, 0], 1, wanted)
