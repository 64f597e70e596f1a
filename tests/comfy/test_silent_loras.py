"""LoRAs with both strengths 0: they do nothing, and numbers, masks and places stay with those that they were for."""

import pytest
import torch
from mixlora.mixlora_core.composition import Regional
from mixlora.mixlora_core.errors import CompositionError
from mixlora.mixlora_core.layered import describe, things_of
from mixlora.mixlora_core.regions.masks import Regions
from mixlora.mixlora_core.stack import StyleStack, gather
from mixlora.nodes import ApplyLoRARegions
from mixlora.nodes.style_lora import LoadStyleLoRA


def half(side):
    mask = torch.zeros(8, 8)
    mask[:, side * 4 : side * 4 + 4] = 1.0
    return mask


def test_a_silent_lora_keeps_its_number(loras):
    """Whatever way it goes; its file need not be there, as rows for other packs may name any."""
    a, b, c = (loras.save(name) for name in "abc")
    stack, rows = None, []
    for name, strength in ((a, 0.0), (b, 0.5), ("nowhere", 0.0), (c, 1.0)):
        if name == "nowhere":
            stack = gather(stack, [(name, 0.0, 0.0)])
        else:
            stack, rows, *_ = LoadStyleLoRA.execute(name, strength, strength, stack=stack).args
    for one in (stack, gather(None, rows), gather(None, rows[:1]).continued(rows[1:]), gather(stack, None)):
        assert [entry.lora_name for entry in one.entries] == [b, c]
        assert one.numbers == (2, 4) and one.size == 4 and one.rows == rows
    assert stack.plus([(a, 1.0, 1.0)]).numbers == (2, 4, 5)


def test_a_mask_stays_with_its_lora_when_another_is_silent(sd15, three, compose, models):
    """The silent one's own mask does nothing, and is no reason to stop."""

    def regional(*masks):
        return compose(StyleStack(three.entries[1:]), Regional(2, Regions(masks, "share")))

    rows = [(three.entries[0].lora_name, 0.0, 0.0), *three.rows[1:]]
    first, second, third = (half(number % 2)[None] for number in (1, 2, 3))
    stack = gather(None, rows)
    model = ApplyLoRARegions.execute(sd15, "share", stack=stack, mask_1=first, mask_2=second, mask_3=third).args[0]
    expected = regional(half(0), half(1))
    assert torch.equal(models.sample(model, steps=1), models.sample(expected, steps=1))
    model = ApplyLoRARegions.execute(sd15, "share", lora_stack=rows, mask_1=half(0)).args[0]
    expected = regional(None, None)
    assert torch.equal(models.sample(model, steps=1), models.sample(expected, steps=1))


@pytest.mark.parametrize(
    ("text", "places"), [("1, 3", (0, 1)), ("3", (1,)), ("2", ()), ("one, two", (0,)), ("2, three", (1,)), ("", (0, 1))]
)
def test_a_silent_lora_keeps_its_place_and_is_no_thing(text, places, loras):
    names = [loras.save(name) for name in ("one", "two", "three")]
    stack = gather(None, [(names[0], 1.0, 1.0), (names[1], 0.0, 0.0), (names[2], 1.0, 1.0)])
    assert things_of(text, stack) == places
    lines = describe(stack, places).splitlines()
    assert lines[2:] == [
        "- 2. two.safetensors: silent, both strengths are 0",
        f"- 3. three.safetensors: {'thing' if 1 in places else 'merged'}, model 1, clip 1",
    ]
    with pytest.raises(CompositionError, match="things are 4; expected different places in a stack of 3"):
        things_of("4", stack)
