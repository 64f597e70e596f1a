"""A router on a live ComfyUI: what it equals, what it reads, what it refuses, and that nothing stays behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mixlora.mixlora_core.errors import CompositionError, RouterError, StrengthError
from mixlora.mixlora_core.files.hashes import of_file
from mixlora.mixlora_core.routing import router_file
from mixlora.mixlora_core.routing.region_map import Trace, region_map
from mixlora.mixlora_core.routing.routed import routed, routed_by
from mixlora.mixlora_core.routing.router import FIRST, MIXINGS, SECOND, feed_forwards
from mixlora.mixlora_core.routing.router_file import Expert, Head
from mixlora.mixlora_core.stack import StyleStack
from mixlora.nodes import ApplyLoRARouter
from mixlora.training.export import file_prefixes
from safetensors.torch import load_file

LAMBDAS = (0.7, 1.1)
ENDS = (FIRST, SECOND)


def ff_tensors(model, seed):
    """A LoRA of all feed-forward layers, with ranks that differ from file to file."""
    source = torch.Generator().manual_seed(seed)
    layers = feed_forwards(model.model.diffusion_model).items()
    linears: dict[str, Any] = {f"{name}.{end}": layer.get_submodule(end) for name, layer in layers for end in ENDS}
    tensors = {}
    for name, prefix in file_prefixes(linears, model.model.model_config.unet_config).items():
        out, into = linears[name].weight.shape
        tensors[f"{prefix}.lora_up.weight"] = torch.randn(out, 2 + seed, generator=source) * 0.2
        tensors[f"{prefix}.lora_down.weight"] = torch.randn(2 + seed, into, generator=source) * 0.2
        tensors[f"{prefix}.alpha"] = torch.tensor(1.0)
    return tensors


@pytest.fixture
def files(sd15, loras, models):
    """Names of two LoRAs in three forms each: all of it, feed-forward layers alone, the attention alone."""
    named = {}
    for seed in range(2):
        ff, attention = ff_tensors(sd15, seed), models.lora_tensors("LoRA", seed=seed, size=0.1, text=False)
        for kind, tensors in (("all", {**ff, **attention}), ("ff", ff), ("attention", attention)):
            named[kind, seed] = loras.save(f"{kind}{seed}", tensors)
    return named


@pytest.fixture
def stack(files):
    def make(kind="all", seeds=(0, 1)):
        return StyleStack().plus([(files[kind, seed], LAMBDAS[seed], 1.0) for seed in seeds])

    return make


@pytest.fixture
def router(sd15, files, loras, tmp_path):
    """Writes a router over both LoRAs; `weight(layer norm)` gives a block's (2, width)."""

    def make(weight, kind="all", **head):
        paths = [loras.folder / files[kind, seed] for seed in range(2)]
        experts = tuple(Expert(path.stem, of_file(path)[1]) for path in paths)
        unet = sd15.model.diffusion_model
        layers = feed_forwards(unet)
        weights = {name: weight(unet.get_submodule(name.removesuffix("ff") + "norm3")) for name in layers}
        said = {"k": 2, "mixing": "outputs", "rest": "off", "base": "sd1", "feed_forwards": len(layers), **head}
        path = Path(tmp_path / "router.safetensors")
        return router_file.write(path, Head(experts=experts, **said), weights, tuple(map(load_file, paths)), {})

    return make


def only(expert):
    """A router that prefers one expert for whatever token: a layer norm's output times 1 / gain has the same sum."""

    def weight(norm):
        even = 1 / norm.weight.detach()
        favour = even * torch.sign((norm.bias.detach() * even).sum()) * 100
        return torch.stack([favour if index == expert else -favour for index in range(2)])

    return weight


def mixed(norm):
    return torch.randn(2, len(norm.weight), generator=torch.Generator().manual_seed(3)) * 0.1


def nothing(norm):
    return torch.zeros(2, len(norm.weight))


def picture(models, model, **options):
    return models.sample(model, **{"steps": 2, **options})


def apart(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize(("expert", "mixing"), enumerate(MIXINGS))
def test_a_one_hot_router_is_that_experts_lora(expert, mixing, router, files, stack, sd15, chained, models):
    lora = chained(sd15, None, [(files["ff", expert], LAMBDAS[expert], 0.0)])[0]
    expected, base = picture(models, lora), picture(models, sd15)
    file = router(only(expert), "ff", k=1, mixing=mixing)
    assert apart(picture(models, routed(sd15, file, stack("ff"))), expected) <= 1e-5
    assert apart(expected, base) > 1e-3


def test_without_a_preference_layers_are_the_mean_of_the_loras(router, files, stack, sd15, chained, models):
    rows = [(files["ff", seed], LAMBDAS[seed] / 2, 0.0) for seed in range(2)]
    expected = picture(models, chained(sd15, None, rows)[0])
    assert apart(picture(models, routed(sd15, router(nothing, "ff", mixing="layers"), stack("ff"))), expected) <= 1e-5
    outputs = picture(models, routed(sd15, router(nothing, "ff"), stack("ff")))
    assert 1e-5 < apart(outputs, expected) < 0.2  # the mean of what the experts say: near it, but not the same


@pytest.mark.parametrize(("rest", "share"), [("mean", 0.5), ("off", 0.0)])
def test_the_rest_of_the_files_speaks_as_weights(rest, share, router, files, stack, sd15, chained, models):
    rows = [(files["ff", 0], LAMBDAS[0], 0.0), *((files["attention", s], LAMBDAS[s] * share, 0.0) for s in range(2))]
    expected = picture(models, chained(sd15, None, rows)[0])
    as_trained = router(only(0), k=1, rest=rest)
    assert apart(picture(models, routed(sd15, as_trained, stack())), expected) <= 1e-5
    louder = picture(models, routed(sd15, as_trained, stack(), rest="sum"))
    assert apart(louder, expected) > 1e-4


def test_only_the_stacks_adapters_are_chosen(router, files, stack, sd15, chained, models):
    expected = picture(models, chained(sd15, None, [(files["ff", 1], LAMBDAS[1], 0.0)])[0])
    trace = Trace()
    assert apart(picture(models, routed(sd15, router(only(0), "ff"), stack("ff", [1]), trace=trace)), expected) <= 1e-5
    assert trace.names == ("ff1",) and all((one.coefficients == 1).all() for one in trace.heard)


def test_strength_zero_is_the_base(router, files, stack, sd15, models, untouched):
    silent = StyleStack().plus([(files["all", seed], 0.0, 0.0) for seed in range(2)])
    found = picture(models, routed(untouched, router(mixed), silent))
    assert models.same_bits(found, picture(models, sd15))


def test_pictures_of_a_batch_do_not_meet(router, stack, models, untouched):
    """Each row has its own tokens: a batch of two is its two pictures, though heun calls the model twice a step."""
    model = routed(untouched, router(mixed, mixing="outputs"), stack())
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    options = dict(steps=2, sampler="heun", denoise=0.6)
    both = picture(models, model, latent=latents, batch=2, **options)
    for row in range(2):
        alone = picture(models, model, latent=latents[row : row + 1], batch=1, **options)
        assert apart(both[row : row + 1], alone) < 1e-5


def test_trouble_in_the_middle_leaves_nothing_behind(router, stack, models, untouched):
    def fail(sigma):
        if sigma < 5:
            raise ZeroDivisionError

    model = routed(untouched, router(mixed), stack())
    expected = picture(models, model)
    with pytest.raises(ZeroDivisionError):
        picture(models, models.watched(model, fail))
    assert torch.equal(picture(models, model), expected)
    assert not any(module._forward_pre_hooks for module in untouched.model.modules())


def test_the_trace_is_a_map_of_the_positive_prompt(router, stack, sd15, models):
    trace = Trace()
    picture(models, routed(sd15, router(mixed), stack(), trace=trace), batch=2, side=12)
    assert trace.names == ("all0", "all1") and len(trace.blocks()) == 7
    assert len(trace.heard) == 2 * 7 and len({one.sigma for one in trace.heard}) == 2
    for one in trace.heard:
        assert one.coefficients.shape[0] == 2 and one.coefficients.shape[1:] in ((12, 12, 2), (6, 6, 2))
        torch.testing.assert_close(one.coefficients.sum(-1), torch.ones(one.coefficients.shape[:-1]))
    assert trace.mean().shape == (12, 12, 2) and region_map(trace, picture=1).width > 500


def test_what_a_router_refuses(router, files, stack, sd15):
    file, own = router(mixed), stack()
    with pytest.raises(
        RouterError, match=r"ff0\.safetensors is no expert of router\.safetensors, whose experts are all0"
    ):
        routed(sd15, file, stack("ff"))
    with pytest.raises(RouterError, match="rest is 'loud'"):
        routed(sd15, file, own, rest="loud")
    with pytest.raises(RouterError, match="k is -1"):
        routed(sd15, file, own, k=-1)
    with pytest.raises(CompositionError, match="already has a router"):
        routed(routed(sd15, file, own), file, own)
    with pytest.raises(StrengthError, match="expected finite numbers"):
        routed(sd15, file, StyleStack().plus([(files["all", 0], float("inf"), 0.0)]))
    with pytest.raises(RouterError, match=r"on Stable Diffusion XL; the connected model is Stable Diffusion 1\.x"):
        routed(sd15, router(mixed, base="sdxl"), own)
    with pytest.raises(RouterError, match="with 16 feed-forward layers; the connected model has 7"):
        routed(sd15, router(mixed, feed_forwards=16), own)


def test_the_policy_paints_with_it(router, stack, sd15, clip, models):
    from mixlora.evaluation.methods import method, policy

    made = method("router", {"file": router(mixed).identity.path, "k": 1, "rest": "mean"}, 1.0)
    model, encode = policy(made).apply(sd15, clip, stack())
    expected = routed(sd15, router(mixed), stack(), k=1, rest="mean")
    assert torch.equal(picture(models, model), picture(models, expected))
    assert torch.equal(encode("a hill")[0][0], clip.encode_from_tokens_scheduled(clip.tokenize("a hill"))[0][0])
    with pytest.raises(RouterError, match="is no expert of"):
        policy(made).apply(sd15, clip, stack("ff"))


def test_the_node_lets_all_experts_take_part_or_those_of_a_stack(router, stack, sd15, loras, models):
    made = router(mixed)
    Path(made.identity.path).replace(loras.folder / "router.safetensors")
    model, words, report = ApplyLoRARouter.execute(sd15, "router.safetensors", 0.8, 0).args
    expected = picture(models, routed_by(sd15, made, {0: 0.8, 1: 0.8}))
    assert torch.equal(picture(models, model), expected) and words == ""
    assert "all 2 LoRAs for each token" in report and "- all1: 0.8" in report
    one, _, report = ApplyLoRARouter.execute(sd15, "router.safetensors", 0.5, 1, stack=stack(seeds=(1,))).args
    assert torch.equal(picture(models, one), picture(models, routed_by(sd15, made, {1: 0.5 * LAMBDAS[1]}, k=1)))
    assert "- all0: never chosen" in report and "- all1: 0.55" in report
    with pytest.raises(RouterError, match="is no router file"):
        ApplyLoRARouter.execute(sd15, stack().entries[0].lora_name, 1.0, 0)
