"""Several pictures with labels on one sheet. Pillow's own font has Latin letters only: no λ in labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

GAP, LINE, HEADING = 16, 20, 34
PAPER, INK, QUIET = (250, 250, 248), (25, 25, 30), (95, 95, 105)


class Cell(NamedTuple):
    """One picture and the lines of text under it."""

    label: str
    image: Image.Image


class Row(NamedTuple):
    """A heading and the pictures under it."""

    heading: str
    cells: Sequence[Cell]


def contact_sheet(title: str, rows: Sequence[Row], side: int = 256) -> Image.Image:
    """Draws the rows under each other, each picture as a square of `side` pixels; long labels are broken into lines."""
    large, normal, small = (ImageFont.load_default(points) for points in (24, 18, 14))
    rows = [
        Row(row.heading, [Cell(_broken(cell.label, small, side), cell.image) for cell in row.cells]) for row in rows
    ]
    columns = max(len(row.cells) for row in rows)
    heights = [HEADING + side + LINE * max(_lines(cell.label) for cell in row.cells) + GAP for row in rows]
    size = (GAP + columns * (side + GAP), GAP + HEADING + GAP + sum(heights))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, INK, large)
    top = GAP + HEADING + GAP
    for row, height in zip(rows, heights, strict=True):
        pen.text((GAP, top), row.heading, INK, normal)
        for column, cell in enumerate(row.cells):
            left = GAP + column * (side + GAP)
            sheet.paste(cell.image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, top + HEADING))
            pen.multiline_text((left, top + HEADING + side + 4), cell.label, QUIET, small)
        top += height
    return sheet


def _lines(label: str) -> int:
    return label.count("\n") + 1 if label else 0


def _broken(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The label in lines that fit into `width`; a word that is longer stays whole."""
    lines = [""]
    for paragraph in label.split("\n"):
        for word in paragraph.split(" "):
            longer = f"{lines[-1]} {word}".lstrip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        lines.append("")
    return "\n".join(lines[:-1])
