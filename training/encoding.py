"""Pictures and captions become Samples through ComfyUI's VAE and text encoder, or from the cache on disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import buckets
from .cache import Cache, fingerprint
from .captions import tokenize
from .dataset import Picture
from .pictures import load_pixels
from .samples import Samples
from .settings import TrainingError

Progress = Callable[[str, int], Callable[[int], None]]
"""(what, how many) -> a function to be told how many are done."""

_VERSIONS = {"latent": 2, "text": 1}
"""Of what is done to pixels and captions before they are encoded; raised, it makes every cached encoding anew."""

_UNUSED = ("clip_l.transformer.text_projection.weight",)
"""Only CLIP-L's pooled text, which no SD model is given, comes through it. Most checkpoints do not have it, and ComfyUI
then leaves it as the memory was: other numbers in every process."""


def encode(
    pictures: Sequence[Picture],
    clip: Any,
    vae: Any,
    to_model_scale: Callable[[Tensor], Tensor],
    *,
    flip: bool = False,
    sdxl: bool = False,
    cache: Cache | None = None,
    progress: Progress = lambda what, total: lambda done: None,
) -> Samples:
    """Latents and contexts of all pictures, each distinct caption once; the same bits with a cache and without.

    `clip` and `vae` are ComfyUI's, `to_model_scale` is the model's ``process_latent_in``. The latent is the mean of
    the VAE's posterior, in fp32. `flip` also encodes each mirror image, `sdxl` adds pooled text and sizes. Raises
    TrainingError for pictures that changed since they were looked at, and names those whose latents are not finite.
    """
    captions = list(dict.fromkeys(caption for picture in pictures for caption in picture.captions))
    texts, latents = _Texts(clip, cache, pooled=sdxl), _Latents(vae, cache)
    context, pooled = texts([*captions, ""], progress("encoding captions", len(captions) + 1))
    on_picture = progress("encoding pictures", len(pictures))
    plain, flipped = [], []
    for done, picture in enumerate(pictures, start=1):
        plain.append(to_model_scale(latents(picture)))
        if flip:
            flipped.append(to_model_scale(latents(picture, flip=True)))
        on_picture(done)
    row = {caption: index for index, caption in enumerate(captions)}
    conditions = [buckets.conditions(picture.size, picture.bucket) for picture in pictures]
    return Samples(
        latents=plain, flipped=flipped, context=context[:-1], empty=context[-1],
        caption_of=[[row[caption] for caption in picture.captions] for picture in pictures],
        pooled=None if pooled is None else pooled[:-1], empty_pooled=None if pooled is None else pooled[-1],
        sizes=torch.tensor(conditions) if sdxl else None, repeats=[picture.repeats for picture in pictures],
        names=[str(picture.path) for picture in pictures], captions=[picture.captions[0] for picture in pictures],
    )  # fmt: skip


def skipping(clip: Any, clip_skip: int, *, sdxl: bool) -> Any:
    """ComfyUI's text encoder, reading its layer number `clip_skip` from the last, as "CLIP Set Last Layer" sets it.

    Raises TrainingError for SDXL with another number than 1, which leaves an encoder as it is.
    """
    if clip_skip == 1:
        return clip
    if sdxl:
        raise TrainingError(
            f"clip_skip: SDXL was made to read the last layer but one of both its text encoders, and always is given "
            f"that; found {clip_skip}, leave it out."
        )
    clip = clip.clone()
    clip.clip_layer(-clip_skip)
    return clip


class _Latents:
    """Latents in the VAE's own scale: [channels, h, w]."""

    def __init__(self, vae: Any, cache: Cache | None) -> None:
        self._vae, self._cache = vae, cache
        self._weights = fingerprint(vae.first_stage_model) if cache else ""

    def __call__(self, picture: Picture, *, flip: bool = False) -> Tensor:
        def make() -> dict[str, Tensor]:
            data = picture.path.read_bytes()
            if hashlib.sha256(data).hexdigest() != picture.sha256:
                raise TrainingError(f"{picture.path}: has changed since the start; start again.")
            with torch.no_grad():
                encoded = self._vae.encode(load_pixels(data, picture.bucket, flip=flip)[None])
            return {"latent": encoded[0].float().cpu().clone()}  # ComfyUI's tiled encoding gives inference tensors

        key = {"picture": picture.sha256, "size": picture.bucket, "flip": flip, "vae": self._weights}
        return _kept(self._cache, "latent", key, make)["latent"]


class _Texts:
    """Contexts [m, tokens, width] of captions, and where asked for their pooled text [m, width]."""

    def __init__(self, clip: Any, cache: Cache | None, *, pooled: bool) -> None:
        self._clip, self._cache, self._names = clip, cache, ("context", "pooled")[: 1 + pooled]
        self._weights = fingerprint(clip.cond_stage_model, _UNUSED) if cache else ""
        layer = getattr(clip, "layer_idx", None)
        self._layer = {} if layer is None else {"layer": layer}

    def __call__(self, captions: Sequence[str], on_caption: Callable[[int], None]) -> tuple[Tensor, Tensor | None]:
        """All in as many chunks as the longest needs: shorter ones are repeated, see `repeated`."""
        encoded = []
        for done, caption in enumerate(captions, start=1):
            encoded.append(self._encode(caption))
            on_caption(done)
        tokens = math.lcm(*(len(one["context"]) for one in encoded))
        contexts = torch.stack([repeated(one["context"], tokens) for one in encoded])
        return contexts, torch.stack([one["pooled"] for one in encoded]) if "pooled" in self._names else None

    def _encode(self, caption: str) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            with torch.no_grad():
                found = self._clip.encode_from_tokens(tokenize(self._clip, caption), return_pooled=True)
            return {name: one[0].float().cpu() for name, one in zip(self._names, found, strict=False)}

        key = {"caption": caption, "text encoder": self._weights, "kinds": self._names, **self._layer}
        return _kept(self._cache, "text", key, make)


def repeated(context: Tensor, tokens: int) -> Tensor:
    """A context [t, width] repeated to `tokens`, a multiple of t.

    Attention is unchanged by that: every key counts the same number of times, above and below the softmax's line. So
    captions of several lengths go through the UNet together, as ComfyUI batches them.
    """
    return context.repeat(tokens // len(context), 1)


def _kept(
    cache: Cache | None, kind: str, key: dict[str, object], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    return cache.fetch(kind, {**key, "version": _VERSIONS[kind]}, make) if cache else make()
