"""LoRAtorio on a real ComfyUI: who predicts what, at what cost, and its limits as other methods."""

from dataclasses import dataclass, field

import pytest
import torch


def far(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture
def overheard():
    """LoRAtorio that keeps what its fusion was given and gave."""
    from mixlora.mixlora_core.composition.loratorio import LoRAtorio

    @dataclass(frozen=True)
    class Overheard(LoRAtorio):
        heard: list = field(default_factory=list)

        def fuse(self, predictions, branches, moment):
            made = super().fuse(predictions, branches, moment)
            self.heard.append((list(predictions), list(branches), moment, made))
            return made

    return Overheard


def test_each_side_gets_the_base_and_every_adapter_with_its_own_text(three, compose, methods, models, sd15, overheard):
    """One Euler step gives the prediction itself without guidance, and u + cfg * (c - u) with it."""
    from mixlora.mixlora_core.execution import TEXT
    from mixlora.mixlora_core.stack import StyleStack

    texts = {text: [models.text(20 + (3 if text is None else text))[0][0], {}] for text in (0, 1, 2, None)}
    own = [[states, {TEXT: (text, 3)}] for text, (states, _) in texts.items()]
    composition = overheard(3, patch=2)
    result = models.sample(compose(three, composition), own, models.text(7), steps=1, cfg=3.0)
    (given, branches, moment, c), (_, hidden, _, u) = composition.heard
    assert {branch.side for branch in branches} == {"positive"} and {branch.side for branch in hidden} == {"negative"}
    out = sd15.model.process_latent_out
    assert far(result, out(u + 3 * (c - u))) < 1e-5
    assert moment.noisy.std() > 2  # still the noise
    for prediction, branch in zip(given, branches, strict=True):
        model, text = sd15, [texts[branch.text]]
        if branch.text is not None:
            model = compose(StyleStack((three.entries[branch.text],)), methods.Merge(1))
        assert far(out(prediction), models.sample(model, text, steps=1, cfg=1.0)) < 1e-5
    assert torch.isfinite(c).all() and all(far(c, one) > 1e-5 for one in given)


@pytest.mark.parametrize("executor", ["swap", "rows"])
def test_warm_and_without_anchor_it_is_composite(executor, three, compose, methods, models, overheard, untouched):
    composition = overheard(3, temperature=1e6, anchor=0.0)
    ours = models.sample(compose(three, composition, executor), steps=1, batch=2)
    assert far(ours, models.sample(compose(three, methods.Composite(3), executor), steps=1, batch=2)) < 1e-5


def test_one_adapter_without_guidance_is_load_lora(loras, compose, models, chained, sd15, overheard):
    from mixlora.mixlora_core.stack import StyleStack

    row = (loras.save("one", "LoRA", size=0.1, text=False), 0.7, 0.0)
    ours = models.sample(compose(StyleStack().plus([row]), overheard(1)), steps=2, cfg=1.0)
    assert far(ours, models.sample(chained(sd15, None, [row])[0], steps=2, cfg=1.0)) < 1e-5


def test_rows_of_a_step_are_those_that_the_testbed_counts(three, compose, models, sd15):
    from mixlora.evaluation.policies.loratorio import LoRAtorio

    seen = []
    counted = sd15.clone()
    counted.set_model_unet_function_wrapper(lambda run, args: seen.append(len(args["input"])) or args["input"] * 0.5)
    for asked in (LoRAtorio(), LoRAtorio(merged=True), LoRAtorio(anchor=1.0)):
        for guidance in (1.0, 4.0):
            seen.clear()
            models.sample(compose(three, asked.composition(3), model=counted), steps=2, cfg=guidance)
            rows = asked.evaluations(3, 2, guidance) * (1 if guidance == 1 else 2)
            assert sum(seen) == 2 * rows, (asked, guidance)


def test_a_text_for_the_base_is_the_plain_one(clip, loras, sd15):
    from mixlora.evaluation.policies.loratorio import LoRAtorio
    from mixlora.mixlora_core.execution import TEXT
    from mixlora.mixlora_core.stack import StyleStack
    from mixlora.mixlora_core.text import encode_per_adapter

    rows = [(loras.save(f"t{seed}", "LoRA", seed=seed, size=0.3), 1.0, 0.8) for seed in range(2)]
    stack = StyleStack().plus(rows)
    parts = LoRAtorio().apply(sd15, clip, stack)[1]("a hill")
    assert [fields[TEXT] for _, fields in parts] == [(0, 2), (1, 2), (None, 2)]
    ((plain, _),) = clip.encode_from_tokens_scheduled(clip.tokenize("a hill"))
    assert torch.equal(parts[2][0], plain) and not torch.equal(parts[0][0], plain)
    assert len(encode_per_adapter(clip, stack, "a hill")) == 2


def test_without_a_text_for_the_base_it_says_so(three, compose, models, overheard, untouched):
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.execution import TEXT

    own = [[models.text(index)[0][0], {TEXT: (index, 3)}] for index in range(3)]
    with pytest.raises(CompositionError, match="No conditioning is left for"):
        models.sample(compose(three, overheard(3)), own)
