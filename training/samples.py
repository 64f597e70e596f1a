"""What is trained on, as tensors: latents, contexts, and which context belongs to which picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .files import digest
from .settings import TrainingError


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Encoded pictures and captions. Raises TrainingError for shapes that do not fit together or values not finite."""

    latents: Tensor
    """[n, 4, h, w], in the model's latent scale (after ComfyUI's ``process_latent_in``)."""
    context: Tensor
    """[m, tokens, width]: each distinct caption once, as the text encoder gives it."""
    caption_of: Sequence[int] | Tensor | None = None
    """Per picture the row of `context`; None where row i belongs to picture i."""
    empty: Tensor | None = None
    """[tokens, width]: the empty caption, for caption dropout."""
    names: Sequence[str] = ()
    """Per picture its name in messages; numbers where none are given."""
    captions: Sequence[str] = ()
    """Per picture its caption as text, for the file's metadata; may be left out."""
    rows: tuple[int, ...] = field(init=False)
    """`caption_of` as numbers."""

    def __post_init__(self) -> None:
        count = len(self.latents)
        index = range(count) if self.caption_of is None else [int(row) for row in self.caption_of]
        object.__setattr__(self, "rows", tuple(index))
        object.__setattr__(self, "names", tuple(self.names) or tuple(f"picture {i}" for i in range(count)))
        problems = list(self._problems(count))
        if problems:
            raise TrainingError("Samples do not fit together:\n" + "\n".join(f"  {problem}" for problem in problems))

    def _problems(self, count: int) -> Iterator[str]:
        if self.latents.ndim != 4 or count == 0:
            yield f"latents: expected [n, channels, height, width] with n > 0, found {tuple(self.latents.shape)}"
        if self.context.ndim != 3:
            yield f"context: expected [captions, tokens, width], found {tuple(self.context.shape)}"
        elif self.empty is not None and self.empty.shape != self.context.shape[1:]:
            yield f"empty: expected {tuple(self.context.shape[1:])}, found {tuple(self.empty.shape)}"
        rows = self.rows
        if len(rows) != count or not all(0 <= row < len(self.context) for row in rows):
            found = f"{len(rows)}, highest {max(rows, default=None)}"
            yield f"caption_of: expected {count} rows, all below {len(self.context)}, found {found}"
        if len(self.names) != count or len(self.captions) not in (0, count):
            yield f"names, captions: expected {count} each, found {len(self.names)} and {len(self.captions)}"
        if self.latents.ndim == 4:
            broken = (~torch.isfinite(self.latents).flatten(1).all(1)).nonzero().flatten().tolist()
            if broken:
                yield "latents: not finite for " + ", ".join(str(self.names[i]) for i in broken)
        if not torch.isfinite(self.context).all():
            yield "context: not finite"

    def __len__(self) -> int:
        return len(self.latents)

    def digest(self) -> str:
        """SHA-256 of all that training reads; changes when any picture, caption or encoder does."""
        index = torch.tensor(self.rows, dtype=torch.int64)
        return digest(self.latents, self.context, index, *([] if self.empty is None else [self.empty]))
