"""The policies of Merge, Switch and Composite, and what they refuse."""

import math

import pytest
from mixlora.mixlora_core.composition import Branch, Composite, Merge, Switch
from mixlora.mixlora_core.errors import CompositionError
from mixlora.mixlora_core.numbers import decimals, integers


def test_merge_lets_everyone_speak_at_once():
    assert Merge(2).branches(7, 30) == (Branch((1.0, 1.0)),)


def test_switch_lets_one_speak_and_uses_its_text():
    switch = Switch(3, 2, (2, 0, 1))
    assert [switch.branches(step, 6) for step in range(6)] == [
        (Branch(tuple(float(other == speaker) for other in range(3)), 1.0, speaker),) for speaker in (2, 2, 0, 0, 1, 1)
    ]


def test_composite_gives_everyone_a_branch():
    assert Composite(2).branches(0, 5) == (Branch((1.0, 0.0), 1.0, 0), Branch((0.0, 1.0), 1.0, 1))
    assert Composite(3, (2.0, 0.0, 1.0)).branches(0, 5) == (
        Branch((1.0, 0.0, 0.0), 2.0, 0),
        Branch((0.0, 0.0, 1.0), 1.0, 2),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Switch(0), "stack is empty"),
        (lambda: Composite(0), "stack is empty"),
        (lambda: Switch(2, -1), "switch_every is -1"),
        (lambda: Switch(3, 5, (0, 1)), "order is 1, 2; expected each number from 1 to 3 once"),
        (lambda: Switch(2, 5, (0, 0)), "order is 1, 1"),
        (lambda: Switch(2, 5, (0, -1)), "order is 1, 0"),
        (lambda: Switch(5, 0).check(4), "5 LoRAs cannot each have a turn in 4 steps"),
        (lambda: Composite(2, (1.0,)), "1 weights for 2 LoRAs"),
        (lambda: Composite(2, (1.0, -1.0)), "weights are 1, -1"),
        (lambda: Composite(2, (1.0, math.nan)), "weights are 1, nan"),
        (lambda: Composite(2, (0.0, 0.0)), "All weights are 0"),
    ],
)
def test_what_cannot_be_composed_is_refused(make, message):
    with pytest.raises(CompositionError, match=message):
        make()


def test_numbers_as_people_type_them():
    assert integers("", "order") == ()
    assert integers(" 2, 1 3;4", "order") == (2, 1, 3, 4)
    assert decimals("1, .5 2e-1", "weights") == (1.0, 0.5, 0.2)
    with pytest.raises(CompositionError, match=r"order is 'a, b'; expected whole numbers"):
        integers("a, b", "order")
    with pytest.raises(CompositionError, match=r"order is '1.5'"):
        integers("1.5", "order")
