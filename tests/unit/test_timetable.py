"""The timetable as a person sees it."""

import numpy as np
from mixlora.mixlora_core.composition.timetable import COLOURS, describe, picture
from PIL import ImageFont


def test_text_says_who_speaks_when():
    assert describe(["a", "b"], (0, 0, 1, 0)) == (
        "LoRA Switch: 2 LoRAs, 4 steps, 3 turns\n- a: 3 steps (1-2, 4)\n- b: 1 steps (3)"
    )


def test_text_says_who_never_speaks():
    assert "- c.safetensors: NEVER: the run is too short" in describe(["a", "b", "c.safetensors"], (0, 1))


def test_picture_has_a_coloured_cell_for_each_step():
    drawn = picture(["folder/a.safetensors", "b" * 80], (0, 0, 1))
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    counts = [(drawn == colour).all(-1).sum() for colour in COLOURS]
    assert counts[0] == 2 * counts[1] > 0
    assert not any(counts[2:])


def test_an_old_pillow_has_one_size_of_letters(monkeypatch):
    """Before 10.1 `load_default` took no size, and its letters cannot be anchored."""
    old = ImageFont.load_default_imagefont()
    monkeypatch.setattr(ImageFont, "load_default", lambda: old)
    drawn = picture(["a", "b" * 80], (0, 0, 1))
    assert ((drawn < 100).all(-1)).any(), "names are written"


def test_long_runs_stay_narrow():
    assert picture(["a"], (0,) * 200).shape[1] < 1300
