"""What the layers of a live model hear: mean z z^T of z = A x while it reads texts and denoises. For SSR-Merge.

Hooks are there for one forward only. Nothing of the model is changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.sample
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..merging.ssr import Convolution, signals


class Ears:
    """Listens to the inputs of some layers through rows A of each, and keeps the second moments."""

    def __init__(self, downs: Mapping[str, Tensor]) -> None:
        """`downs`: name of a weight -> A (R, in * kernel), which stays where it is and goes to the device when used."""
        self.downs = downs
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @property
    def moments(self) -> dict[str, Tensor]:
        """Mean z z^T (R, R), float64, of every layer that heard anything."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    @contextmanager
    def on(self, root: nn.Module) -> Iterator[None]:
        """Listens to a model for as long as the block lasts."""
        with ExitStack() as handles:
            for name in self.downs:
                module: Any = _module(root, name)  # found anew: loading may have replaced it
                handles.callback(module.register_forward_pre_hook(self._hook(name)).remove)
            yield

    def _hook(self, name: str) -> Any:
        def listen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            z = signals(inputs[0].detach(), self.downs[name], convolution_of(module))
            moment = (z.T @ z).cpu().double()  # a sum over many calls; not every device has double precision
            self._sums[name] = self._sums[name] + moment if name in self._sums else moment
            self._counts[name] = self._counts.get(name, 0) + len(z)

        return listen


def why_deaf(root: nn.Module, key: Any) -> str:
    """Why SSR-Merge cannot listen to the layer of a weight; "" where it can."""
    if not isinstance(key, str):
        return "a part of a fused weight"
    module = _module(root, key) if key.endswith(".weight") else None
    if isinstance(module, nn.Linear):
        return ""
    if isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        return ""
    return f"neither a linear layer nor an ordinary convolution ({type(module).__name__})"


def convolution_of(module: nn.Module) -> Convolution | None:
    """How a convolution moves; None for a linear layer."""
    if not isinstance(module, nn.Conv2d):
        return None
    padding: Any = module.padding  # never a word here: `Conv2d` of ComfyUI's models has numbers
    return Convolution(module.kernel_size, module.stride, padding, module.dilation)


@torch.no_grad()
def read_listening(clip: Any, prompt: str, ears: Ears) -> list:
    """The prompt's CONDITIONING, with ears on the text encoders."""
    with ears.on(clip.cond_stage_model):
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt), show_pbar=False)


@torch.no_grad()
def denoise_listening(model: Any, text: list, ears: Ears, steps: int, size: int, seed: int) -> None:
    """A short run of Euler's method from seeded noise, without guidance, with ears on the UNet at every step.

    `size`: of the picture's sides in pixels. Later steps hear latents as they are in a real run, not noise alone.
    """

    def forward(execute: Any, *args: Any, **kwargs: Any) -> Tensor:
        with ears.on(execute.class_obj):
            return execute(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, f"mixlora.ears.{uuid.uuid4()}", forward)
    latent = comfy.sample.fix_empty_latent_channels(clone, torch.zeros(1, 4, size // 8, size // 8))
    noise = comfy.sample.prepare_noise(latent, seed)
    comfy.sample.sample(
        *(clone, noise, steps, 1.0, "euler", "normal", text, text, latent),
        disable_pbar=True,
        seed=seed,
    )


def _module(root: nn.Module, name: str) -> Any:
    return comfy.utils.get_attr(root, name.removesuffix(".weight"))
