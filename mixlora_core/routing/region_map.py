"""Which expert serves which region: what a router said while a picture was sampled, and as a picture itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..contact_sheet import INK, PAPER, Cell, Row, contact_sheet
from ..errors import RouterError

COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66),
)  # fmt: skip
"""Of the experts in their order; told apart with every kind of colour vision (Okabe and Ito, 2008). Then greys."""
COLUMNS, SIDE = 5, 160


class Heard(NamedTuple):
    """What one block's router said in one forward of the model."""

    block: str
    sigma: float
    coefficients: Tensor
    """(pictures, h, w, n), fp32 on the CPU: of the rows with the positive prompt."""


@dataclass(eq=False)
class Trace:
    """Collects what routers say. Give a fresh one for each run."""

    names: tuple[str, ...] = ()
    """Of the experts."""
    heard: list[Heard] = field(default_factory=list)

    def blocks(self) -> list[str]:
        """All blocks in the order in which they spoke."""
        return list(dict.fromkeys(one.block for one in self.heard))

    def mean(self, block: str | None = None, picture: int = 0) -> Tensor:
        """Coefficients (h, w, n) of one block, or of all, averaged over steps; blocks of coarser grids are enlarged.

        Raises RouterError where nothing was heard of that block or picture.
        """
        found = [one.coefficients[picture] for one in self.heard if block in (None, one.block)
                 and picture < len(one.coefficients)]  # fmt: skip
        if not found:
            raise RouterError(f"No router was heard for {block or 'any block'}, picture {picture + 1}. Sample first.")
        grid = max(((one.shape[0], one.shape[1]) for one in found), key=lambda size: size[0] * size[1])
        return torch.stack([_resized(one, grid) for one in found]).mean(0)


def winners(coefficients: Tensor) -> Tensor:
    """(h, w): the expert with the largest coefficient; of equal ones the first."""
    return coefficients.argmax(-1)


def region_map(
    trace: Trace, title: str = "Which expert serves which region", picture: int = 0, painted: Image.Image | None = None
) -> Image.Image:
    """A sheet with the winning expert of every token: all blocks averaged, a legend, then every block by itself.

    `picture` counts from 0 within the batch; `painted` is that picture, to be shown beside its map. Raises RouterError
    where nothing was heard.
    """
    mean = trace.mean(picture=picture)
    whole = Cell("winner of the mean over all blocks and steps", _painted(winners(mean)))
    first = [] if painted is None else [Cell("the picture", _framed(painted, Image.Resampling.LANCZOS))]
    rows = [Row("All blocks", [*first, whole, Cell("", _legend(trace.names, mean))])]
    cells = [Cell(_label(block), _painted(winners(trace.mean(block, picture)))) for block in trace.blocks()]
    rows += [
        Row("Block by block, mean over all steps" if not start else "", cells[start : start + COLUMNS])
        for start in range(0, len(cells), COLUMNS)
    ]
    return contact_sheet(title, rows, SIDE)


def _painted(experts: Tensor) -> Image.Image:
    """One pixel a token, enlarged without blur."""
    colours = torch.tensor([_colour(index) for index in range(int(experts.max()) + 1)], dtype=torch.uint8)
    return _framed(Image.fromarray(colours[experts].numpy()), Image.Resampling.NEAREST)


def _framed(image: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", (SIDE, SIDE), PAPER)
    canvas.paste(image.convert("RGB").resize(size, how))
    return canvas


def _legend(names: Sequence[str], mean: Tensor) -> Image.Image:
    """Colour, name and share of the tokens won, one line for each expert."""
    won = torch.bincount(winners(mean).flatten(), minlength=len(names)).double() / mean[..., 0].numel()
    canvas = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen, line = ImageDraw.Draw(canvas), min(22, SIDE // len(names))
    font = ImageFont.load_default(min(14, line))
    for index, (name, part) in enumerate(zip(names, won.tolist(), strict=True)):
        top = index * line
        pen.rectangle((0, top + 2, line - 6, top + line - 4), _colour(index))
        text = f"{part:4.0%} {name}"
        while font.getlength(text) > SIDE - line and len(text) > 8:
            text = text[:-4] + "..."
        pen.text((line, top), text, INK, font)
    return canvas


def _colour(index: int) -> tuple[int, int, int]:
    if index < len(COLOURS):
        return COLOURS[index]
    grey = 40 + 45 * (index - len(COLOURS)) % 180
    return grey, grey, grey


def _label(block: str) -> str:
    """For example "output 1.1, transformer 0"."""
    part, _, number = block.removesuffix(".ff").partition(".transformer_blocks.")
    return f"{part.replace('_blocks.', ' ').replace('_block.', ' ')}, transformer {number}"


def _resized(coefficients: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(coefficients.shape[:2]) == tuple(grid):
        return coefficients
    channels = coefficients.permute(2, 0, 1)[None]
    return F.interpolate(channels, size=tuple(grid), mode="nearest")[0].permute(1, 2, 0)
