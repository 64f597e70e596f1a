"""Groups of a UNet's weights, by their names alone: blocks, attention blocks, layers. Pure: no torch, no ComfyUI."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import CompositionError

ALL, BLOCK, ATTENTION, LAYER = "all", "block", "attention", "layer"

_PREFIX = "diffusion_model."
_BLOCK = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.")
_ATTENTION = re.compile(r"(.*\.(?:attn\d+|ff))\.")
_MODULE = re.compile(r"((?:input|middle|output)_blocks?(?:\.\d+)+)\.")


def layer_of(key: str | tuple[Any, ...]) -> str:
    """The module whose weight or bias a patch's key names: "input_blocks.1.1.proj_in". Parts of a weight are one."""
    name = key if isinstance(key, str) else key[0]
    return name.removeprefix(_PREFIX).removesuffix(".weight").removesuffix(".bias")


def attention_of(key: str | tuple[Any, ...]) -> str:
    """An attention or feed-forward with all its layers, "input_blocks.1.1.transformer_blocks.0.attn2".

    A layer outside of them belongs to its module, a residual block or a transformer's in and out: "input_blocks.1.0".
    """
    layer = layer_of(key)
    found = _ATTENTION.match(f"{layer}.") or _MODULE.match(f"{layer}.")
    return found[1] if found else layer.partition(".")[0]


def block_of(key: str | tuple[Any, ...]) -> str:
    """The block as the trainer calls it: "input.1", "middle.1", "output.11"; elsewhere the first part of the name."""
    layer = layer_of(key)
    found = _BLOCK.match(f"{layer}.")
    return f"{found[1]}.{found[2]}" if found else layer.partition(".")[0]


GROUPINGS: Mapping[str, Callable[[str | tuple[Any, ...]], str]] = {
    ALL: lambda key: ALL,
    BLOCK: block_of,
    ATTENTION: attention_of,
    LAYER: layer_of,
}
"""How to group weights -> a function from a patch's key to its group."""


def grouping(name: str) -> Callable[[str | tuple[Any, ...]], str]:
    """The function of GROUPINGS. Raises CompositionError for an unknown name."""
    if name not in GROUPINGS:
        raise CompositionError(f"Layers are grouped by {name!r}; expected one of {', '.join(GROUPINGS)}.")
    return GROUPINGS[name]


def in_order(groups: Iterable[str]) -> list[str]:
    """Names of groups as the model runs through them: input, middle, output, then the rest; numbers by value."""

    def place(name: str) -> tuple[Any, ...]:
        parts = re.split(r"[._]", name)
        first = {"input": 0, "middle": 1, "output": 2}.get(parts[0], 3)
        return (first, *((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts))

    return sorted(groups, key=place)
