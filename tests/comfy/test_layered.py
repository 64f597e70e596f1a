"""Things over scenery: the formula on a live model, what it costs, the node and what it refuses."""

import pytest
from mixlora.mixlora_core.compose import composed
from mixlora.mixlora_core.composition import Centred
from mixlora.mixlora_core.errors import CompositionError
from mixlora.mixlora_core.layered import describe, layered, things_of
from mixlora.mixlora_core.mixing.weighted_mix import MixSettings, mix
from mixlora.mixlora_core.stack import StyleStack
from mixlora.nodes import ApplyLoRALayered


def far(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture
def merged(sd15, three, models):
    """One step's sample by a merge of some of three LoRAs; a step of Euler is linear in the prediction."""

    def sampled(*places, cfg=1.0):
        chosen = StyleStack(tuple(three.entries[place] for place in places))
        model = mix(sd15, None, chosen, MixSettings()).model if places else sd15
        return models.sample(model, steps=1, cfg=cfg)

    return sampled


def test_each_thing_is_added_to_the_merge_of_the_others(sd15, three, merged, models):
    made, _ = layered(sd15, None, three, [0, 2])
    expected = merged(1) + (merged(0, 1) - merged(1)) + (merged(2, 1) - merged(1))
    assert far(models.sample(made, steps=1, cfg=1.0), expected) < 1e-5
    assert far(merged(0, 1, 2), expected) > 1e-3


@pytest.mark.parametrize("things", [[], [1]])
def test_with_one_thing_or_none_it_is_the_merge(things, sd15, three, models):
    made, _ = layered(sd15, None, three, things)
    whole = mix(sd15, None, three, MixSettings()).model
    assert far(models.sample(made, steps=2, cfg=2.0), models.sample(whole, steps=2, cfg=2.0)) < 1e-5


def test_scenery_is_as_loud_as_asked(sd15, three, models):
    """At 0 it is silent, and all that is left are two things added."""
    made, _ = layered(sd15, None, three, [0, 2], scenery=0.0)
    things = StyleStack((three.entries[0], three.entries[2]))
    alone = models.sample(composed(sd15, things, Centred(2)), steps=2, cfg=2.0)
    assert far(models.sample(made, steps=2, cfg=2.0), alone) < 1e-5
    half, _ = layered(sd15, None, three, [0, 2], scenery=0.5)
    assert far(models.sample(half, steps=2, cfg=2.0), alone) > 1e-3


def test_two_things_cost_two_rows_more(sd15, three, models):
    rows = []
    made = layered(sd15, None, three, [0, 1])[0].clone()

    def count(apply_model, args):
        rows.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    made.set_model_unet_function_wrapper(count)
    models.sample(made, steps=2, cfg=2.0)
    assert sum(rows) == 2 * 4


def test_the_node_counts_places_from_one(sd15, clip, three, models):
    model, text, report = ApplyLoRALayered.execute(sd15, "3, 1", clip=clip, stack=three).args
    expected = models.sample(layered(sd15, None, three, [0, 2])[0], steps=2, cfg=2.0)
    assert far(models.sample(model, steps=2, cfg=2.0), expected) < 1e-6
    assert text is not clip and text.patcher.patches
    assert report.startswith("2 of 3 LoRAs are things") and "4 predictions a step" in report
    model, text, report = ApplyLoRALayered.execute(sd15, "", stack=three).args
    everyone = models.sample(composed(sd15, three, Centred(3)), steps=2, cfg=2.0)
    assert far(models.sample(model, steps=2, cfg=2.0), everyone) < 1e-6 and text is None


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ("4", "things are 4; expected different places in a stack of 3, from 1 to 3"),
        ("0", "things are 0; expected different places"),
        ("2, 2", "things are 2, 2; expected different places"),
        ("castle", "things: 'castle' is no LoRA of the stack; expected places such as 1, 3, or names such as "),
    ],
)
def test_the_node_refuses(things, message, sd15, three):
    with pytest.raises(CompositionError, match=message):
        ApplyLoRALayered.execute(sd15, things, stack=three)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", (0, 1, 2)),
        ("3 1", (2, 0)),
        ("three, one", (2, 0)),
        ("things/one.safetensors; 2", (0, 1)),
        ("a hot air balloon", (1,)),
    ],
)
def test_things_are_called_by_place_name_or_trigger_words(text, places, loras):
    balloon = {"modelspec.trigger_phrase": "a hot air balloon"}
    names = [loras.save("things/one"), loras.save("two", metadata=balloon), loras.save("three")]
    assert things_of(text, StyleStack().plus([(name, 1.0, 1.0) for name in names])) == places


def test_the_report_says_who_is_what(three):
    lines = describe(three, [0, 2]).splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in lines[1:]] == ["thing", "merged", "thing"]
    assert [three.entries[place].lora_name in line for place, line in enumerate(lines[1:])] == [True] * 3
    assert describe(three, [1]).startswith("All 3 LoRAs are merged")


@pytest.mark.parametrize("scenery", [-0.1, float("nan")])
def test_scenery_must_be_a_number(scenery, sd15, three):
    with pytest.raises(CompositionError, match="scenery is"):
        layered(sd15, None, three, [0], scenery)
