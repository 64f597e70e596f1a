"""The timetable of LoRA Switch for a person: as text, and as a small picture. Needs no ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = ((66, 133, 244), (234, 67, 53), (251, 188, 5), (52, 168, 83), (155, 81, 224), (0, 172, 193), (255, 112, 67))
"""One colour for each adapter, from the start again after the last."""

_PAPER, _INK = (250, 250, 250), (40, 40, 40)
_CELL, _ROW, _LABEL, _EDGE = 20, 30, 220, 12

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def describe(names: Sequence[str], speakers: Sequence[int]) -> str:
    """Which LoRA speaks in which steps (counted from 1), as a Markdown list; says who never does."""
    steps = len(speakers)
    turns = [(speaker, len(list(run))) for speaker, run in groupby(speakers)]
    lines = [f"LoRA Switch: {len(names)} LoRAs, {steps} steps, {len(turns)} turns"]
    for index, name in enumerate(names):
        own = [step for step, speaker in enumerate(speakers, start=1) if speaker == index]
        lines.append(f"- {name}: " + (f"{len(own)} steps ({_ranges(own)})" if own else "NEVER: the run is too short"))
    return "\n".join(lines)


def picture(names: Sequence[str], speakers: Sequence[int]) -> np.ndarray:
    """One row for each LoRA, one column for each step, coloured where it speaks; uint8, (height, width, 3)."""
    cell = max(4, min(_CELL, 960 // max(len(speakers), 1)))
    size = (_LABEL + cell * len(speakers) + 2 * _EDGE, _ROW * (len(names) + 1) + 2 * _EDGE)
    image = Image.new("RGB", size, _PAPER)
    pencil, font = ImageDraw.Draw(image), _font()
    for row, name in enumerate(names):
        top = _EDGE + row * _ROW
        _write(pencil, (_EDGE, top + _ROW // 2), _short(name, font), font)
        for step, speaker in enumerate(speakers):
            left = _EDGE + _LABEL + step * cell
            fill = COLOURS[row % len(COLOURS)] if speaker == row else (232, 232, 232)
            pencil.rectangle((left, top + 4, left + cell - 2, top + _ROW - 4), fill)
    bottom = _EDGE + len(names) * _ROW + _ROW // 2
    for step in [1, *range(5, len(speakers) + 1, 5)]:
        left = _EDGE + _LABEL + (step - 1) * cell + cell // 2
        _write(pencil, (left - font.getlength(str(step)) // 2, bottom), str(step), font)
    return np.asarray(image)


def _ranges(steps: Sequence[int]) -> str:
    """For instance "1-5, 16-20"."""
    runs = [[step for _, step in run] for _, run in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _font() -> _Font:
    try:
        return ImageFont.load_default(14)
    except TypeError:  # Pillow before 10.1, which some packs still ask for, has it in one size only
        return ImageFont.load_default()


def _write(pencil: ImageDraw.ImageDraw, place: tuple[float, int], text: str, font: _Font) -> None:
    """Text that begins at `place` and has it at half its height."""
    _, top, _, bottom = font.getbbox("0g")
    pencil.text((place[0], place[1] - (top + bottom) // 2), text, _INK, font)


def _short(name: str, font: _Font) -> str:
    stem = name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".safetensors")
    while font.getlength(stem) > _LABEL - 2 * _EDGE:
        stem = stem.removesuffix("...")[:-1] + "..."
    return stem
