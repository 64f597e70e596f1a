"""What a mix is learned from: LoRA files as voices of a mixture, and latents that the base paints for given prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..mixlora_core import execution
from ..mixlora_core.adapter import match
from ..mixlora_core.files.lora_file import LoraFile
from ..mixlora_core.layers import blocks
from .base import Base, make_room
from .encoding import repeated
from .mixture import Voice
from .sample_pictures import SAMPLER, SCHEDULER
from .samples import Samples
from .settings import TrainingError


@dataclass(frozen=True)
class Painting:
    """How the base paints what a mix is learned on; the sampler is that of the trainer's sample pictures."""

    steps: int = 20
    cfg: float = 7.0
    side: int = 512
    each: int = 2
    """Pictures of each prompt, with different noise."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.each < 1 or self.side < 64 or self.side % 8 or not self.cfg >= 1:
            raise TrainingError(
                f"Painting in {self.steps} steps at {self.cfg} with {self.side} pixels, {self.each} each; expected 1 "
                "or more steps and pictures, guidance of 1 or more, a side that is a multiple of 8, 64 or more."
            )


def patcher_of(base: Base) -> Any:
    """The base as a ComfyUI MODEL."""
    import comfy.model_management
    import comfy.model_patcher

    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(base.model, load_device=device, offload_device=offload)


def voices(model: Any, files: Sequence[LoraFile], strengths: Sequence[float]) -> list[Voice]:
    """The files as ComfyUI reads them for this MODEL, each at its full strength.

    Raises AdapterError for a file that does not fit, TrainingError for one whose changes are not all plain low-rank.
    """
    made, target = [], execution.unet_target(model)
    for file, strength in zip(files, strengths, strict=True):
        layers, adapter = {}, match(file, target, None)
        for key in adapter.model_patches:
            anatomy = adapter.anatomies[key]
            if anatomy.factors is None or not isinstance(key, str):
                raise TrainingError(
                    f"{file.name} changes {blocks.layer_of(key)} by {anatomy.family}; a mix is learned of low-rank "
                    "pairs (LoRA, LoCon). Save the file as one with the node Save Mixed LoRA (set a rank)."
                )
            up, down, scale = anatomy.factors
            layers[blocks.layer_of(key)] = (up, down, scale * strength)
        made.append(Voice(file.name, layers))
    return made


def painted(base: Base, model: Any, clip: Any, prompts: Sequence[str], how: Painting,
            on_picture: Callable[[int], None] = lambda done: None) -> Samples:  # fmt: skip
    """Latents that the base alone paints for the prompts, with their texts. Afterwards the base lies on its device.

    The same prompts and seed give the same latents; torch's global random state stays as it was.
    """
    import comfy.sample

    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False) for text in (*prompts, "")]
    empty = torch.zeros(1, base.model.latent_format.latent_channels, how.side // 8, how.side // 8)
    latents: list[Tensor] = []
    rows: list[int] = []
    try:
        with torch.random.fork_rng(), torch.no_grad():
            for row in range(len(prompts)):
                for _ in range(how.each):
                    seed = how.seed + len(latents)
                    sampled = comfy.sample.sample(
                        model, comfy.sample.prepare_noise(empty, seed), how.steps, how.cfg, SAMPLER, SCHEDULER,
                        texts[row], texts[-1], empty, disable_pbar=True, seed=seed,
                    )  # fmt: skip
                    latents.append(base.model.process_latent_in(sampled)[0].float().cpu().clone())
                    rows.append(row)
                    on_picture(len(latents))
    finally:
        make_room(base)
    context, pooled = _contexts(texts), None
    if base.vector:
        pooled = torch.cat([text[0][1]["pooled_output"].float().cpu() for text in texts])
    sizes = torch.tensor([[how.side, how.side, 0, 0, how.side, how.side]] * len(latents)) if base.vector else None
    return Samples(
        latents=latents, context=context[:-1], empty=context[-1], caption_of=rows, sizes=sizes,
        pooled=None if pooled is None else pooled[:-1], empty_pooled=None if pooled is None else pooled[-1],
        captions=[prompts[row] for row in rows],
    )  # fmt: skip


def _contexts(texts: Sequence[Any]) -> Tensor:
    """All in as many tokens as the longest needs, as the trainer's captions."""
    found = [text[0][0][0].float().cpu() for text in texts]
    tokens = math.lcm(*(len(one) for one in found))
    return torch.stack([repeated(one, tokens) for one in found])
