"""Where the forward of a UNet is: whose tokens a layer sees, and which cross-attention runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import comfy.utils
from torch import Tensor, nn

OVERRIDE = "optimized_attention_override"
"""The transformer option by which ComfyUI lets others compute attention."""

_BLOCK = re.compile(r"(.*?)\.(?:transformer_blocks|proj_in|proj_out|emb_layers)(?:\..*)?")
_CROSS = re.compile(r"(.*\.attn2)(?:\..*)?")


class Places:
    """Follows one forward by hooks on the blocks of layers that matter."""

    def __init__(self) -> None:
        self.grid: tuple[int, int] | None = None
        """Height and width of what the block that runs now got."""
        self.attention: str | None = None
        """The name of the cross-attention that runs now."""

    def watch(self, model: nn.Module, layers: Iterable[str], handles: ExitStack) -> None:
        """Follows the blocks and cross-attentions of these layers until `handles` closes."""
        layers = list(layers)
        for name in dict.fromkeys(found[1] for layer in layers if (found := _BLOCK.fullmatch(layer))):
            block: Any = comfy.utils.get_attr(model, name)
            handles.callback(block.register_forward_pre_hook(self._enter_block).remove)
        for name in dict.fromkeys(found[1] for layer in layers if (found := _CROSS.fullmatch(layer))):
            attention: Any = comfy.utils.get_attr(model, name)
            handles.callback(attention.register_forward_pre_hook(self._entering(name)).remove)
            handles.callback(attention.register_forward_hook(self._leave).remove)

    def _enter_block(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        self.grid = (height, width)

    def _entering(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.attention = name

        return enter

    def _leave(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.attention = None


def override(options: dict[str, Any], attention: Callable[..., Tensor], handles: ExitStack) -> None:
    """Lets `attention(compute, q, k, v, heads, ...)` compute attention until `handles` closes.

    `compute(q, k, v, heads, ...)` is what would have computed it.
    """
    other = options.get(OVERRIDE)

    def instead(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        def compute(*args: Any, **kwargs: Any) -> Tensor:
            return function(*args, **kwargs) if other is None else other(function, *args, **kwargs)

        return attention(compute, *args, **kwargs)

    options[OVERRIDE] = instead
    if other is None:
        handles.callback(options.pop, OVERRIDE)
    else:
        handles.callback(options.__setitem__, OVERRIDE, other)


def split(tensor: Tensor, heads: int) -> Tensor:
    """(rows, tokens, heads * width) as (rows, heads, tokens, width)."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)
