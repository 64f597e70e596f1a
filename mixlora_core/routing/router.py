"""The MixLoRA block: experts that share one feed-forward layer, and a router that says who serves a token. Pure torch.

    p = softmax(W_r x)          for every token x that enters the feed-forward layer, over n experts
    c = p on its k largest entries, divided by their sum; 0 elsewhere
    y = sum_j c_j E_j(x)        E_j is the layer with the weights W + λ_j dW_j of expert j

Source: MixLoRA (arXiv 2404.15159). That is OUTPUTS. LAYERS instead gives both linear layers W + sum_j c_j λ_j dW_j, a
merge of its own for every token. With one expert for a token the two are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

OUTPUTS, LAYERS = "outputs", "layers"
MIXINGS = (OUTPUTS, LAYERS)
"""What the coefficients mix: the experts' outputs, or their changes of the two layers' weights."""

OFF, MEAN, SUM = "off", "mean", "sum"
RESTS = (OFF, MEAN, SUM)
"""How loudly what an expert's file changes beside the feed-forward layers speaks: not, λ / n, or λ."""

FIRST, SECOND = "net.0.proj", "net.2"
"""The two linear layers of ComfyUI's FeedForward: into the gated activation, and out of it."""

_FEED_FORWARD = re.compile(r".*transformer_blocks\.\d+\.ff")

Change = tuple[Tensor, Tensor] | None
"""What an expert adds to a linear layer: up (out, r), with the strength and alpha / r in it, and down (r, in)."""


class Routing(NamedTuple):
    """What a router says of tokens."""

    coefficients: Tensor
    """(..., n): k of them are above 0 and their sum is 1."""
    probabilities: Tensor
    """(..., n): the softmax over all experts, which the balance is about."""


def route(tokens: Tensor, weight: Tensor, k: int) -> Routing:
    """Who serves each token.

    tokens (..., width), weight (n, width), 1 <= k <= n. Computed in fp32 or better. The k largest probabilities divided
    by their sum are the softmax over the k largest logits, which is what is computed: it cannot divide by 0.
    """
    wide = torch.promote_types(tokens.dtype, torch.float32)
    logits = F.linear(tokens.to(wide), weight.to(tokens.device, wide))
    chosen = logits.topk(k, dim=-1)
    coefficients = torch.zeros_like(logits).scatter(-1, chosen.indices, chosen.values.softmax(-1))
    return Routing(coefficients, logits.softmax(-1))


def balance(probabilities: Tensor) -> Tensor:
    """The load-balance loss n * sum_j f_j P_j of probabilities (..., n): 1 where all serve alike, n where one does all.

    f_j is the share of the tokens whose likeliest expert is j, P_j the mean probability of j. Gradients flow through P
    only. Source: Switch Transformer (arXiv 2101.03961), taken over by MixLoRA.
    """
    rows = probabilities.flatten(0, -2)
    experts = rows.shape[-1]
    served = F.one_hot(rows.argmax(-1), experts).to(rows.dtype).mean(0)
    return experts * (served * rows.mean(0)).sum()


def feed_forwards(unet: nn.Module) -> dict[str, nn.Module]:
    """The feed-forward layers of all transformer blocks by their path; gated ones (GEGLU), as those of SD and SDXL."""
    found = {}
    for name, module in unet.named_modules():
        net: Any = getattr(module, "net", None)
        if _FEED_FORWARD.fullmatch(name) and net is not None and isinstance(getattr(net[0], "proj", None), nn.Linear):
            found[name] = module
    return found


def width_of(feed_forward: Any) -> int:
    """Of the tokens that a feed-forward layer takes."""
    return feed_forward.net[0].proj.in_features


@dataclass(eq=False)
class Block:
    """One feed-forward layer's router and experts, as tensors; an expert without a change is the layer as it is."""

    router: Tensor
    """(n, width)"""
    first: Sequence[Change]
    """Per expert what it adds to `FIRST`."""
    second: Sequence[Change]
    """Per expert what it adds to `SECOND`."""


class Speaker:
    """Lets a block's experts speak in its feed-forward layer while `speaking`; differentiable in all of the Block."""

    _input: Any
    _coefficients: Any
    _shared: Any
    """W x + b of the first linear layer, the same for every expert."""
    _late: Any
    """What the experts add to the second linear layer."""

    def __init__(
        self, k: int, mixing: str, block: Block | None = None, heard: Callable[[Routing], None] | None = None
    ) -> None:
        """`heard` is told the routing of each forward, with tokens as (rows, tokens, n)."""
        self.k, self.mixing, self.block, self.heard = k, mixing, block, heard
        self._forget()

    @contextmanager
    def speaking(self, feed_forward: Any) -> Iterator[None]:
        """Within the block the layer computes the mixture; after it the layer is as before, whatever happened."""
        activation, last = feed_forward.net[0], feed_forward.net[2]
        with ExitStack() as handles:
            handles.callback(self._forget)
            handles.callback(feed_forward.register_forward_pre_hook(self._route).remove)
            handles.callback(activation.proj.register_forward_hook(self._first).remove)
            handles.callback(activation.register_forward_hook(self._activated).remove)
            handles.callback(last.register_forward_hook(self._second).remove)
            yield

    def _forget(self) -> None:
        self._input = self._shared = self._coefficients = self._late = None

    def _route(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        routing = route(inputs[0], self._block.router, self.k)
        self._input, self._coefficients = inputs[0], routing.coefficients.to(inputs[0].dtype)
        if self.heard is not None:
            self.heard(routing)

    def _first(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.mixing == LAYERS:
            return self._plus(output, inputs[0], self._block.first)
        self._shared = output
        return None

    def _activated(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """OUTPUTS: sum_j c_j a_j goes on to the shared second layer; what the experts add there waits for it."""
        if self.mixing == LAYERS:
            return None
        mixed, self._late = torch.zeros_like(output), []
        for expert, (first, second) in enumerate(zip(self._block.first, self._block.second, strict=True)):
            own = output if first is None else _gated(self._shared + _change(self._input, first))
            own = own * self._share(expert)
            mixed = mixed + own
            if second is not None:
                self._late.append(_change(own, second))
        return mixed

    def _second(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self.mixing == LAYERS:
            output = self._plus(output, inputs[0], self._block.second)
        else:
            for added in self._late:
                output = output + added
        self._forget()
        return output

    def _plus(self, output: Tensor, x: Tensor, changes: Sequence[Change]) -> Tensor:
        for expert, change in enumerate(changes):
            if change is not None:
                output = output + self._share(expert) * _change(x, change)
        return output

    def _share(self, expert: int) -> Tensor:
        return self._coefficients[..., expert : expert + 1]

    @property
    def _block(self) -> Block:
        assert self.block is not None  # whoever lets it speak has said what
        return self.block


def _change(x: Tensor, change: tuple[Tensor, Tensor]) -> Tensor:
    up, down = change
    return F.linear(F.linear(x, down.to(x)), up.to(x))


def _gated(both: Tensor) -> Tensor:
    """GEGLU (arXiv 2002.05202), as ComfyUI computes it."""
    value, gate = both.chunk(2, -1)
    return value * F.gelu(gate)
