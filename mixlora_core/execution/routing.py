"""Runs a router on a live ComfyUI model: in every transformer block's feed-forward layer its experts speak per token.

The model's modules are hooked for the length of one forward. What the router reads is in the rows themselves, so any
sampler, batch, guidance and chunking of it works, and nothing needs to know the step.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from .. import bases
from ..errors import CompositionError, RouterError, StrengthError
from ..routing.experts import Factors, parts, share
from ..routing.router import RESTS, Block, Change, Routing, Speaker, feed_forwards, width_of
from ..routing.router_file import RouterFile, check_base
from .attaching import Voice
from .bank import kept
from .patching import patched

if TYPE_CHECKING:
    from ..routing.region_map import Trace

_KEY = "mixlora.router."


def check_model(model: Any, router: RouterFile) -> None:
    """Raises RouterError where a MODEL is not of the kind that the router was trained on."""
    base = bases.of_config(model.model.model_config.unet_config)
    found = feed_forwards(model.model.diffusion_model)
    check_base(router, base.kind if base else None, {name: width_of(module) for name, module in found.items()})


def attach_router(
    model: Any,
    router: RouterFile,
    voices: Mapping[int, Voice],
    *,
    k: int = 0,
    rest: str = "",
    trace: Trace | None = None,
) -> Any:
    """A clone of a MODEL whose feed-forward layers are mixtures of experts; the model itself is not changed.

    `voices` are the experts that take part, by their place in the router; the others are never chosen. `k` experts
    serve a token (0: as trained; never more than there are). `rest` says how what the experts change elsewhere speaks
    ("": as in training): as weights with λ / n, with λ, or not at all. `trace` collects the coefficients. With all
    strengths 0 it is the plain model. Raises RouterError for another base or an impossible k or rest, StrengthError.
    """
    rest, k = rest or router.head.rest, k or router.head.k
    strengths = {index: voice.strength for index, voice in voices.items()}
    _check(model, router, strengths, k, rest)
    if not any(strengths.values()):
        return model.clone()
    taken = {index: parts(voice.adapter, router.routers) for index, voice in voices.items()}
    loud = share(rest, len(voices))
    patches = [
        (taken[i].rest, strength * loud) for i, strength in strengths.items() if taken[i].rest and strength * loud
    ]
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    layers = [(taken[index].layers, strength) for index, strength in strengths.items()]
    bank, patcher = kept(
        model, ("router", router.identity, dtype, tuple(strengths.items())), [v.adapter for v in voices.values()],
        lambda: RouterBank({name: weight[list(strengths)] for name, weight in router.routers.items()}, layers, dtype),
    )  # fmt: skip
    clone = patched(model, patches)
    clone = model.clone() if clone is model else clone
    if trace is not None:
        trace.names = tuple(router.head.experts[index].name for index in strengths)
    key = f"{_KEY}{uuid.uuid4()}"
    clone.set_additional_models(key, [patcher])
    clone.add_wrapper_with_key(
        WrappersMP.APPLY_MODEL, key, _Router(bank, min(k, len(voices)), router.head.mixing, trace).forward
    )
    return clone


def _check(model: Any, router: RouterFile, strengths: Mapping[int, float], k: int, rest: str) -> None:
    check_model(model, router)
    if rest not in RESTS:
        raise RouterError(f"rest is {rest!r}; expected one of {', '.join(RESTS)}.")
    if k < 1 or not strengths:
        raise RouterError(f"k is {k}, with {len(strengths)} experts; expected 1 or more, and some expert.")
    if not all(map(math.isfinite, strengths.values())):
        raise StrengthError(f"strength_model is {list(strengths.values())}; expected finite numbers.")
    if any(key.startswith(_KEY) for key in model.wrappers.get(WrappersMP.APPLY_MODEL, {}) if key):
        raise CompositionError("The model already has a router. Put all experts into one stack, or train one router.")


class RouterBank(nn.Module):
    """Routers and experts of all blocks as one module that ComfyUI loads, unloads and counts like any other model."""

    def __init__(
        self, routers: Mapping[str, Tensor],
        experts: Sequence[tuple[Mapping[str, tuple[Factors | None, Factors | None]], float]], dtype: torch.dtype,
    ) -> None:  # fmt: skip
        """`experts`: the feed-forward parts and the strength of each; routers have a row for each."""
        super().__init__()
        self.routers, self.tensors = nn.ParameterList(), nn.ParameterList()
        self._places: dict[str, tuple[list[int | None], list[int | None]]] = {}
        for name, weight in routers.items():
            self.routers.append(nn.Parameter(weight.float(), requires_grad=False))
            pairs = [(*layers.get(name, (None, None)), strength) for layers, strength in experts]
            self._places[name] = (
                [self._keep(first, strength, dtype) for first, _, strength in pairs],
                [self._keep(second, strength, dtype) for _, second, strength in pairs],
            )

    def blocks(self) -> dict[str, Block]:
        """All blocks, with the tensors where the bank is now."""
        return {
            name: Block(router.data, *([self._change(place) for place in side] for side in sides))
            for (name, sides), router in zip(self._places.items(), self.routers, strict=True)
        }

    def _keep(self, factors: Factors | None, strength: float, dtype: torch.dtype) -> int | None:
        if factors is None or not strength:
            return None
        up, down, scale = factors
        for tensor in ((up.float() * (scale * strength)).to(dtype), down.to(dtype)):
            self.tensors.append(nn.Parameter(tensor, requires_grad=False))
        return len(self.tensors) - 2

    def _change(self, place: int | None) -> Change:
        return None if place is None else (self.tensors[place].data, self.tensors[place + 1].data)


@dataclass(frozen=True, eq=False)
class _Router:
    """One router on one clone."""

    bank: RouterBank
    k: int
    mixing: str
    trace: Trace | None

    def forward(self, execute: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Around the forward of one batch."""
        options = kwargs.get("transformer_options") or args[3]
        unet = execute.class_obj.diffusion_model
        with ExitStack() as stack:
            for name, block in self.bank.blocks().items():
                module = comfy.utils.get_attr(unet, name)  # found anew: loading may have replaced it
                heard = None if self.trace is None else self._listener(name, len(x), options)
                stack.enter_context(Speaker(self.k, self.mixing, block, heard).speaking(module))
            return execute(x, t, *args, **kwargs)

    def _listener(self, name: str, rows: int, options: Mapping[str, Any]) -> Callable[[Routing], None]:
        """Notes what is said in the rows of the positive prompt, which ComfyUI numbers 0.

        Where another node has merged or moved tokens they lie on no grid, and the block is not noted.
        """
        chunks = options.get("cond_or_uncond") or [0]
        each = rows // len(chunks)
        places = [place * each + row for place, kind in enumerate(chunks) if kind == 0 for row in range(each)]

        def heard(routing: Routing) -> None:
            from ..routing.region_map import Heard

            assert self.trace is not None
            said = routing.coefficients
            height, width = options.get("activations_shape", (0, 0))[-2:]  # ComfyUI's note before every transformer
            if places and len(said) == rows and said.shape[1] == height * width:
                sigma = float(options["sigmas"].max())
                grid = said[places].float().cpu().unflatten(1, (height, width))
                self.trace.heard.append(Heard(name, sigma, grid))

        return heard
