"""Rows whose coefficients differ from place to place.

Layers that read the picture: y(p) += up(c(p) * down(x)(p)). What has no place speaks where its result meets it:

- Keys and values read the text. Attention is linear in them, so with d = down(text) and per place coefficients c(p)
      score(p, t) = q_p . k_t + (up_k^T q_p * c(p)) . d_k(t)
      out(p)      = sum_t a(p, t) v_t + up_v (c(p) * sum_t a(p, t) d_v(t))
  which is one attention with queries [q, up_k^T q * c], keys [k, d_k] and values [v, d_v]: exact, on some 77 tokens.
- The embedding of the noise level in a residual block is added to every place, so its change is added by place.
- Other layers without a place, such as the embedding's own, speak with the mean of the mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ..errors import CompositionError
from .executor import ROWS, SWAP, Speech
from .places import Places, override, split
from .repeats import restored
from .rows import Hook, Joined, Layer, RowsBank

_PLACELESS = re.compile(r"(?P<attention>.*\.attn2)\.to_[kv]|(?P<embedding>.*\.emb_layers)\.\d+")
_TAKEN = "mixlora_regions"
"""Key of the transformer options of a forward that has regions already."""


def for_regions(executor: str, model: Any, low_rank: bool) -> str:
    """The executor of a composition with regions: weights are the same at every place. Raises CompositionError."""
    why = None
    if executor == SWAP:
        why = f"the executor {SWAP!r} makes weights the same everywhere. Use {ROWS!r}"
    elif not low_rank:
        why = "a LoRA is not plain low-rank. Use LoRA files of the LoRA family"
    elif not isinstance(model.model.diffusion_model, UNetModel):
        why = f"{type(model.model.diffusion_model).__name__} is no UNet. Use a model such as SD v1.5 or SDXL"
    if why:
        raise CompositionError(f"Regions cannot be run: {why}.")
    return ROWS


class Weights:
    """The coefficients of the rows of a batch at every cell of any grid; kept for a run."""

    def __init__(self, speeches: Sequence[Speech], each: int, like: Tensor) -> None:
        self.speeches, self.each, self.like = speeches, each, like
        self._grids: dict[tuple[int, ...], Tensor] = {}
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def at(self, grid: Sequence[int], speakers: tuple[int, ...]) -> Tensor:
        """(rows, ranks, h, w) for ranks that belong to these adapters."""
        grid = tuple(grid)
        if grid not in self._grids:
            self._grids[grid] = torch.cat([self._of(speech, grid) for speech in self.speeches]).to(self.like)
        if speakers not in self._indices:
            self._indices[speakers] = torch.tensor(speakers, device=self.like.device)
        return self._grids[grid][:, self._indices[speakers]]

    def _of(self, speech: Speech, grid: Sequence[int]) -> Tensor:
        coefficients = torch.tensor(speech.coefficients)[None, :, None, None]
        if speech.regions is None:
            return coefficients.expand(self.each, -1, *grid)
        masks = speech.regions.at(grid, speech.window)
        if len(masks) not in (1, self.each):
            raise CompositionError(
                f"The masks are for {len(masks)} pictures, the batch has {self.each}. Give one mask for each LoRA, or "
                "one for each picture."
            )
        return (coefficients * masks).expand(self.each, -1, *grid)


@contextmanager
def placed(model: nn.Module, bank: RowsBank, weights: Weights, options: dict[str, Any]) -> Iterator[None]:
    """Around one forward: lets the adapters speak as the weights say. Raises CompositionError where it cannot."""
    if options.get(_TAKEN):
        raise CompositionError(
            "The model already has a composition with regions. Put all LoRAs into one stack with one list of masks."
        )
    way = _Placed(bank, weights)
    with ExitStack() as handles:
        options[_TAKEN] = True
        handles.callback(options.pop, _TAKEN)
        way.places.watch(model, [layer.module for layer in bank.layers], handles)
        for number, layer in enumerate(bank.layers):
            found = _PLACELESS.fullmatch(layer.module)
            hooks = {layer.module: way.keep(number) if found else way.hook(number)}
            if found and found["embedding"]:
                hooks[found["embedding"]] = way.spread(number)
            for name, hook in hooks.items():
                module: Any = comfy.utils.get_attr(model, name)  # found anew: loading may have replaced it
                handles.callback(module.register_forward_hook(hook).remove)
        override(options, way.attention, handles)
        yield


class _Placed(Joined):
    """The hooks of one forward."""

    def __init__(self, bank: RowsBank, weights: Weights) -> None:
        super().__init__(bank, ())
        self.weights, self.places = weights, Places()
        self.numbers = {layer.module: number for number, layer in enumerate(bank.layers)}
        self.without = {layer.group for layer in bank.layers if _PLACELESS.fullmatch(layer.module)}
        self.kept: dict[str, Tensor] = {}
        """Layers without a place -> `down` of their input, in the batch's rows."""

    def keep(self, number: int) -> Hook:
        """For a layer without a place: keeps its `down` for where the result meets the picture."""
        layer = self.bank.layers[number]

        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            attention, _, projection = layer.module.rpartition(".")
            if projection in ("to_k", "to_v") and self.places.attention != attention:
                raise CompositionError(
                    f"Another node replaces the cross-attention {attention} (such as an IPAdapter), which regions "
                    "need. Take that node or the masks out of this graph."
                )
            self.kept[layer.module] = restored(inputs[0], self.product_of(module, inputs[0], layer))

        return note

    def spread(self, number: int) -> Hook:
        """For the embedding in a residual block, (rows, channels): gives every place its own change of it."""
        layer, up = self.bank.layers[number], self.bank.ups[number].data

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            product = self.kept.pop(layer.module)[:, :, None, None]
            product = product * self._cells(layer, product, self.places.grid or (1, 1))
            return output[:, :, None, None] + F.conv2d(product, up.to(product)[:, :, None, None])

        return add

    def attention(
        self, compute: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Attention whose keys and values change from place to place, where the text's layers are touched."""
        name = self.places.attention
        keys, values = (self._text(f"{name}.{projection}", q, heads) for projection in ("to_k", "to_v"))
        if keys is None and values is None:
            return compute(q, k, v, heads, *args, **kwargs)
        mask = args[0] if args else kwargs.get("mask")
        q, k, v = (split(one, heads) for one in (q, k, v))
        width = q.shape[-1]
        if keys is not None:
            up, cells, down = keys
            q = torch.cat([q, (q @ up) * cells], -1)
            k = torch.cat([k, down.expand(-1, heads, -1, -1)], -1)
        if values is not None:
            v = torch.cat([v, values[2].expand(-1, heads, -1, -1)], -1)
        if mask is not None and mask.dim() == 3:
            mask = mask[:, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=width**-0.5)
        if values is not None:
            up, cells, _ = values
            out = out[..., :width] + (out[..., width:] * cells) @ up.transpose(-1, -2)
        return out.transpose(1, 2).flatten(2)

    def _text(self, module: str, q: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """A layer of the text: `up` (heads, width, ranks), c (rows, 1, places, ranks), d (rows, 1, words, ranks)."""
        if module not in self.kept:
            return None
        number = self.numbers[module]
        up = self.bank.ups[number].data.to(q).unflatten(0, (heads, -1))
        cells = self._tokens(self.bank.layers[number], q)
        return up, cells[:, None], self.kept.pop(module)[:, None]

    def _scaled_down(self, module: nn.Module, x: Tensor, group: int) -> Tensor:
        product = self.down(module, x, group)
        if group in self.without:
            return product
        whole = Layer("", group, 0, len(self.bank.speakers[group]), {})
        if isinstance(module, nn.Conv2d):
            return product.mul_(self._cells(whole, x, product.shape[-2:]))
        if x.dim() == 2:
            return product.mul_(self._cells(whole, x, (1, 1))[:, :, 0, 0])
        return product.mul_(self._tokens(whole, x))

    def _tokens(self, layer: Layer, x: Tensor) -> Tensor:
        """The coefficients of the ranks of a layer at each of its tokens: (rows, tokens, ranks)."""
        grid = self.places.grid
        if grid is None or x.shape[1] != grid[0] * grid[1] or len(x) != len(self.weights.speeches) * self.weights.each:
            raise CompositionError(
                f"A layer sees {len(x)} rows of {x.shape[1]} tokens where the picture has {grid} cells. Another node "
                "adds, merges or tiles tokens (such as ToMe, HyperTile or a reference attention); remove it from this "
                "graph, or the masks."
            )
        return self._cells(layer, x, grid).flatten(2).transpose(1, 2)

    def _cells(self, layer: Layer, x: Tensor, grid: Sequence[int]) -> Tensor:
        """The coefficients of the ranks of a layer at each cell, in the precision of `x`: (rows, ranks, h, w)."""
        speakers = self.bank.speakers[layer.group][layer.start : layer.end]
        return self.weights.at(grid, speakers).to(x.dtype)
