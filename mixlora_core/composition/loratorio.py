"""LoRAtorio (arXiv 2508.11624), clean-room: an adapter speaks where its prediction departs from the base model's.

Each step predicts with the base model and with each adapter alone. Predictions are cut into square patches; the less
similar an adapter's patch is to the base model's, the more the adapter counts there. Pure torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ..errors import CompositionError
from . import NEGATIVE, POSITIVE, Branch
from .base import only, some
from .fusion import Fusion, Moment

NOISE, CLEAN = "noise", "clean"
"""What is compared: the predicted noise, or the clean latent that it means."""

_PATCHES = 8
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class LoRAtorio:
    """positive: sum of W_i e_i; negative: anchor * u_base + (1 - anchor) * sum of W_i u_i, with W = `shares`.

    e are predictions with the prompt, u those with the negative prompt; each side has a W of its own. N adapters cost
    2N + 2 evaluations a step, N + 2 with `merged`. Raises CompositionError for parameters out of their range.
    """

    adapters: int
    patch: int = 0
    """Side of a patch in latent pixels; 0: an eighth of the picture's shorter side, at least 1."""
    temperature: float = 1.0
    """Of the SoftMin over the adapters; towards 0 the most departing one takes the patch, large values give a mean."""
    relative: bool = True
    """Whether temperature is in units of the picture's mean departure in this step, or (False) of the cosine itself."""
    top: int = 0
    """How many adapters may count in a patch, the most departing ones; 0: all."""
    compared: str = NOISE
    """NOISE or CLEAN."""
    anchor: float = 0.5
    """The share of the base model in the negative side, 0 to 1."""
    merged: bool = False
    """One evaluation for the negative side: all adapters at once, each at (1 - anchor) / N of its strength."""
    depends_on_step = False

    def __post_init__(self) -> None:
        some(self.adapters)
        if self.patch < 0:
            raise CompositionError(
                f"patch is {self.patch}; expected 1 latent pixel or more, or 0 (an eighth of the picture's side)."
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise CompositionError(f"temperature is {self.temperature}; expected a finite number above 0.")
        if self.top < 0:
            raise CompositionError(f"top is {self.top}; expected 1 LoRA or more, or 0 (all of them).")
        if self.compared not in (NOISE, CLEAN):
            raise CompositionError(f"compared is {self.compared!r}; expected {NOISE!r} or {CLEAN!r}.")
        if not 0 <= self.anchor <= 1:
            raise CompositionError(f"anchor is {self.anchor}; expected a share from 0 to 1.")

    @property
    def fusion(self) -> Fusion:
        """`fuse`."""
        return self.fuse

    def branches(self, step: int, steps: int, guidance: float = 1.0) -> Sequence[Branch]:
        """For each side the base model, where it is needed, and each adapter alone."""
        shown = self._side(POSITIVE, base=self.adapters > 1)
        if self.merged or self.anchor == 1:
            hidden = (Branch(((1 - self.anchor) / self.adapters,) * self.adapters, side=NEGATIVE),)
        else:
            hidden = self._side(NEGATIVE, base=self.adapters > 1 or self.anchor > 0)
        # Equal coefficients side by side: an executor that rewrites weights does so once for both sides.
        return tuple(sorted((*shown, *hidden), key=lambda branch: branch.coefficients, reverse=True))

    def check(self, steps: int) -> None:
        """Possible for any number of steps."""

    def fuse(self, predictions: Sequence[Tensor], branches: Sequence[Branch], moment: Moment) -> Tensor:
        """The prediction of the side that the branches are for; the base model's is the one with no text of its own.

        Raises CompositionError for latents without height and width.
        """
        if len(predictions) == 1:
            return predictions[0]
        (base,) = (made for made, branch in zip(predictions, branches, strict=True) if branch.text is None)
        voices = [made for made, branch in zip(predictions, branches, strict=True) if branch.text is not None]
        spoken = voices[0] if len(voices) == 1 else self._spoken(base, voices, moment.noisy)
        return torch.lerp(spoken, base, self.anchor) if branches[0].side == NEGATIVE else spoken

    def _side(self, side: str, base: bool) -> tuple[Branch, ...]:
        voices = (Branch(only(index, self.adapters), text=index, side=side) for index in range(self.adapters))
        return (*voices, *([Branch((0.0,) * self.adapters, side=side)] if base else []))

    def _spoken(self, base: Tensor, voices: Sequence[Tensor], noisy: Tensor) -> Tensor:
        if noisy.dim() < 4:
            raise CompositionError(
                f"LoRAtorio compares patches of pictures; the latent has the shape {tuple(noisy.shape)}, expected "
                "(rows, channels, ..., height, width). Use LoRA Composite for this model."
            )
        height, width = noisy.shape[-2:]
        patch = min(self.patch or max(min(height, width) // _PATCHES, 1), max(height, width))
        compared = [noisy.float() - made.float() if self.compared == NOISE else made for made in (base, *voices)]
        departed = torch.stack([departure(compared[0], other, patch) for other in compared[1:]], 1)
        weights = smooth(shares(departed, self.temperature, self.relative, self.top), patch, height, width)
        spoken = torch.stack([weight * made for weight, made in zip(weights.split(1, 1), voices, strict=True)])
        return spoken.sum(0).to(base.dtype)


def departure(base: Tensor, other: Tensor, patch: int) -> Tensor:
    """1 - cosine similarity of each patch: two (rows, channels, ..., height, width) -> (rows, ..., down, across).

    From 0 (same direction) to 2. Patches at the right and lower border are cut where the sides are no multiples of
    `patch`. The cosine of nothing is undefined: two patches of zeros depart by 0, one from another by 1/2.
    """
    # |a - b|^2 / 2 of unit vectors is 1 - cos without its cancellation: predictions are often equal to three digits.
    return (_directions(base, patch) - _directions(other, patch)).square().sum(-1) / 2


def shares(departed: Tensor, temperature: float, relative: bool = True, top: int = 0) -> Tensor:
    """SoftMin of similarity over the adapters: (rows, adapters, ..., down, across) -> weights that sum to 1 over them.

    softmax(departed / temperature), the departures in units of each row's mean where `relative`. `top` leaves out all
    but so many of the largest in a patch (0: none); those that tie with the last one stay.
    """
    farthest = departed.amax(1, keepdim=True)
    scale = departed.flatten(1).mean(1).view(-1, *[1] * (departed.dim() - 1)) if relative else torch.ones_like(farthest)
    scores = (departed - farthest) / (temperature * scale).clamp_min(_TINY)  # never above 0, so nothing overflows
    if 0 < top < departed.shape[1]:
        last = departed.topk(top, 1).values[:, -1:]
        scores = scores.masked_fill(departed < last, -math.inf)
    return scores.softmax(1)


def smooth(weights: Tensor, patch: int, height: int, width: int) -> Tensor:
    """A weight for every pixel, linear between the patches' centres: (..., down, across) -> (..., height, width).

    Sums stay what they are. Constant patches would leave seams, which the last steps do not repair.
    """
    planes = weights.flatten(1, -3)
    pixels = F.interpolate(planes, scale_factor=patch, mode="bilinear", align_corners=False)
    return pixels[..., :height, :width].unflatten(1, weights.shape[1:-2])


def _directions(latent: Tensor, patch: int) -> Tensor:
    """Each patch as a vector of length 1: (rows, channels, ..., height, width) -> (rows, ..., down, across, n)."""
    height, width = latent.shape[-2:]
    whole = F.pad(latent.float(), (0, -width % patch, 0, -height % patch))  # zeros change no product and no length
    cells = whole.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    vectors = cells.movedim((1, -3, -1), (-3, -2, -1)).flatten(-3)
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(_TINY)
