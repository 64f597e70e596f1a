"""Other nodes between the sampler and the model: what they are told, and what is refused because of them."""

import pytest
import torch
from mixlora.mixlora_core.composition import Centred, Regional
from mixlora.mixlora_core.errors import CompositionError
from mixlora.mixlora_core.regions.masks import Regions
from mixlora.mixlora_core.stack import StyleStack

ADAPTERS = 3


@pytest.mark.parametrize("family", ["LoRA", "LoHa"])  # by rows, by swap
def test_other_nodes_learn_which_rows_are_of_the_positive_prompt(family, loras, compose, models, untouched):
    """IPAdapter takes its own keys for them by it, self-attention guidance looks for the negative ones."""
    stack = StyleStack().plus([(loras.save(f"n{seed}", family, seed=seed), 1.0, 0.0) for seed in range(ADAPTERS)])
    positive, negative = models.text(6), models.text(7)
    told = []

    def listen(q, k, v, options):
        assert len(options["cond_or_uncond"]) == len(k)
        for row, place in zip(k, options["cond_or_uncond"], strict=True):
            assert torch.equal(row, (positive, negative)[place][0][0][0])
            told.append(place)
        return q, k, v

    around = compose(StyleStack(stack.entries[:1]), Centred(1), "rows") if family == "LoRA" else None
    model = compose(stack, Centred(ADAPTERS), model=around)
    model.set_model_attn2_patch(listen)
    models.sample(model, positive, negative, steps=1)
    assert set(told) == {0, 1}


def tiled(model, at_once):
    """A clone whose latents go through the model in two halves, as tiled diffusion does it."""
    clone = model.clone()

    def halves(apply_model, args):
        latents, side = args["input"], args["input"].shape[-1] // 2
        parts = [latents[..., :side], latents[..., side:]]
        if not at_once:
            return torch.cat([apply_model(part, args["timestep"], **args["c"]) for part in parts], -1)
        twice = {
            key: torch.cat([value, value]) if isinstance(value, torch.Tensor) else value
            for key, value in args["c"].items()
        }
        made = apply_model(torch.cat(parts), torch.cat([args["timestep"]] * 2), **twice)
        return torch.cat(made.chunk(2), -1)

    clone.set_model_unet_function_wrapper(halves)
    return clone


def test_tiles_in_one_batch_are_refused_where_rows_would_be_mixed_up(three, compose, methods, models, untouched):
    model = tiled(compose(three, methods.Composite(ADAPTERS)), at_once=True)
    with pytest.raises(CompositionError, match=r"A batch of 12 rows came for 6 conditionings.*tiled diffusion"):
        models.sample(model, steps=1)


def test_tiles_one_by_one_are_as_good_as_whole(three, compose, methods, models, untouched):
    """Each tile by itself says whose rows are whose; and to weights all rows are alike."""
    rows, swap = (compose(three, methods.Composite(ADAPTERS), executor) for executor in ("rows", "swap"))
    one, other = models.sample(tiled(rows, at_once=False)), models.sample(tiled(swap, at_once=True))
    assert ((one - other).norm() / other.norm()).item() < 1e-5


def test_tiles_are_refused_where_masks_are_for_the_whole_picture(three, compose, models, untouched):
    masks = Regions(tuple(torch.rand(8, 8) for _ in range(ADAPTERS)))
    model = tiled(compose(three, Regional(ADAPTERS, masks)), at_once=False)
    with pytest.raises(CompositionError, match=r"A part of \(8, 4\) of the latent came.*all of its \(8, 8\)"):
        models.sample(model, steps=1)
