"""Tables as they stand in a report, in HTML as well as in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BETTER, WORSE, BEST = "better", "worse", "best"


@dataclass(frozen=True)
class Cell:
    """One number with what belongs to it."""

    text: str
    detail: str = ""
    """Its interval."""
    more: str = ""
    """A third line."""
    tone: str = ""
    """BETTER, WORSE, BEST or nothing."""
    bar: tuple[float, float, float] | None = None
    """Low end of the interval, value and high end, as shares of the column's width."""
    heat: float | None = None
    """0..1: how strongly the cell is tinted."""

    @property
    def line(self) -> str:
        """All of it in one line of plain text."""
        return self._line(self.text)

    @property
    def marked(self) -> str:
        """The same in Markdown: bold where it has a tone."""
        return self._line(f"**{self.text}**" if self.tone else self.text)

    def _line(self, text: str) -> str:
        return " ".join(part for part in (text, f"({self.detail})" if self.detail else "", self.more) if part)


@dataclass(frozen=True)
class Head:
    """A column's heading."""

    text: str
    unit: str = ""
    explanation: str = ""

    @property
    def line(self) -> str:
        """With its unit."""
        return f"{self.text} ({self.unit})" if self.unit else self.text


@dataclass(frozen=True)
class Row:
    """A row: what it is about, and its cells."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table with a title, and a sentence that says how to read it."""

    title: str
    corner: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    note: str = ""


def markdown(table: Table, level: int = 3) -> str:
    """The table in Markdown below a heading; level 0 leaves heading and note out."""
    parts = [f"{'#' * level} {table.title}", table.note] if level else []
    lines = [[table.corner, *(head.line for head in table.heads)]]
    lines += [[row.label, *(cell.marked for cell in row.cells)] for row in table.rows]
    aligned = ["| --- |" + " ---: |" * len(table.heads)]
    grid = [markdown_row(lines[0]), *aligned, *map(markdown_row, lines[1:])]
    return "\n\n".join(part for part in [*parts, "\n".join(grid)] if part)


def plain(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    )


def markdown_row(texts: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
