"""The prompt, encoded once for each LoRA, and each branch's use of its own."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it


@pytest.fixture
def stacked(loras):
    from mixlora.mixlora_core.stack import StyleStack

    def make(*texts, strength_clip=0.8):
        rows = [
            (loras.save(f"t{seed}{text}", "LoRA", seed=seed, size=0.3, text=text), 1.0, strength_clip)
            for seed, text in enumerate(texts)
        ]
        return StyleStack().plus(rows)

    return make


def encode(clip, stack, text="a hill at sunset"):
    from mixlora.nodes.encode_text import EncodeTextPerLoRA

    return EncodeTextPerLoRA.execute(clip, text, stack=stack).result[0]


def plainly(clip, text="a hill at sunset"):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def test_each_part_is_that_of_lora_loader(clip, stacked, chained, sd15):
    stack = stacked(True, True)
    *parts, (shared, _) = encode(clip, stack)
    assert len(parts) == 2 and torch.equal(shared, plainly(clip)[0][0])
    for (states, fields), row in zip(parts, stack.rows, strict=True):
        alone = chained(sd15, clip, [row])[1]
        ((expected, others),) = plainly(alone)
        assert torch.equal(states, expected)
        assert torch.equal(fields["pooled_output"], others["pooled_output"])
    assert not torch.equal(parts[0][0], parts[1][0])
    assert torch.equal(plainly(clip)[0][0], plainly(clip)[0][0]) and not clip.patcher.patches


def test_loras_without_a_text_part_share_the_plain_text(clip, stacked):
    parts = encode(clip, stacked(False, True, False))
    ((plain, _),) = plainly(clip)
    assert torch.equal(parts[0][0], plain) and parts[0][0] is parts[2][0] and parts[0][0] is parts[3][0]
    assert not torch.equal(parts[1][0], plain)
    silent = encode(clip, stacked(True, True, strength_clip=0.0))
    assert all(torch.equal(states, plain) for states, _ in silent)


@pytest.mark.parametrize("method", ["Switch", "Composite"])
def test_each_branch_reads_its_own_text(method, sd15, stacked, models):
    """Composite: the mean over runs with one LoRA and its own text. Switch: the LoRAs and texts in turn."""
    from mixlora.mixlora_core import composition
    from mixlora.mixlora_core.compose import composed
    from mixlora.mixlora_core.execution import TEXT

    stack = stacked(False, False)
    texts = [models.text(20 + index)[0] for index in range(2)]
    own = [[states, {TEXT: (index, 2)}] for index, (states, _) in enumerate(texts)]
    model = composed(sd15, stack, getattr(composition, method)(2, *((1,) if method == "Switch" else ())))
    alone = [
        composed(sd15, type(stack)((entry,)), composition.Merge(1), "rows" if method == "Composite" else "swap")
        for entry in stack.entries
    ]
    if method == "Composite":
        parts = [models.sample(one, [text], steps=1) for one, text in zip(alone, texts, strict=True)]
        expected = (parts[0] + parts[1]) / 2  # one Euler step is linear in the prediction
        ours = models.sample(model, own, steps=1)
    else:
        half = models.sample(alone[0], [texts[0]], steps=2, last_step=1)
        expected = models.sample(alone[1], [texts[1]], steps=2, latent=half, start_step=1, force_full_denoise=True)
        ours = models.sample(model, own, steps=2)
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-5


def test_text_for_another_stack_is_refused(clip, sd15, stacked, models):
    from mixlora.mixlora_core.compose import composed
    from mixlora.mixlora_core.composition import Composite
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.execution import TEXT

    own = [[models.text(3)[0][0], {TEXT: (0, 3)}]]
    with pytest.raises(CompositionError, match="encoded for a stack of 3 LoRAs, this one has 2"):
        models.sample(composed(sd15, stacked(False, False), Composite(2)), own)


def test_a_missing_part_of_the_text_is_an_error(sd15, stacked, models):
    """Rows would predict from nothing, swap from zeros: both without a word."""
    from mixlora.mixlora_core.compose import composed
    from mixlora.mixlora_core.composition import Composite
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.execution import TEXT

    own = [[models.text(3)[0][0], {TEXT: (0, 2)}]]
    for executor in ("rows", "swap"):
        with pytest.raises(CompositionError, match="No conditioning is left for LoRA 2 of the stack"):
            models.sample(composed(sd15, stacked(False, False), Composite(2), executor), own)


@pytest.mark.parametrize("which", ["positive", "negative", "both"])
@pytest.mark.parametrize("mode", ["average", "full strength"])
def test_composite_takes_what_the_node_encodes(mode, which, clip, sd15, stacked, models):
    """In full strength the base model and the merge are no LoRA's own: they read the text as the CLIP itself does."""
    from mixlora.nodes import ApplyLoRAComposite

    stack = stacked(True, True)
    model = ApplyLoRAComposite.execute(sd15, "", mode, stack=stack).result[0]
    plain, encoded = plainly(clip), encode(clip, stack)

    def sampled(*conditionings):
        wide = [[[F.pad(states, (0, 704)), fields] for states, fields in one] for one in conditionings]  # tiny CLIP's
        return models.sample(model, *wide, steps=2)

    own = sampled(*(encoded if which in (side, "both") else plain for side in ("positive", "negative")))
    alike = [[plain[0][0], fields] for _, fields in encoded]
    assert models.same_bits(sampled(alike, alike), sampled(plain, plain))
    assert not models.same_bits(own, sampled(plain, plain)) or (mode, which) == ("full strength", "negative")
