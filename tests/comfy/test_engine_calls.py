"""Calls of the model beside the sampler's own: each finds what was kept for it, and whose prompt its lists are."""

import comfy.context_windows as windows
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from mixlora.mixlora_core.composition import Centred, Composite, Merge, Reused, Switch, Windowed
from mixlora.mixlora_core.stack import StyleStack

ADAPTERS = 3
FULL = Reused(Centred(ADAPTERS), 3)


def far(one, other):
    return ((one - other).norm() / other.norm()).item()


def test_another_guidance_does_not_touch_what_was_kept(three, compose, models, untouched):
    """It asks for the positive prompt once more a step, with other attention, in a list of its own."""
    model = compose(three, FULL)
    guided = PerturbedAttentionGuidance.execute(model, 1e-9).result[0]
    assert far(models.sample(guided), models.sample(model)) < 1e-5


def test_two_other_guidances_keep_apart(three, compose, models, untouched):
    """Both ask alike, only their attention differs: one's difference would go to the other."""

    def guided(model, *patches):
        for patch in patches:
            model = patch(model)
        return model

    def blurring(model):
        def blurred(q, k, v, extra_options, mask=None):
            return v.mean(1, keepdim=True).expand_as(v)

        def more(args):
            options = comfy.model_patcher.set_model_options_patch_replace(
                args["model_options"].copy(), blurred, "attn1", "middle", 0
            )
            (other,) = comfy.samplers.calc_cond_batch(
                args["model"], [args["cond"]], args["input"], args["sigma"], options
            )
            seen.append(other)
            return args["denoised"]

        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(more)
        return clone

    def perturbing(model):
        return PerturbedAttentionGuidance.execute(model, 1e-9).result[0]

    told = []
    for patches in ((blurring,), (blurring, perturbing)):
        seen = []
        models.sample(guided(compose(three, FULL), *patches))
        told.append(torch.cat(seen))
    assert far(told[1], told[0]) < 1e-5


@pytest.mark.parametrize("composition", [FULL, Centred(ADAPTERS)], ids=["reused", "centred"])
def test_windows_are_as_good_as_runs_of_their_own(composition, three, compose, models, untouched):
    """Context windows ask for one part of the latent after the other, with lists that are copies of the guider's."""
    model = compose(three, composition)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    alone = torch.cat([models.sample(model, latent=part) for part in latent.chunk(2, 3)], 3)
    windowed = model.clone()
    windowed.model_options["context_handler"] = windows.IndexListContextHandler(
        windows.get_matching_context_schedule("standard_static"),
        windows.get_matching_fuse_method("flat"),
        context_length=4,
        dim=3,
    )
    assert far(models.sample(windowed, latent=latent), alone) < 1e-5


@pytest.mark.parametrize("outer", [Composite(2), Switch(2, 1), Centred(2), Reused(Centred(2), 2)], ids=repr)
@pytest.mark.parametrize("inner", [Centred(ADAPTERS), FULL], ids=["centred", "reused"])
def test_a_composition_within_another_knows_the_negative_prompt(outer, inner, three, compose, models, loras, untouched):
    """With outer LoRAs of strength 0 the inner one must do what it does alone."""
    silent = StyleStack().plus([(loras.save(f"o{seed}", "LoRA", seed=seed), 0.0, 1.0) for seed in (5, 6)])
    both = compose(three, inner, model=compose(silent, outer, "rows"))
    assert far(models.sample(both), models.sample(compose(three, inner))) < 1e-5


def lowering(model, rows):
    """A clone that tells the model the next step's noise level, as nodes do for more detail; notes its calls' rows."""
    clone = model.clone()

    def lower(execute, x, timestep, options, *args, **kwargs):
        levels = options["transformer_options"]["sample_sigmas"].tolist()
        timestep = torch.full_like(timestep, max(level for level in levels if level < timestep.max() * 0.999))
        return execute(x, timestep, options, *args, **kwargs)

    def count(apply_model, args):
        rows.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "lower", lower)
    clone.set_model_unet_function_wrapper(count)
    return clone


def test_a_run_whose_first_call_is_in_a_later_step_renews_at_once(three, compose, models, untouched):
    rows = []
    reused, centred = (lowering(compose(three, one), rows) for one in (FULL, Centred(ADAPTERS)))
    part = {"steps": 5, "last_step": 1}
    assert far(models.sample(reused, **part), models.sample(centred, **part)) < 1e-5
    rows.clear()
    models.sample(reused, steps=5, last_step=4)  # steps 1 (the anchor in vain, then all), 2 (kept), 3, 3 (anew)
    assert rows == [2, 6, 2, 6, 6]


def test_each_part_of_a_windowed_run_renews_at_once(three, compose, models, untouched):
    rows = []
    model = lowering(compose(three, Windowed(FULL, Merge(ADAPTERS), 0.0, 0.7)), rows)
    models.sample(model, steps=4, last_step=3)
    assert rows == [2, 6, 2, 2]


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_a_default_conditioning_has_the_rest_of_the_picture_in_every_branch(weights, three, compose, models, untouched):
    """ComfyUI takes the others' masks from its share, which all branches' together would use up N times."""
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 0.5
    positive = [*models.text(6, mask=mask, set_area_to_bounds=False), *models.text(8, default=True)]
    two = StyleStack(three.entries[:2])
    alone = [
        models.sample(compose(StyleStack((entry,)), Merge(1), "rows"), positive, steps=1, cfg=2.0)
        for entry in two.entries
    ]
    first, second = weights or (1.0, 1.0)
    expected = (first * alone[0] + second * alone[1]) / (first + second)
    ours = models.sample(compose(two, Composite(2, weights), "rows"), positive, steps=1, cfg=2.0)
    assert far(ours, expected) < 1e-5


def test_a_run_without_a_step_changes_nothing(three, compose, sd15, models, untouched):
    """One noise level is none to go to, hence nothing that automatic turns could be too few for."""
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def sampled(model):
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([3.0])
        texts = models.text(6), models.text(7)
        return comfy.sample.sample_custom(
            model, torch.zeros_like(latent), 2.0, sampler, sigmas, *texts, latent, disable_pbar=True, seed=1
        )

    assert models.same_bits(sampled(compose(three, Switch(ADAPTERS, 0))), sampled(sd15))
