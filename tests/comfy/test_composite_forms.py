"""Composite's forms in a live ComfyUI: what is run, what comes out of it, whose text each branch reads."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from mixlora.mixlora_core.composition import (
    Anchored,
    Centred,
    Composite,
    Merge,
    Reused,
    Switch,
    WeightedSwitch,
    Windowed,
)
from mixlora.mixlora_core.composition.scheduled import Scheduled, Window
from mixlora.mixlora_core.prompt.weighing import by_presence, by_relevance

ADAPTERS = 3


def far(one, other):
    return ((one - other).norm() / other.norm()).item()


def counted(model):
    """A clone, and the rows that it runs at each noise level, in the order of its calls' first."""
    rows, clone = defaultdict(int), model.clone()

    def count(apply_model, args):
        rows[round(args["timestep"][0].item(), 4)] += len(args["input"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(count)
    return clone, rows


@pytest.mark.parametrize(
    ("composition", "cfg", "expected"),
    [
        (Anchored(ADAPTERS), 2.0, [4, 4]),
        (Anchored(ADAPTERS), 5.0, [5, 5]),
        (Anchored(ADAPTERS), 1.0, [3, 3]),
        (Centred(ADAPTERS), 2.0, [5, 5]),
        (Reused(Centred(ADAPTERS), 2), 2.0, [6, 2]),
        (Windowed(Composite(ADAPTERS), Switch(ADAPTERS, 1), 0.0, 0.3), 2.0, [6, 2]),
    ],
)
def test_so_many_rows_are_run(composition, cfg, expected, three, compose, models):
    model, rows = counted(compose(three, composition, "rows"))
    models.sample(model, steps=2, cfg=cfg)
    assert list(rows.values()) == expected


@pytest.mark.parametrize("executor", ["swap", "rows"])
def test_centred_at_one_nth_is_composite(executor, three, compose, models, untouched):
    expected = models.sample(compose(three, Composite(ADAPTERS), executor), steps=1)
    centred = Centred(ADAPTERS, 1 / ADAPTERS, unconditional="each")
    assert far(models.sample(compose(three, centred, executor), steps=1), expected) < 1e-5
    assert far(models.sample(compose(three, Centred(ADAPTERS), executor), steps=1), expected) > 1e-3


def test_each_side_is_what_it_says(three, compose, models, untouched):
    """One Euler step gives u + cfg (c - u), and without guidance c alone: all parts can be measured apart."""
    positive, negative, cfg = models.text(6), models.text(7), 3.0

    def alone(prompt, coefficient, *entries):
        """The prediction of a merge of these entries, or of all."""
        stack = type(three)(entries or three.entries)
        merge = Scheduled(((Window(0, 1, coefficient),),) * len(stack.entries))
        return models.sample(compose(stack, merge, "rows"), prompt, prompt, steps=1, cfg=1.0)

    own = [alone(positive, 1.0, entry) for entry in three.entries]
    base, merge = alone(negative, 0.0), alone(negative, 1 / 3)
    c, u = sum(own) / 3, 0.75 * merge + 0.25 * base
    ours = models.sample(compose(three, Anchored(ADAPTERS, 0.25), "rows"), positive, negative, steps=1, cfg=cfg)
    assert far(ours, u + cfg * (c - u)) < 1e-5
    shown, u = alone(positive, 0.0), alone(negative, 0.8)
    c = shown + sum(0.8 * (one - shown) for one in own)
    ours = models.sample(compose(three, Centred(ADAPTERS, 0.8), "rows"), positive, negative, steps=1, cfg=cfg)
    assert far(ours, u + cfg * (c - u)) < 1e-5


def test_a_sampler_that_looks_ahead_finds_what_was_kept(three, compose, models, untouched):
    """Heun calls the model at every noise level but the first twice; both calls of a step run the same branches."""
    model, rows = counted(compose(three, Reused(Centred(ADAPTERS), 2), "rows"))
    models.sample(model, steps=3, sampler="heun")
    assert list(rows.values()) == [6, 4, 12]


def test_every_branch_reads_its_own_text(sd15, three, models):
    """Each adapter its part, base and merge the shared one; Composite leaves that out."""
    from mixlora.mixlora_core.compose import composed
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.execution import TEXT

    two = type(three)(three.entries[:2])
    texts = [models.text(20 + index)[0] for index in range(3)]
    own = [[states, {TEXT: (whose, 2)}] for (states, _), whose in zip(texts, (0, 1, None), strict=True)]

    def one_step(stack, composition, conditioning):
        return models.sample(composed(sd15, stack, composition, "rows"), conditioning, conditioning, steps=1, cfg=1.0)

    alone = [one_step(type(three)((entry,)), Merge(1), [text]) for entry, text in zip(two.entries, texts, strict=False)]
    base = models.sample(sd15, [texts[2]], [texts[2]], steps=1, cfg=1.0)
    assert far(one_step(two, Centred(2), own), base + sum(one - base for one in alone)) < 1e-5
    assert models.same_bits(one_step(two, Composite(2), own), one_step(two, Composite(2), own[:2]))
    with pytest.raises(CompositionError, match=r"for the base model or a merge, which are no LoRA's own"):
        one_step(two, Centred(2), own[:2])


def test_the_shared_text_is_the_plain_one(clip, three):
    from mixlora.mixlora_core.execution import TEXT
    from mixlora.mixlora_core.text import encode_per_adapter

    parts, shared = encode_per_adapter(clip, three, "a hill"), encode_per_adapter(clip, three, "a hill", shared=True)
    ((plain, _),) = clip.encode_from_tokens_scheduled(clip.tokenize("a hill"))
    assert [fields[TEXT] for _, fields in shared] == [(0, 3), (1, 3), (2, 3), (None, 3)]
    assert torch.equal(shared[3][0], plain) and len(parts) == 3


@pytest.mark.parametrize(("kind", "weigh"), [("w-switch", by_presence), ("w-composite", by_relevance)])
def test_a_policy_takes_its_weights_from_the_prompt(kind, weigh, clip, sd15, loras, monkeypatch):
    from mixlora.evaluation.methods import method, policy
    from mixlora.mixlora_core import compose
    from mixlora.mixlora_core.stack import StyleStack

    names = [
        loras.save(f"p{seed}", "LoRA", seed=seed, metadata={"modelspec.trigger_phrase": words})
        for seed, words in enumerate(("pink kite", "glowing lava"))
    ]
    stack, seen = StyleStack().plus([(name, 1.0, 1.0) for name in names]), []
    monkeypatch.setattr(compose, "composed", lambda model, stack, composition: seen.append(composition) or model)
    chosen = policy(method(kind, {"text": "base"}, 1.0))
    for prompt in ("a hill, pink kite", "a hill, glowing lava", "a hill"):
        model, encode = chosen.reading(prompt).apply(sd15, clip, stack)
        assert model is sd15 and encode(prompt)
        assert seen[-1].weights == weigh(clip, stack, prompt)
    assert len(set(seen)) == 3 if kind == "w-composite" else all(isinstance(told, WeightedSwitch) for told in seen)
