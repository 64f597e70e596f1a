"""Trains the routers of MixLoRA blocks (arXiv 2404.15159) over finished experts, on a frozen base.

    loss = denoising loss of the mixture + balance * mean over blocks of n * sum_j f_j P_j

The loop, its randomness, saving and resuming are those of every training here; only what is trained differs. Experts
that are frozen get no gradient, and their tensors go into the file unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..mixlora_core.routing.experts import Parts
from ..mixlora_core.routing.router import Block, Change, Routing, Speaker, balance, feed_forwards, width_of
from .base import Base
from .distribution import World
from .draw import Draw, generator
from .loop import Trained, train
from .lora import LoRA
from .router_experts import LINEARS, Loaded, rest_merged
from .router_settings import RouterSettings
from .run import Run
from .samples import Samples
from .settings import TrainingError, TrainSettings


class Routers(LoRA):
    """The routers of all feed-forward layers that an expert changes; perhaps the experts' factors, too.

    As of a LoRA, all that is trained is one flat fp32 parameter. It holds what has changed since the start, so a vector
    of zeros is the untrained router, which validation compares with, and weight decay pulls towards the experts as they
    were given.
    """

    def __init__(
        self, unet: nn.Module, experts: Sequence[Parts], options: RouterSettings, *, seed: int = 0, device: Any = None
    ) -> None:
        if options.k > len(experts):
            raise TrainingError(f"k: {options.k} experts for a token, but there are {len(experts)}; lower k.")
        self.options, self.experts = options, tuple(experts)
        layers = feed_forwards(unet)
        self.names = tuple(name for name in layers if any(name in expert.layers for expert in experts))
        starts: dict[str, Tensor] = {}
        for name in self.names:
            width = width_of(layers[name])
            drawn = torch.randn(len(experts), width, generator=generator(seed, "init", f"router {name}"))
            # Tokens come from a layer norm: their numbers are about 1 in size.
            starts[f"router {name}"] = drawn * (options.spread / math.sqrt(width))
        if options.train_experts:
            for name, expert, linear, factors in self._all():
                starts[f"up {expert} {name}.{linear}"], starts[f"down {expert} {name}.{linear}"] = factors[:2]
        self.shapes = {key: tuple(start.shape) for key, start in starts.items()}
        self.start = torch.cat([start.float().flatten() for start in starts.values()]).to(device)
        self.flat = nn.Parameter(torch.zeros_like(self.start))
        self.gradient = self.flat.grad = torch.zeros_like(self.start)
        self._products = None
        self._heard: list[Tensor] = []

    def weights(self) -> dict[str, Tensor]:
        """The routers as they are now: feed-forward layer -> (n, width)."""
        values = self.views((self.start + self.flat).detach())
        return {name: values[f"router {name}"] for name in self.names}

    def factors(self, expert: int) -> dict[str, tuple[Tensor, Tensor, float]]:
        """A trained expert as it is now: linear layer -> (up, down, alpha / r)."""
        values = self.views((self.start + self.flat).detach())
        return {
            f"{name}.{linear}": (*(values[f"{side} {other} {name}.{linear}"] for side in ("up", "down")), factors[2])
            for name, other, linear, factors in self._all()
            if other == expert
        }  # type: ignore[return-value]

    @contextmanager
    def attached(self, unet: nn.Module) -> Iterator[None]:
        """Within the block the UNet's feed-forward layers are mixtures of experts; after it they are as before."""
        place = next(unet.parameters())
        frozen = {} if self.options.train_experts else self._frozen(place.device, place.dtype)
        options = self.options
        speakers = {name: Speaker(options.k, options.mixing, heard=self._hear) for name in self.names}

        def begin(*_: Any) -> None:
            self._heard.clear()
            values = self.views(self.start + self.flat)
            for name, speaker in speakers.items():
                first, second = ([self._change(values, frozen, e, f"{name}.{linear}") for e in range(len(self.experts))]
                                 for linear in LINEARS)  # fmt: skip
                speaker.block = Block(values[f"router {name}"], first, second)

        with ExitStack() as stack:
            stack.callback(self._heard.clear)
            stack.callback(unet.register_forward_pre_hook(begin).remove)
            for name, speaker in speakers.items():
                stack.enter_context(speaker.speaking(unet.get_submodule(name)))
            yield

    def balance(self) -> Tensor:
        """The load-balance loss of the last forward while attached, mean over all layers: from 1 to n."""
        return torch.stack([balance(said) for said in self._heard]).mean()

    def _hear(self, said: Routing) -> None:
        self._heard.append(said.probabilities)

    def _all(self) -> Iterator[tuple[str, int, str, tuple[Tensor, Tensor, float]]]:
        """Every factor pair there is, with its layer, expert and linear layer."""
        for name in self.names:
            for index, expert in enumerate(self.experts):
                for linear, factors in zip(LINEARS, expert.layers.get(name, (None, None)), strict=True):
                    if factors is not None:
                        yield name, index, linear, factors

    def _frozen(self, device: torch.device, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            f"{expert} {name}.{linear}": ((up.float() * scale).to(device, dtype), down.to(device, dtype))
            for name, expert, linear, (up, down, scale) in self._all()
        }

    def _change(self, values: dict[str, Tensor], frozen: dict, expert: int, layer: str) -> Change:
        if not self.options.train_experts:
            return frozen.get(f"{expert} {layer}")
        if f"up {expert} {layer}" not in values:
            return None
        return values[f"up {expert} {layer}"] * self._scales[f"{expert} {layer}"], values[f"down {expert} {layer}"]

    @cached_property
    def _scales(self) -> dict[str, float]:
        return {f"{expert} {name}.{linear}": factors[2] for name, expert, linear, factors in self._all()}


class RouterRun(Run):
    """A run that trains routers."""

    def __init__(
        self, base: Base, samples: Samples, settings: TrainSettings, world: World, *, loaded: Sequence[Loaded],
        options: RouterSettings,
    ) -> None:  # fmt: skip
        self.loaded, self.options = loaded, options
        super().__init__(base, samples, settings, world)

    def adapter(self) -> Routers:
        """Routers at their start."""
        parts = [one.parts for one in self.loaded]
        return Routers(self.base.unet, parts, self.options, seed=self.settings.seed, device=self.base.device)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What the result depends on."""
        hashes = [one.about.sha256 for one in self.loaded]
        return {**super().recipe, "router": self.options.shaping_result(), "experts": hashes}

    def training_losses(self, drawn: Sequence[Draw]) -> Tensor:
        """Denoising and balance."""
        losses = super().training_losses(drawn)
        assert isinstance(self.lora, Routers)
        return losses + self.options.balance * self.lora.balance()


def train_router(
    base: Base,
    samples: Samples,
    settings: TrainSettings,
    options: RouterSettings,
    loaded: Sequence[Loaded],
    **more: Any,
) -> Trained:
    """Trains a router over experts that `load_experts` has read; `lora` of the result are the Routers.

    Of the settings, targets, blocks, rank and alpha have no meaning here. `more` is as for `loop.train`. The reported
    losses include the balance. The base is left as it was. Raises what `loop.train` raises, TrainingError for k larger
    than the number of experts.
    """
    with rest_merged(base, loaded, options.rest):
        return train(base, samples, settings, make_run=partial(RouterRun, loaded=loaded, options=options), **more)
