"""Which step a noise level belongs to, and who speaks in it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixlora.mixlora_core.composition.schedule import AUTOMATIC, block_length, step_of, timetable
from mixlora.mixlora_core.errors import CompositionError

LEVELS = st.lists(st.floats(0.01, 100), min_size=1, max_size=40, unique_by=lambda x: round(x, 2)).map(
    lambda levels: [*sorted(levels, reverse=True), 0.0]
)


@given(LEVELS)
def test_a_step_owns_its_own_noise_level(levels):
    assert [step_of(level, levels) for level in levels[:-1]] == list(range(len(levels) - 1))


@given(LEVELS, st.floats(0, 1))
def test_between_two_levels_it_is_still_the_first_ones_step(levels, share):
    for step, (high, low) in enumerate(itertools.pairwise(levels)):
        sigma = low + (high - low) * (0.1 + 0.8 * share)
        assert step_of(sigma, levels) == step


def test_beyond_the_ends():
    assert step_of(99.0, [10.0, 5.0, 0.0]) == 0
    assert step_of(0.0, [10.0, 5.0, 0.0]) == 1
    assert step_of(1.0, [10.0, 5.0, 2.0]) == 1  # a run that stops early
    assert step_of(5.0, [5.0]) == 0


@given(LEVELS, st.floats(0, 1))
def test_rising_levels_of_unsampling_mirror_falling_ones(levels, share):
    levels = [0.0001, *levels[-2::-1]]  # as ComfyUI's FlipSigmas gives them
    for step, (low, high) in enumerate(itertools.pairwise(levels)):
        assert step_of(low, levels) == step == step_of(low + (high - low) * 0.9 * share, levels)
    assert step_of(levels[-1], levels) == len(levels) - 2


def test_rounding_of_a_sampler_does_not_change_the_step():
    levels = [14.6, 10.0, 7.0, 0.0]
    assert [step_of(level * (1 + error), levels) for level in levels[:3] for error in (-5e-6, 5e-6)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]


def test_turns_of_the_paper():
    assert timetable((0, 1, 2), 5, 20) == (0,) * 5 + (1,) * 5 + (2,) * 5 + (0,) * 5
    assert timetable((2, 0), 1, 5) == (2, 0, 2, 0, 2)


@given(st.integers(1, 12), st.integers(1, 300))
def test_automatic_gives_everyone_a_whole_turn(adapters, steps):
    if adapters > steps:
        with pytest.raises(CompositionError, match=f"{adapters} LoRAs cannot each have a turn in {steps} steps"):
            block_length(AUTOMATIC, adapters, steps)
        return
    length = block_length(AUTOMATIC, adapters, steps)
    speakers = timetable(tuple(range(adapters)), AUTOMATIC, steps)
    assert all(speakers.count(adapter) >= length for adapter in range(adapters))


def test_automatic_is_the_papers_share():
    assert block_length(AUTOMATIC, 3, 100) == 5
    assert block_length(AUTOMATIC, 5, 20) == 1  # the paper's 5 would never let the fifth speak


def test_a_negative_turn_is_refused():
    with pytest.raises(CompositionError, match="switch_every is -1"):
        block_length(-1, 2, 10)
