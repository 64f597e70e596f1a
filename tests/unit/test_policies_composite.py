"""The testbed's policies beyond the paper's: their parameters, and what they cost."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from mixlora.evaluation import methods
from mixlora.evaluation.jobs import EvaluationError
from mixlora.mixlora_core import composition
from mixlora.mixlora_core.errors import CompositionError


def policy(kind, **parameters) -> Any:
    return methods.policy(methods.method(kind, parameters, 0.8))


@pytest.mark.parametrize(
    ("kind", "parameters", "guidance", "runs"),
    [
        ("composite", {}, 2.0, 5),
        ("anchored", {}, 2.0, 6 / 2),  # the base alone on the other side
        ("anchored", {}, 7.0, 7 / 2),
        ("anchored", {"anchor": 0.0}, 7.0, 6 / 2),
        ("anchored", {}, 1.0, 5),  # without guidance a run is one row
        ("centred", {}, 2.0, 7 / 2),
        ("centred", {"mode": "mean"}, 2.0, 6 / 2),
        ("centred", {"unconditional": "each"}, 2.0, 6),
        ("reused", {}, 2.0, (5 * 8 + 15 * 2) / 20 / 2),
        ("reused", {"around": "base", "every": 5}, 2.0, (4 * 7 + 16 * 2) / 20 / 2),
        ("layered", {}, 2.0, 7 / 2),  # at most: all are things
        ("windowed", {}, 2.0, (8 * 5 + 12) / 20),
        ("windowed", {"inside": "anchored", "outside": "switch"}, 2.0, (8 * 6 / 2 + 12) / 20),
        ("w-switch", {}, 2.0, 1),
        ("w-composite", {}, 2.0, 5),
        ("w-composite", {"form": "centred"}, 2.0, 7 / 2),
    ],
)
def test_what_a_step_costs_five_adapters(kind, parameters, guidance, runs):
    made = policy(kind, **parameters)
    made.check(5, 20)
    assert made.evaluations(5, 20, guidance) == pytest.approx(runs)


def test_half_the_cost_of_composite_at_five():
    assert policy("reused").evaluations(5, 20, 2.0) <= 0.5 * policy("composite").evaluations(5, 20, 2.0)


def test_parameters_become_the_composition():
    assert policy("anchored", anchor=0.25).composition(3) == composition.Anchored(3, 0.25)
    assert policy("anchored").composition(3) == composition.Anchored(3)
    assert policy("centred", mode="root").composition(4) == composition.Centred(4, 0.5)
    assert policy("reused", every=2).composition(2) == composition.Reused(composition.Centred(2), 2)
    windowed = policy("windowed", start=0.5, end=1.0, mode="mean").composition(4)
    assert (windowed.start, windowed.end, windowed.inside) == (0.5, 1.0, composition.Composite(4))
    assert windowed.outside.branches(0, 9)[0].coefficients == (0.25,) * 4
    assert policy("w-composite", form="anchored").weighted([0.7, 0.3]) == composition.Anchored(2, weights=(0.7, 0.3))
    assert policy("w-composite", form="centred").weighted([0.7, 0.3]).shares == pytest.approx((1.4, 0.6))


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("anchored", {"anchor": 2.0}, "anchor is 2.0"),
        ("centred", {"mode": "average"}, "mode is 'average'; expected one of sum, root, mean"),
        ("centred", {"unconditional": "x"}, "unconditional is 'x'"),
        ("reused", {"every": 0}, "every is 0"),
        ("reused", {"around": "x"}, "around is 'x'"),
        ("windowed", {"inside": "switch"}, "inside is 'switch'; expected one of composite, anchored, centred"),
        ("windowed", {"outside": "composite"}, "outside is 'composite'; expected one of merge, switch"),
        ("windowed", {"start": 0.7}, "from 0.7 to 0.4"),
        ("w-composite", {"form": "x"}, "form is 'x'"),
        ("w-switch", {"floor": -1.0}, "floor is -1.0"),
        ("w-composite", {"weights": 1.0}, "no parameter 'weights'"),
        ("layered", {"scenery": -1.0}, "scenery is -1.0"),
        ("layout", {}, "boxes are missing"),
        ("layout", {"boxes": ["castle 0 0 1"]}, "box 'castle 0 0 1': expected NAME TOP LEFT BOTTOM RIGHT"),
        ("layout", {"boxes": ["castle 0.5 0 0.5 1"]}, "box 'castle 0.5 0 0.5 1': expected NAME TOP"),
        ("layout", {"boxes": ["castle 0 0 1 nan"]}, "box 'castle 0 0 1 nan': expected NAME TOP"),
        ("layout", {"boxes": ["castle 0 0 1 1"], "overlap": "x"}, "overlap is 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(kind, parameters, message):
    with pytest.raises(EvaluationError, match=message):
        policy(kind, **parameters)


def test_concepts_are_the_things_of_layered(monkeypatch):
    told = []
    module: Any = ModuleType("layered")  # the real one needs ComfyUI
    module.layered = lambda *given: told.append(given[2:]) or (None, None)
    monkeypatch.setitem(sys.modules, "mixlora.mixlora_core.layered", module)
    stack = SimpleNamespace(entries=[SimpleNamespace(role=role) for role in ("concept", "", "style", "concept")])
    policy("layered", scenery=0.5).apply(None, None, stack)
    assert told == [(stack, [0, 3], 0.5)]


def test_steps_that_do_not_suffice():
    with pytest.raises(CompositionError, match="5 LoRAs cannot each have a turn in 4 steps"):
        policy("w-switch").check(5, 4)


def test_only_prompt_aware_policies_read_the_prompt():
    for kind in ("none", "merge", "switch", "composite", "anchored", "reused", "windowed"):
        made = policy(kind)
        assert made.reading("a hill") is made
    assert policy("w-switch").reading("a hill") != policy("w-switch").reading("a lake")
