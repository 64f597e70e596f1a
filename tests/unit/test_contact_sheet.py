"""The contact sheet has every picture, at the size asked for."""

from __future__ import annotations

from mixlora.mixlora_core.contact_sheet import Cell, Row, contact_sheet
from mixlora.tools import demo
from PIL import Image


def test_places_every_picture():
    red, blue = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
    rows = [Row("one", [Cell("a", red), Cell("b\nc", blue)]), Row("two", [Cell("d", blue)])]
    sheet = contact_sheet("title", rows, side=64)
    colors = {color: count for count, color in sheet.getcolors(1 << 16) or []}
    assert colors[(255, 0, 0)] == 64 * 64
    assert colors[(0, 0, 255)] == 2 * 64 * 64


def test_labels_have_only_letters_that_the_font_has():
    assert all((shot.row + shot.label).isascii() for shot in demo.shots())
