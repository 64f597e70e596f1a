"""Which layers of a UNet are adapted: kinds of layers, and blocks, both by name."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torch import nn

from .settings import TARGETS, TrainingError

Layer = nn.Linear | nn.Conv2d

ENDINGS = {
    "attention": tuple(f"{attn}.{end}" for attn in ("attn1", "attn2") for end in ("to_q", "to_k", "to_v", "to_out.0")),
    "ff": ("ff.net.0.proj", "ff.net.2"),
    "proj": ("proj_in", "proj_out"),
    "conv": ("in_layers.2", "out_layers.3", "skip_connection", "op", "conv"),
}
"""Per kind of layer how its paths end in ComfyUI's UNet. `conv` is what others call LoCon: residual, down, up."""

ALL = "all"
_BLOCK = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.")


def target_layers(unet: nn.Module, targets: str = "attention", blocks: str = ALL) -> dict[str, Layer]:
    """The layers to adapt, by their path in the UNet, in its order.

    `targets` is "all", or kinds joined by "+". `blocks` is "all", or patterns separated by commas or spaces; each is a
    part ("input", "middle", "output") or a block ("input.1", "output.[3-5]"). Raises TrainingError for kinds and blocks
    that the UNet does not have; it lists those that it has.
    """
    found = {}
    for kind in TARGETS if targets == ALL else targets.split("+"):
        endings = tuple("." + ending for ending in ENDINGS[kind])
        here = {name: module for name, module in unet.named_modules() if f".{name}".endswith(endings)}
        here = {name: module for name, module in here.items() if isinstance(module, (nn.Linear, nn.Conv2d))}
        if not here:
            raise TrainingError(f"targets: {type(unet).__name__} has no {kind} layer ({', '.join(ENDINGS[kind])}).")
        found |= here
    layers = {name: found[name] for name, _ in unet.named_modules() if name in found}
    if blocks == ALL:
        return layers
    patterns = blocks.replace(",", " ").split()
    names = list(dict.fromkeys(block_of(layer) for layer in layers))
    if unknown := [p for p in patterns if not any(_matches(name, p) for name in names)] or not patterns:
        wrong = ", ".join(repr(pattern) for pattern in unknown) if isinstance(unknown, list) else repr(blocks)
        raise TrainingError(f"blocks: {wrong} names no block with such layers. There are: {', '.join(names)}.")
    return {name: layer for name, layer in layers.items() if any(_matches(block_of(name), p) for p in patterns)}


def block_of(layer: str) -> str:
    """The block that a layer lies in: "input.1", "middle.1", "output.11"; elsewhere the first part of its path."""
    found = _BLOCK.match(layer)
    return f"{found[1]}.{found[2]}" if found else layer.partition(".")[0]


def _matches(block: str, pattern: str) -> bool:
    return block.partition(".")[0] == pattern or fnmatchcase(block, pattern)
