"""Plans: what is painted, in which order, with which noise; and everything wrong with a plan at once."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest
from mixlora.evaluation import methods, policies
from mixlora.evaluation.jobs import EvaluationError, Method
from mixlora.evaluation.plan import read_plan
from mixlora.evaluation.planned import ordered, spread
from mixlora.evaluation.testbeds import StandinTestbed
from mixlora.standin.weights import BASE

SETS = 'names = ["lighthouse + snow", "lighthouse + snow + monet"]'


@pytest.fixture(autouse=True)
def no_checkpoint_is_built(monkeypatch):
    monkeypatch.setattr(StandinTestbed, "checkpoint", lambda self, world: BASE)


@pytest.fixture
def plan(tmp_path):
    """Reads a plan from its text, on the stand-in unless it says otherwise."""

    def read(text, head='testbed = "standin"'):
        path = tmp_path / "plan.toml"
        path.write_text(f"{head}\n{text}", encoding="utf-8")
        return read_plan(path)

    return read


def test_a_plan_becomes_jobs_set_by_set(plan):
    made = plan(f"""
        seeds = [3, 4]
        [sets]
        {SETS}
        [sampling]
        steps = 7
        [methods.base]
        kind = "none"
        [methods."switch τ=2"]
        kind = "switch"
        every = 2
        strength = 0.5
        [methods."merge reversed, 9 steps"]
        kind = "merge"
        mode = "mean"
        order = "reversed"
        sampling = {{ steps = 9 }}
    """)
    jobs = made.jobs()
    assert [job.label for job in jobs[:3]] == ["base", "switch τ=2", "merge reversed, 9 steps"]
    assert [job.key for job in jobs] == [job.key for job in made.jobs()] and len({job.key for job in jobs}) == 12
    assert jobs[1].method == Method("switch", {"text": "own", "every": 2}, 0.5)
    assert jobs[2].method.parameters == {"mode": "mean", "total": 1.0, "limit": 0.0}
    assert [job.sampling.steps for job in jobs[:3]] == [7, 7, 9]
    assert jobs[2].set.elements == ("snow", "lighthouse") and jobs[0].set.elements == ("lighthouse", "snow")
    assert len(jobs[0].files) == 3 and jobs[2].files[1:] == jobs[0].files[:0:-1]
    noises = [{job.seed for job in group} for _, group in groupby(jobs, key=lambda job: job.prompt)]
    assert [len(seeds) for seeds in noises] == [2, 2] and not noises[0] & noises[1]
    assert {job.seed for job in jobs[:3]} == {jobs[0].seed}, "all methods paint the same noise"


def test_the_same_pictures_in_another_plan_have_the_same_keys(plan):
    one = plan(f'[sets]\n{SETS}\n[methods.a]\nkind = "switch"').jobs()
    other = plan('[sets]\nnames = ["lighthouse + snow"]\n[methods.c]\nkind = "switch"\nevery = 5').jobs()
    assert other[0].key == one[0].key and other[0].label != one[0].label


def test_adapters_alone_are_those_of_the_plans_sets(plan):
    method = "[methods.a]\nkind = 'none'"
    few = plan(f"[sets]\nsingles = true\n{SETS}\n{method}").sets
    assert {one.elements for one in few if one.size == 1} == {("lighthouse",), ("snow",), ("monet",)}
    assert len(plan(f"[sets]\nsingles = true\nnames = []\n{method}").sets) == 22


def test_everything_wrong_is_said_at_once(plan, tmp_path):
    with pytest.raises(EvaluationError) as caught:
        plan("""
            seeds = [1, 1]
            colour = "red"
            [sets]
            names = ["lighthouse + snow", "lighthouse + snwo", 7]
            order = "backwards"
            each = 0
            without = ["lighthous"]
            [[sets.custom]]
            elements = ["snow", "snow"]
            [[sets.custom]]
            name = "lighthouse + snow"
            elements = ["lighthouse", "monet"]
            [sampling]
            steps = 0
            cfg = "high"
            width = 100
            sampler = "euler"
            [folders]
            loras = "x"
            [methods.a]
            kind = "swich"
            [methods.b]
            kind = "switch"
            evry = 3
            [methods.c]
            kind = "merge"
            mode = "average"
            [methods.d]
            kind = "merge"
            limit = "none"
            strength = "1"
            [methods.e]
            order = "style-first"
            [methods.f]
            kind = "merge"
            [methods.g]
            kind = "merge"
            mode = "sum"
        """)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'plan.toml'}:")
    for part in (
        "seeds is [1, 1]",
        "'colour' is unknown",
        "set 'lighthouse + snwo' is unknown, did you mean 'lighthouse + snow'",
        "set 7 is no text",
        "[sets] order is 'backwards'",
        "each is 0",
        "names and each exclude each other",
        "element 'lighthous' is unknown, did you mean 'lighthouse'",
        "an element stands twice",
        "a set 'lighthouse + snow' exists already",
        "steps is 0; expected 1 or more",
        "cfg is 'high'; expected a number",
        "width is 100; expected a multiple of 8",
        "'sampler' is unknown, did you mean 'sampler_name'",
        "[folders]",
        "'a': kind 'swich' is unknown",
        "did you mean 'switch'",
        "'b': switch has no parameter 'evry', did you mean 'every'",
        "'c': mode is 'average'; expected one of sum, mean, root",
        "'d': limit is 'none'; expected a number",
        "'d': strength is '1'; expected a number",
        "'e': kind is missing",
        "'f' and 'g' are the same method",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("text", "head", "said"),
    [
        ("", 'testbed = "standin"', "no methods"),
        ("[sets]\nsizes = []\n[methods.a]\nkind = 'none'", 'testbed = "standin"', "no set is left"),
        ("[sets]\nsizes = [9]\n[methods.a]\nkind = 'none'", 'testbed = "standin"', "no set has 9 elements"),
        ("[methods.a]\nkind = 'none'", "", "testbed is missing"),
        ("[methods.a]\nkind = 'none'", "testbed = 'other'", "'other' is unknown"),
        ("[methods.a]\nkind = 'none'\n[methods.a]\nkind = 'merge'", "testbed = 'standin'", "not a readable TOML file"),
        ("[methods]\na = 3", 'testbed = "standin"', "expected a table"),
        (f"[sets]\n{SETS}\n[methods.a]\nkind = 'switch'\nevery = -1", 'testbed = "standin"', "switch_every is -1"),
        (
            f"[sets]\n{SETS}\n[methods.a]\nkind = 'merge'\nstrength = nan",
            'testbed = "standin"',
            "expected a finite number",
        ),
        (
            "[sets]\nsingles = true\n[[sets.custom]]\nname = 'snow'\nelements = ['monet']\n[methods.a]\nkind = 'none'",
            'testbed = "standin"',
            "a set 'snow' exists already",
        ),
        (
            f"[sets]\n{SETS}\n[sampling]\nsteps = 2\n[methods.a]\nkind = 'switch'\nevery = 0",
            'testbed = "standin"',
            "3 LoRAs cannot each have a turn in 2 steps",
        ),
    ],
)
def test_plans_that_cannot_be(plan, text, head, said):
    with pytest.raises(EvaluationError, match=said):
        plan(text, head)


def test_missing_files_are_all_named(plan, monkeypatch, tmp_path):
    monkeypatch.setattr("mixlora.standin.weights.FOLDER", tmp_path)
    with pytest.raises(EvaluationError) as caught:
        plan(f"[sets]\n{SETS}\n[methods.a]\nkind = 'none'")
    assert all(f"{name}.safetensors is missing" in str(caught.value) for name in ("lighthouse", "snow", "monet"))
    assert str(caught.value).count("is missing") == 3
    with pytest.raises(EvaluationError, match="not a readable TOML"):
        read_plan(tmp_path / "absent.toml")


def test_custom_sets_may_mix_worlds_and_categories(plan):
    made = plan("""
        [[sets.custom]]
        name = "two styles"
        elements = ["monet", "ghibli"]
        [methods.a]
        kind = "merge"
    """)
    assert [(one.name, one.elements, one.world) for one in made.sets] == [
        ("two styles", ("monet", "ghibli"), "north and south")
    ]
    assert made.jobs()[0].prompt.endswith(", monet style, studio ghibli style")


def test_the_worlds_of_composlora_do_not_mix(plan, tmp_path):
    with pytest.raises(EvaluationError) as caught:
        plan(
            '[[sets.custom]]\nelements = ["Son Goku", "Umbrella"]\n[methods.a]\nkind = "swich"',
            'testbed = "composlora"\n[folders]\nloras = "."',
        )
    said = str(caught.value)
    assert "[[sets.custom]] 1: anime and reality: ComposLoRA's two worlds have no common checkpoint" in said
    assert "kind 'swich' is unknown" in said


def test_a_spread_is_even_and_a_larger_one_contains_it():
    testbed = StandinTestbed()
    few, more = spread(testbed.sets, 6), spread(testbed.sets, 24)
    assert Counter(one.size for one in few) == dict.fromkeys((2, 3, 4, 5), 6)
    assert Counter((one.world, one.size) for one in few) == dict.fromkeys(
        ((world, size) for world in ("north", "south") for size in (2, 3, 4, 5)), 3
    )
    assert set(few) < set(more) and few == tuple(one for one in testbed.sets if one in few)
    used = Counter(name for one in spread(testbed.sets, 12) for name in one.elements)
    assert set(used) == set(testbed.elements)
    for category in testbed.categories:
        counts = [used[name] for name, one in testbed.elements.items() if one.category == category]
        assert max(counts) - min(counts) <= 4, category
    assert spread(testbed.sets, 1000) == testbed.sets


def test_orders():
    testbed = StandinTestbed()
    chosen = next(one for one in testbed.sets if one.name == "lighthouse + snow + monet + lavender")
    assert ordered(testbed, chosen, "reversed").elements == chosen.elements[::-1]
    assert ordered(testbed, chosen, "style-first").elements == ("monet", "lighthouse", "snow", "lavender")
    drawn = ordered(testbed, chosen, "shuffled")
    assert sorted(drawn.elements) == sorted(chosen.elements) and drawn == ordered(testbed, drawn, "shuffled")
    assert drawn.name == chosen.name
    firsts = Counter(ordered(testbed, one, "shuffled").elements[0] == one.elements[0] for one in testbed.sets)
    assert 80 < firsts[True] < 200


def test_a_new_kind_is_one_entry(monkeypatch, plan):
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Louder(policies.Merge):
        factor: float = 2.0

    monkeypatch.setitem(policies.KINDS, "louder", Louder)
    job = plan(f"[sets]\n{SETS}\n[methods.a]\nkind = 'louder'\nfactor = 3").jobs()[0]
    assert job.method.parameters == {"mode": "sum", "total": 1.0, "limit": 0.0, "factor": 3.0}
    assert methods.policy(job.method) == Louder(factor=3.0)
