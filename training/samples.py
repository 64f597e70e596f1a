"""What is trained on, as tensors: latents, contexts, and which context belongs to which picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .draw import Draw
from .files import digest
from .settings import TrainingError


class Batch(NamedTuple):
    """Rows for the UNet, where and in which format the Samples lie."""

    latents: Tensor
    """[b, channels, h, w]"""
    context: Tensor
    """[b, tokens, width]"""
    pooled: Tensor | None
    """[b, width]"""
    sizes: Tensor | None
    """[b, 6]"""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Encoded pictures and captions. Raises TrainingError for shapes that do not fit together or values not finite."""

    latents: Sequence[Tensor] | Tensor
    """Per picture [channels, h, w], in the model's latent scale (after ComfyUI's ``process_latent_in``)."""
    context: Tensor
    """[m, tokens, width]: each distinct caption once, as the text encoder gives it."""
    caption_of: Sequence[int | Sequence[int]] | Tensor | None = None
    """Per picture the row of `context`, or several to choose from; None where row i belongs to picture i."""
    empty: Tensor | None = None
    """[tokens, width]: the empty caption, for caption dropout."""
    flipped: Sequence[Tensor] = ()
    """Per picture the latent of its mirror image, of the same shape; empty for a run without flips."""
    repeats: Sequence[int] = ()
    """How often an epoch shows each picture; once where none are given."""
    pooled: Tensor | None = None
    """[m, width]: the captions' pooled text, which SDXL asks for."""
    empty_pooled: Tensor | None = None
    """[width]: that of the empty caption."""
    sizes: Tensor | None = None
    """[n, 6], for SDXL: original height and width, top and left of the crop, target height and width, in pixels."""
    names: Sequence[str] = ()
    """Per picture its name in messages; numbers where none are given."""
    captions: Sequence[str] = ()
    """Per picture its caption as text, for the file's metadata; may be left out."""
    rows: tuple[tuple[int, ...], ...] = field(init=False)
    """`caption_of` as numbers."""

    def __post_init__(self) -> None:
        count = len(self.latents)
        index = range(count) if self.caption_of is None else self.caption_of
        rows = tuple(tuple(int(i) for i in row) if isinstance(row, Sequence) else (int(row),) for row in index)
        normal = dict(
            latents=tuple(self.latents), flipped=tuple(self.flipped), rows=rows,
            repeats=tuple(self.repeats) or (1,) * count,
            names=tuple(self.names) or tuple(f"picture {i}" for i in range(count)),
        )  # fmt: skip
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if problems := list(self._problems(count)):
            raise TrainingError("Samples do not fit together:\n" + "\n".join(f"  {problem}" for problem in problems))

    def _problems(self, count: int) -> Iterator[str]:
        yield from self._latent_problems(count)
        if self.context.ndim != 3:
            yield f"context: expected [captions, tokens, width], found {tuple(self.context.shape)}"
        elif self.empty is not None and self.empty.shape != self.context.shape[1:]:
            yield f"empty: expected {tuple(self.context.shape[1:])}, found {tuple(self.empty.shape)}"
        rows, captions = self.rows, len(self.context)
        if len(rows) != count or not all(row and all(0 <= i < captions for i in row) for row in rows):
            found = f"{len(rows)}, highest {max((i for row in rows for i in row), default=None)}"
            yield f"caption_of: expected {count} rows, all below {captions}, found {found}"
        if len(self.names) != count or len(self.captions) not in (0, count):
            yield f"names, captions: expected {count} each, found {len(self.names)} and {len(self.captions)}"
        if len(self.repeats) != count or not all(times >= 1 for times in self.repeats):
            yield f"repeats: expected {count} numbers, all 1 or more, found {self.repeats}"
        if self.pooled is not None and (self.pooled.ndim != 2 or len(self.pooled) != captions):
            yield f"pooled: expected [{captions}, width], found {tuple(self.pooled.shape)}"
        if self.pooled is not None and self.empty is not None and self.empty_pooled is None:
            yield "empty_pooled: needed where pooled and empty are given"
        if self.sizes is not None and self.sizes.shape != (count, 6):
            yield f"sizes: expected [{count}, 6], found {tuple(self.sizes.shape)}"
        if not torch.isfinite(self.context).all():
            yield "context: not finite"

    def _latent_problems(self, count: int) -> Iterator[str]:
        if count == 0 or any(latent.ndim != 3 for latent in self.latents):
            found = sorted({tuple(latent.shape) for latent in self.latents})
            yield f"latents: expected [channels, height, width] for one picture or more, found {found}"
        if self.flipped and [latent.shape for latent in self.flipped] != [latent.shape for latent in self.latents]:
            yield "flipped: expected as many latents as there are pictures, of the same shapes"
        for what, latents in (("latents", self.latents), ("flipped", self.flipped)):
            broken = [name for name, latent in zip(self.names, latents, strict=False) if not latent.isfinite().all()]
            if broken:
                yield f"{what}: not finite for " + ", ".join(broken)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of each picture's latent."""
        return [tuple(latent.shape) for latent in self.latents]

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """Moved to a device: contexts in the format of the UNet, latents in fp32, as the noise is added in it."""
        moved: dict[str, Any] = {
            name: None if tensor is None else tensor.to(device, tensor.dtype if name == "sizes" else dtype)
            for name, tensor in self._texts().items()
        }
        for name in ("latents", "flipped"):
            moved[name] = [latent.to(device, torch.float32) for latent in getattr(self, name)]
        return replace(self, **moved, caption_of=self.rows)

    def subset(self, pictures: Sequence[int]) -> Samples:
        """These pictures alone, with all captions."""

        def pick(each: Sequence[Any]) -> list[Any]:
            return [each[i] for i in pictures] if len(each) else []

        per_picture = {
            name: pick(getattr(self, name)) for name in ("latents", "flipped", "repeats", "names", "captions")
        }
        sizes = None if self.sizes is None else self.sizes[list(pictures)]
        return replace(self, **per_picture, caption_of=pick(self.rows), sizes=sizes)

    def _texts(self) -> dict[str, Tensor | None]:
        names = ("context", "empty", "pooled", "empty_pooled", "sizes")
        return {name: getattr(self, name) for name in names}

    def gather(self, drawn: Sequence[Draw]) -> Batch:
        """What a micro-batch sees, one row per draw."""
        pictures = [draw.picture for draw in drawn]
        latents = [(self.flipped if draw.flip else self.latents)[draw.picture] for draw in drawn]
        rows = [None if draw.drop_caption else self.rows[draw.picture][draw.variant] for draw in drawn]

        def text(each: Tensor, empty: Tensor | None) -> Tensor:
            return torch.stack([each[row] if row is not None else _needed(empty) for row in rows])

        return Batch(
            latents=torch.stack(latents),
            context=text(self.context, self.empty),
            pooled=None if self.pooled is None else text(self.pooled, self.empty_pooled),
            sizes=None if self.sizes is None else self.sizes[pictures],
        )

    def digest(self) -> str:
        """SHA-256 of all that training reads; changes when any picture, caption, repeat or encoder does."""
        rows = [torch.tensor([times, *row]) for times, row in zip(self.repeats, self.rows, strict=True)]
        texts = [tensor for tensor in self._texts().values() if tensor is not None]
        return digest(*self.latents, *self.flipped, *rows, *texts)


def _needed(empty: Tensor | None) -> Tensor:
    if empty is None:
        raise TrainingError("caption_dropout needs the empty caption: give Samples(empty=...), or set it to 0.")
    return empty
