"""W-Switch and W-Composite: weights from cosines, turns from weights, words taken out of a prompt."""

from __future__ import annotations

import math
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixlora.mixlora_core.composition import Branch, WeightedSwitch, presence, relevance
from mixlora.mixlora_core.composition.prompt_aware import apportion
from mixlora.mixlora_core.errors import CompositionError
from mixlora.mixlora_core.prompt.weighing import by_presence, by_relevance, without

WEIGHTS = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6)


def test_weights_by_presence():
    assert presence([0.5, 0.75, 1.0]) == pytest.approx((0.625, 0.3125, 0.0625)), "0.5, 0.25 and the floor 0.05 of 0.8"
    assert presence([0.5, None, 0.7]) == pytest.approx((0.5 / 1.2, 0.4 / 1.2, 0.3 / 1.2)), "unknown: the mean"
    assert presence([None, None]) == (0.5, 0.5)
    assert presence([0.97, 0.99]) == (0.5, 0.5), "both below the floor"
    assert presence([0.97, 0.99, 1.0], 0.01) == pytest.approx((0.6, 0.2, 0.2))


def test_weights_by_relevance():
    assert relevance([0.6, 0.2]) == pytest.approx((0.75, 0.25))
    assert relevance([0.95, -0.3]) == pytest.approx((0.95, 0.05)), "never negative"
    assert relevance([None, 0.4, 0.6]) == pytest.approx((1 / 3, 0.4 / 1.5, 0.4))


@given(WEIGHTS, st.integers(0, 60), st.integers(0, 4))
def test_largest_remainders(weights, more, least):
    seats = len(weights) * least + more
    counts = apportion(weights, seats, least)
    assert sum(counts) == seats and min(counts) >= least
    free = [index for index, count in enumerate(counts) if count > least]
    for index in free:  # nobody above the minimum is a whole step from its share among those
        rest = sum(counts[other] for other in free)
        quota = rest * weights[index] / sum(weights[other] for other in free)
        assert least == 0 or counts[index] > quota - 1 - 1e-6 or len(free) < len(weights)


def test_largest_remainders_by_hand():
    assert apportion([0.5, 0.3, 0.2], 10, 1) == (5, 3, 2)
    assert apportion([1.0, 1.0, 1.0], 10, 0) == (4, 3, 3), "of equals the first"
    assert apportion([0.46, 0.27, 0.27], 7, 1) == (3, 2, 2), "quotas 3.22, 1.89, 1.89"
    assert apportion([0.9, 0.05, 0.05], 10, 2) == (6, 2, 2)


def turns(switch, steps):
    return [(speaker, len(list(run))) for speaker, run in groupby(switch.timetable(steps))]


def test_turns_follow_the_weights_and_the_subject_has_the_end():
    switch = WeightedSwitch((0.5, 0.25, 0.25))
    assert turns(switch, 21) == [(0, 2), (1, 1), (2, 1)] * 5 + [(0, 1)]
    table = WeightedSwitch((0.2,) * 5).timetable(100)
    assert [table.count(adapter) for adapter in range(5)] == [24, 19, 19, 19, 19] and table[-5:] == (0,) * 5
    assert len(turns(WeightedSwitch((0.2,) * 5), 100)) == 4 * 5 + 1, "the paper's 5 steps are 4 cycles of 100"
    assert (
        WeightedSwitch((0.2, 0.8), (1, 0)).timetable(20)[0] == WeightedSwitch((0.2, 0.8), (1, 0)).timetable(20)[-1] == 1
    )
    assert WeightedSwitch((0.4,)).timetable(3) == (0, 0, 0)
    assert switch.branches(20, 21) == (Branch((1.0, 0.0, 0.0), 1.0, 0),)


@given(WEIGHTS, st.integers(1, 120))
def test_everyone_speaks_twice_where_that_fits(weights, steps):
    switch, adapters = WeightedSwitch(tuple(weights)), len(weights)
    if steps < adapters:
        with pytest.raises(CompositionError, match=f"{adapters} LoRAs cannot each have a turn in {steps} steps"):
            switch.check(steps)
        return
    table = switch.timetable(steps)
    assert len(table) == steps and set(table) == set(range(adapters)) and table[0] == 0
    last = max(1, round(steps / 20))
    assert table[-1] == 0 or steps == adapters
    if adapters > 1 and steps - last >= 2 * adapters:
        runs = [speaker for speaker, _ in groupby(table)]
        assert min(runs.count(adapter) for adapter in range(adapters)) >= 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedSwitch(()), "stack is empty"),
        (lambda: WeightedSwitch((1.0, 0.0)), "weights are 1, 0; expected finite numbers above 0"),
        (lambda: WeightedSwitch((math.nan,)), "weights are nan"),
        (lambda: WeightedSwitch((0.5, 0.5), (0, 0)), "order is 1, 1"),
        (lambda: presence([0.5], 0.0), "floor is 0.0"),
    ],
)
def test_what_cannot_be_switched_is_refused(make, message):
    with pytest.raises(CompositionError, match=message):
        make()


@pytest.mark.parametrize(
    ("prompt", "triggers", "left"),
    [
        ("a hill, van gogh style, in the snow", ["van gogh style"], "a hill, in the snow"),
        ("a hill in Van  Gogh style at night", ["van gogh style"], "a hill in at night"),
        ("a hill, a kite", ["a kit"], "a hill, a kite"),
        ("a hill , a kite", ["lava"], "a hill , a kite"),
        ("nezuko, black hair, a hill, son, black hair", ["nezuko, black hair"], "a hill, son, black hair"),
        ("pink eyes, a hill, nezuko", ["nezuko, pink eyes"], "a hill"),
        ("c++ (style), a hill", ["c++ (style)"], "a hill"),
        ("a kite", ["a kite"], ""),
        ("a hill", ["", " , "], "a hill"),
    ],
)
def test_words_are_taken_out_of_a_prompt(prompt, triggers, left):
    assert without(prompt, triggers) == left


class Table:
    """A CLIP in which every word is one token and a vector of its own, in pieces of 8 tokens as long prompts come."""

    def __init__(self):
        self.known = {}

    def tokenize(self, text):
        ids = [self.known.setdefault(word, len(self.known) + 2) for word in text.replace(",", "").split()]
        pieces = [ids[start : start + 6] for start in range(0, len(ids), 6)] or [[]]
        return {"l": [[(token, 1.0) for token in (0, *piece, *[1] * (7 - len(piece)))] for piece in pieces]}

    def encode_from_tokens(self, tokens):
        return torch.nn.functional.one_hot(torch.tensor([one for piece in tokens["l"] for one, _ in piece]), 64)[None]


def stack(*words) -> Any:
    return SimpleNamespace(
        entries=[SimpleNamespace(lora_name=f"{index}.safetensors", words=own) for index, own in enumerate(words)]
    )


def test_a_clip_tells_how_much_an_adapter_matters(caplog):
    """With one-hot words a text is its set of words: cosines are counts. The prompt is longer than a piece."""
    prompt = "hill at night, red kite, dark green lava flow"  # 9 words
    chosen = stack(("red kite",), ("dark green lava flow",), ("pagoda",))
    changed = [1 - 7 / math.sqrt(9 * 7), 1 - 5 / math.sqrt(9 * 5), 0.05]
    assert by_presence(Table(), chosen, prompt) == pytest.approx([one / sum(changed) for one in changed], abs=1e-6)
    alike = [2 / math.sqrt(9 * 2), 4 / math.sqrt(9 * 4), 0.05]
    assert by_relevance(Table(), chosen, prompt) == pytest.approx([one / sum(alike) for one in alike], abs=1e-6)
    assert not caplog.records


def test_without_trigger_words_an_adapter_counts_as_the_others_do(caplog):
    weights = by_presence(Table(), stack(("red kite",), ()), "hill, red kite")
    assert weights == pytest.approx((0.5, 0.5)) and "1.safetensors" in caplog.text
    assert by_relevance(Table(), stack((), ()), "hill") == (0.5, 0.5)
