"""The file's names and values through ComfyUI, diffusers and PEFT, for every layer of SD v1.5 that can be adapted."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mixlora.training.export import file_prefixes, file_tensors
from mixlora.training.lora import LoRA
from mixlora.training.targets import target_layers

FULL_SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "num_heads": 8, "context_dim": 768, "channel_mult": (1, 2, 4, 4), "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def full():
    """SD v1.5's UNet without weights."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(**FULL_SD15, device="meta", operations=comfy.ops.disable_weight_init)


@pytest.fixture(scope="module")
def narrow(full):
    """Diffusers' UNet of SD v1.5's shape but narrow, and an adapter for it under the names of the full SD v1.5."""
    try:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    except (ImportError, RuntimeError) as error:  # it imports lazily, and names what failed
        pytest.skip(f"diffusers cannot be imported: {error}")

    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 96, 96), cross_attention_dim=24, attention_head_dim=8, sample_size=8
    )
    prefixes = file_prefixes(target_layers(full, "all"), FULL_SD15)
    modules: dict[str, Any] = dict(unet.named_modules())
    paths = {"lora_unet_" + name.replace(".", "_"): name for name in modules}
    assert paths.keys() >= set(prefixes.values())
    lora = LoRA({name: modules[paths[prefix]] for name, prefix in prefixes.items()}, rank=4, alpha=1.0)
    with torch.no_grad():
        lora.flat.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    return unet, lora, {name: paths[prefix] for name, prefix in prefixes.items()}


@pytest.mark.parametrize(
    "targets, count", [("attention", 128), ("ff", 32), ("proj", 32), ("conv", 64), ("attention+ff", 160), ("all", 256)]
)
def test_comfy_maps_every_full_sd15_name(full, targets, count):
    import comfy.lora

    layers = target_layers(full, targets)
    assert len(layers) == count
    if targets == "attention":
        assert LoRA(layers, 4, 4.0).flat.numel() == 797_184
    skeleton: Any = torch.nn.Module()
    skeleton.diffusion_model = full
    skeleton.model_config = SimpleNamespace(unet_config=FULL_SD15)
    known = comfy.lora.model_lora_keys_unet(skeleton, {})
    prefixes = file_prefixes(layers, FULL_SD15)
    assert {name: known[prefix] for name, prefix in prefixes.items()} == {
        name: f"diffusion_model.{name}.weight" for name in layers
    }


def test_diffusers_converts_every_full_sd15_name(narrow):
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    _, lora, paths = narrow
    state, alphas = _convert_non_diffusers_lora_to_diffusers(file_tensors(lora, FULL_SD15, torch.float32))
    assert len(alphas) == 256 and set(alphas.values()) == {1.0}
    read = {key.replace(".processor.", ".").replace("_lora.", "."): value for key, value in state.items()}
    read = {key.replace(".lora.", "."): value for key, value in read.items()}
    for name, path in paths.items():
        attention = ".attn" in path
        path = path.removesuffix(".0") if attention else path  # the converter's to_out
        assert torch.equal(read[f"unet.{path}.down.weight"], lora.down[name])
        assert torch.equal(read[f"unet.{path}.up.weight"], lora.up[name])


def test_diffusers_with_peft_computes_the_same_changes(narrow):
    pytest.importorskip("peft", exc_type=ImportError)
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Loader

    unet, lora, paths = narrow
    state, alphas = Loader.lora_state_dict(file_tensors(lora, FULL_SD15, torch.float32))[:2]
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name="monet")
    for name, path in paths.items():
        change = unet.get_submodule(path).get_delta_weight("monet")
        expected = lora.scale * lora.up[name].flatten(1) @ lora.down[name].flatten(1)
        torch.testing.assert_close(change, expected.view(change.shape), rtol=1e-5, atol=1e-5)
