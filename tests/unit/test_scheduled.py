"""The composition by share of the run."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixlora.mixlora_core.composition.scheduled import Scheduled, Window
from mixlora.mixlora_core.errors import CompositionError


def table(composition, steps):
    """The coefficients of every step."""
    found = []
    for step in range(steps):
        (branch,) = composition.branches(step, steps)
        found.append(branch.coefficients)
    return found


def test_shares_of_the_run_are_steps():
    composition = Scheduled(((Window(0.0, 0.4, 0.8),), (Window(0.4, 1.0, -0.5),), (Window(0.0, 1.0),)))
    assert table(composition, 5) == [(0.8, 0.0, 1.0)] * 2 + [(0.0, -0.5, 1.0)] * 3
    assert composition.adapters == 3 and composition.depends_on_step
    (branch,) = composition.branches(0, 5)
    assert branch.text is None and branch.weight == 1.0


def test_one_adapter_can_have_several_windows_and_gaps():
    composition = Scheduled(((Window(0.75, 1.0, 0.3), Window(0.0, 0.5, 0.9)),))
    assert table(composition, 4) == [(0.9,), (0.9,), (0.0,), (0.3,)]
    composition.check(4)


@given(st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True), st.integers(1, 300))
def test_windows_that_touch_share_no_step_and_leave_none_out(percents, steps):
    bounds = [0.0, *(percent / 100 for percent in sorted(percents)), 1.0]
    windows = [Window(*pair) for pair in pairwise(bounds)]
    assert [step for window in windows for step in window.steps(steps)] == list(range(steps))
    alone = Scheduled(tuple((window,) for window in windows))
    assert all(sum(coefficients) == 1.0 for coefficients in table(alone, steps))


@given(st.integers(0, 99), st.integers(1, 100), st.integers(1, 500))
def test_a_window_has_its_share_of_the_steps(start, length, steps):
    end = min(100, start + length)
    count = len(Window(start / 100, end / 100).steps(steps))
    assert abs(count - (end - start) / 100 * steps) < 1 + 1e-6


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)])
def test_impossible_windows(bounds):
    with pytest.raises(CompositionError, match="expected 0 <= start < end <= 1"):
        Window(*bounds)


def test_other_bad_input():
    with pytest.raises(CompositionError, match="finite"):
        Window(0.0, 1.0, float("inf"))
    with pytest.raises(CompositionError, match=r"LoRA 2 has two windows at once: 0 to 0.5 and 0.4 to 1"):
        Scheduled(((Window(0.0, 1.0),), (Window(0.0, 0.5), Window(0.4, 1.0))))
    with pytest.raises(CompositionError, match="no LoRA"):
        Scheduled(())
    with pytest.raises(CompositionError, match="LoRA 1 would never speak: 90 to 100 % of 4 steps"):
        Scheduled(((Window(0.9, 1.0),),)).check(4)
