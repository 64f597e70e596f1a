"""The timetable as a person sees it."""

import numpy as np
from mixlora.mixlora_core.composition.timetable import COLOURS, describe, picture


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


def test_long_runs_stay_narrow():
    assert picture(["a"], (0,) * 200).shape[1] < 1300
