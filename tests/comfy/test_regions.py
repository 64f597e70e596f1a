"""Regions on a live model: the formulas, the parity with compositions without regions, and what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

LAYERS = ("attn1", "attn2", "ff_net", "proj_in", "proj_out", "resnets", "samplers", "time_emb", "conv_in", "conv_out")


def far(one, other):
    return ((one - other).norm() / other.norm()).item()


def half(side, height=8, width=8):
    """A mask of the left (0) or right (1) half."""
    mask = torch.zeros(height, width)
    mask[:, width // 2 * side : width // 2 * (side + 1)] = 1
    return mask


@pytest.fixture
def stack(sd15, loras):
    """A stack of files that touch every layer of the UNet whose name has one of some parts."""
    from mixlora.mixlora_core import execution
    from mixlora.mixlora_core.stack import StyleStack

    def make(count, *parts, model=sd15, strength=0.8, size=0.3):
        target = execution.unet_target(model)
        rows = []
        for number in range(count):
            generator, tensors, keys = torch.Generator().manual_seed(number), {}, set()
            for name, key in target.names.items():
                shape: Any = target.shape_at(key) or ()
                if not name.startswith("lora_unet_") or key in keys or len(shape) not in (2, 4):
                    continue
                if any(part in name for part in parts or LAYERS):
                    keys.add(key)
                    down = torch.randn(2, *shape[1:], generator=generator)
                    up = torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=generator)
                    tensors[f"{name}.lora_down.weight"] = down * (size / down[0].numel() ** 0.5)
                    tensors[f"{name}.lora_up.weight"] = up * size
            assert tensors, parts
            rows.append((loras.save(f"r{number}", tensors), strength, 0.0))
        return StyleStack().plus(rows)

    return make


@pytest.fixture
def regional(compose):
    """A model whose LoRAs have these masks, or masks from attention."""
    from mixlora.mixlora_core.composition import Regional
    from mixlora.mixlora_core.regions.masks import SUM, Regions

    def make(stacked, *masks, overlap=SUM, wish=None, **options):
        return compose(stacked, Regional(len(stacked.entries), wish or Regions(masks, overlap)), **options)

    return make


def parts(stacked):
    return [type(stacked)((entry,)) for entry in stacked.entries]


@pytest.mark.parametrize("layers", [(), ("attn2",), ("time_emb",), ("resnets", "samplers")])
def test_masks_of_ones_change_nothing(layers, stack, regional, compose, methods, models, untouched):
    """Every kind of layer, odd sizes: the same as the merge in rows."""
    two = stack(2, *layers)
    latent = torch.randn(2, 4, 9, 7, generator=torch.Generator().manual_seed(3))
    paint = lambda model: models.sample(model, steps=2, latent=latent)  # noqa: E731
    merged = paint(compose(two, methods.Merge(2), "rows"))
    assert far(merged, paint(untouched)) > 1e-4
    assert far(paint(regional(two, torch.ones(5, 3), None)), merged) < 1e-5
    assert not any(module._forward_pre_hooks for module in untouched.model.modules())


def test_in_the_last_layer_each_half_is_its_own_lora_alone(stack, regional, compose, methods, models, untouched):
    """One Euler step is linear in the prediction; masks have different sizes."""
    two = stack(2, "conv_out", "out_2", size=1.0)
    ours = models.sample(regional(two, half(0, 4, 2), half(1, 64, 48)), steps=1)
    first, second = (models.sample(compose(one, methods.Merge(1), "rows"), steps=1) for one in parts(two))
    assert far(ours[..., :4], first[..., :4]) < 1e-5 and far(ours[..., 4:], second[..., 4:]) < 1e-5
    assert far(first, second) > 1e-2


def test_soft_masks_scale_and_overlaps_are_shared(stack, regional, compose, methods, models):
    """Constant masks are coefficients: 0.25 and 1 of the strengths; two of 1 shared are a half each."""
    from dataclasses import replace

    two = stack(2, "attn", "resnets")
    quarter = type(two)((replace(two.entries[0], strength_model=0.2), two.entries[1]))
    expected = models.sample(compose(quarter, methods.Merge(2), "rows"), steps=1)
    assert far(models.sample(regional(two, torch.full((2, 2), 0.25), None), steps=1), expected) < 1e-5
    halves = type(two)(tuple(replace(entry, strength_model=0.4) for entry in two.entries))
    expected = models.sample(compose(halves, methods.Merge(2), "rows"), steps=1)
    shared = regional(two, torch.ones(3, 3), torch.ones(1, 1), overlap="share")
    assert far(models.sample(shared, steps=1), expected) < 1e-5


def test_every_picture_of_a_batch_has_its_own_mask(stack, regional, models, untouched):
    two = stack(2)
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    masks = torch.stack([half(0), half(1)]), torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(4))
    both = models.sample(regional(two, *masks), steps=2, latent=latent)
    for index in range(2):
        alone = regional(two, *(mask[index] for mask in masks))
        alone = models.sample(alone, steps=2, latent=latent[index : index + 1])
        assert far(both[index : index + 1], alone) < 1e-4
    assert far(both[:1], models.sample(regional(two, None, masks[1][0]), steps=2, latent=latent[:1])) > 1e-4


def test_an_area_of_the_prompt_sees_its_part_of_the_mask(stack, regional, compose, methods, models):
    two = stack(2)
    right = models.text(6, area=(8, 4, 0, 4), strength=1.0, set_area_to_bounds=False)
    paint = lambda model: models.sample(model, right, steps=1, cfg=1.0)  # noqa: E731
    expected = paint(compose(parts(two)[1], methods.Merge(1), "rows"))
    assert far(paint(regional(two, half(0), half(1))), expected) < 1e-5


def test_sdxl_in_half_precision(sdxl, stack, regional, compose, methods, models):
    """Its transformers have linear projections in and out, and several blocks each."""
    two = stack(2, "attn", "ff_net", "proj", model=sdxl)
    texts = [models.text(seed, 2048, pooled_output=torch.zeros(1, 1280)) for seed in (6, 7)]
    merged = models.sample(compose(two, methods.Merge(2), "rows", sdxl), *texts, steps=1)
    ours = models.sample(regional(two, torch.ones(2, 2), torch.ones(3, 3), model=sdxl), *texts, steps=1)
    assert far(ours, merged) < 5e-3  # fp16


def named(models, *positions, seed=6):
    from mixlora.mixlora_core.execution import WORDS

    return models.text(seed, **{WORDS: positions})


def test_masks_of_a_run_from_words_that_are_seen_alike(stack, regional, compose, methods, models, untouched):
    """Both adapters are named by one word: everyone has a half, so the run is the merge at half strength."""
    from dataclasses import replace

    from mixlora.mixlora_core.regions.attention_masks import FromAttention

    two = stack(2, "attn")
    halves = type(two)(tuple(replace(entry, strength_model=0.4) for entry in two.entries))
    expected = models.sample(compose(halves, methods.Merge(2), "rows"), steps=2, batch=2)
    model = regional(two, wish=FromAttention(listen=0.5))
    ours = models.sample(model, named(models, (3,), (3,)), steps=2, batch=2)
    assert far(ours, expected) < 1e-5


def test_masks_of_a_run_are_found_once_and_anew_in_the_next(stack, regional, models, monkeypatch):
    from mixlora.mixlora_core.regions.attention_masks import FromAttention

    seen = []
    regions = FromAttention.regions
    monkeypatch.setattr(FromAttention, "regions", lambda *args: seen.append(regions(*args)) or seen[-1])
    model = regional(stack(2, "attn2"), wish=FromAttention(listen=0.5, smooth=0.0))
    prompts = named(models, (3,), (5, 6)), named(models, (30,), (40,))
    first, second, again = (models.sample(model, prompts[one], steps=2, sampler="heun") for one in (0, 1, 0))
    assert torch.equal(first, again) and far(first, second) > 1e-6
    assert len(seen) == 3
    masks = seen[0].masks
    assert masks[0].shape == (1, 8, 8) and torch.allclose(masks[0] + masks[1], torch.ones(1, 8, 8).double())
    assert masks[0].std() > 0.05 and torch.equal(masks[0], seen[2].masks[0])


def test_an_adapter_without_words_speaks_everywhere(stack, regional, compose, methods, models, caplog):
    from mixlora.mixlora_core.regions.attention_masks import FromAttention

    two = stack(2, "attn1")
    ours = models.sample(regional(two, wish=FromAttention(listen=0.01)), named(models, (3,), ()), steps=1)
    assert torch.isfinite(ours).all() and not caplog.text  # a run of one step only listens
    models.sample(regional(two, wish=FromAttention(listen=0.01)), named(models, (3,), ()), steps=2)
    assert "does not name LoRA 2, which speaks everywhere" in caplog.text


def test_what_cannot_have_regions_says_so(stack, regional, loras, models, sd15, untouched):
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.regions.attention_masks import FromAttention
    from mixlora.mixlora_core.stack import StyleStack

    two, wish = stack(2, "attn"), FromAttention()
    loha = StyleStack().plus([(loras.save("loha", "LoHa"), 1.0, 0.0)])
    with pytest.raises(CompositionError, match="'swap' makes weights the same everywhere"):
        regional(two, half(0), None, executor="swap")
    with pytest.raises(CompositionError, match="a LoRA is not plain low-rank"):
        regional(loha, half(0))
    with pytest.raises(CompositionError, match="masks are for 3 pictures, the batch has 2"):
        models.sample(regional(two, torch.ones(3, 4, 4), None), batch=2)
    with pytest.raises(CompositionError, match="does not say which of its words name which LoRA"):
        models.sample(regional(two, wish=wish))
    with pytest.raises(CompositionError, match="looked up for a stack of 1 LoRAs, this one has 2"):
        models.sample(regional(two, wish=wish), named(models, (3,)))
    with pytest.raises(CompositionError, match="already has a composition with regions"):
        models.sample(regional(two, half(0), None, model=regional(two, half(1), None)))
    with pytest.raises(CompositionError, match="is no UNet"):
        other = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1)))
        from mixlora.mixlora_core.execution.placed import for_regions

        for_regions("rows", other, True)


def test_nodes_that_regions_cannot_stand_with_are_named(stack, regional, models, untouched):
    from mixlora.mixlora_core.errors import CompositionError

    model = regional(stack(2, "attn"), half(0), half(1))
    replaced, doubled = model.clone(), model.clone()
    replaced.set_model_attn2_replace(lambda q, k, v, options: q, "middle", 0)
    with pytest.raises(CompositionError, match=r"replaces the cross-attention diffusion_model\.middle_block\.1"):
        models.sample(replaced, steps=1)
    doubled.set_model_attn1_patch(lambda n, context, value, options: (n, *[torch.cat([context, context], 1)] * 2))
    with pytest.raises(CompositionError, match="Another node adds, merges or tiles tokens"):
        models.sample(doubled, steps=1)


def test_a_composition_must_say_that_it_has_regions(stack, compose, methods, models):
    from mixlora.mixlora_core.composition import Branch
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.regions.masks import Regions

    class Silent(methods.Merge):
        def branches(self, step, steps, guidance=1.0):
            return (Branch((1.0,) * 2, regions=Regions((None, None))),)

    with pytest.raises(CompositionError, match="does not say that it is `regional`"):
        models.sample(compose(stack(2, "attn1"), Silent(2), "swap"), steps=1)


def test_the_node_applies_masks(sd15, clip, three, regional, models):
    from mixlora.nodes import ApplyLoRARegions

    model, text = ApplyLoRARegions.execute(
        sd15, "share", clip=clip, stack=three, mask_1=half(0)[None], mask_3=half(1)[None]
    ).args
    expected = regional(three, half(0), None, half(1), overlap="share")
    assert torch.equal(models.sample(model, steps=1), models.sample(expected, steps=1))
    assert text is not clip and text.patcher.patches
    assert ApplyLoRARegions.execute(sd15, "sum", stack=three, mask_1=half(0)).args[1] is None


def test_masks_from_the_prompt_know_its_words(sd15, clip, loras, models, caplog):
    from mixlora.mixlora_core.regions.attention_masks import FromAttention
    from mixlora.mixlora_core.regions.regional import from_prompt
    from mixlora.mixlora_core.stack import StyleStack

    files = [
        loras.save(name, seed=seed, size=0.1, metadata={"modelspec.trigger_phrase": f"{name} style"})
        for seed, name in enumerate(("monet", "lava"))
    ]
    stacked = StyleStack().plus([(name, 1.0, 1.0) for name in files])
    prompt = "a hill in monet style, glowing lava"
    model, positive, text = from_prompt(sd15, clip, stacked, prompt, FromAttention(0.3, 0.5, 1.0))
    assert positive[0][1]["mixlora_words"] == ((4,), (8,))  # after the start: a hill in monet style , glowing lava
    assert text.patcher.patches
    wide = [[torch.randn(1, 77, 768), positive[0][1]]]  # the tiny CLIP is narrower than the UNet
    assert torch.isfinite(models.sample(model, wide, steps=3)).all() and "does not name" not in caplog.text


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "No mask is connected"),
        ({"mask_4": half(0)}, "mask_4 is connected, but the stack has 3 LoRAs"),
        ({"mask_2": torch.zeros(1, 64, 64)}, "mask of LoRA 2 is 0 everywhere"),
    ],
)
def test_the_node_refuses(masks, message, sd15, three):
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.nodes import ApplyLoRARegions

    with pytest.raises(CompositionError, match=message):
        ApplyLoRARegions.execute(sd15, "sum", stack=three, **masks)


def test_the_policy_of_the_testbed(sd15, clip, three, models):
    from mixlora.evaluation import methods
    from mixlora.evaluation.jobs import EvaluationError

    chosen = methods.method("regions", {"listen": 0.5, "text": "base"}, 1.0)
    model, encode = methods.policy(chosen).apply(sd15, clip, three)
    positions = encode("s0, s2 on a hill")[0][1]["mixlora_words"]
    assert [bool(at) for at in positions] == [True, False, True]
    assert torch.isfinite(models.sample(model, named(models, *positions), steps=2)).all()
    for parameters, message in (({"listen": 1.0}, "listen is 1.0"), ({"text": "own"}, "text is 'own'")):
        with pytest.raises(EvaluationError, match=message):
            methods.method("regions", parameters, 1.0)
