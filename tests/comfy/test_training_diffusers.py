"""The file's names and values through diffusers and PEFT, for all 128 layers of SD v1.5."""

import pytest
import torch
from mixlora.training.export import file_prefixes, file_tensors
from mixlora.training.lora import LoRA, attention_layers

FULL_SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "num_heads": 8, "context_dim": 768, "channel_mult": (1, 2, 4, 4), "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def narrow():
    """Diffusers' UNet of SD v1.5's shape but narrow, and an adapter for it under the names of the full SD v1.5."""
    try:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    except (ImportError, RuntimeError) as error:  # it imports lazily, and names what failed
        pytest.skip(f"diffusers cannot be imported: {error}")
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    layers = attention_layers(UNetModel(**FULL_SD15, device="meta", operations=comfy.ops.disable_weight_init))
    assert len(layers) == 128
    assert sum(layer.in_features + layer.out_features for layer in layers.values()) * 4 == 797_184
    unet = UNet2DConditionModel(
        block_out_channels=(32, 32, 64, 64), cross_attention_dim=24, attention_head_dim=8, sample_size=8
    )
    prefixes = file_prefixes(layers, FULL_SD15)
    narrow_layers = attention_layers(unet)
    paths = {"lora_unet_" + name.replace(".", "_"): name for name in narrow_layers}
    assert paths.keys() == set(prefixes.values())
    lora = LoRA({name: narrow_layers[paths[prefix]] for name, prefix in prefixes.items()}, rank=4, alpha=1.0)
    with torch.no_grad():
        lora.flat.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    return unet, lora, {name: paths[prefix] for name, prefix in prefixes.items()}


def test_diffusers_converts_every_full_sd15_name(narrow):
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    _, lora, paths = narrow
    state, alphas = _convert_non_diffusers_lora_to_diffusers(file_tensors(lora, FULL_SD15, torch.float32))
    assert len(alphas) == 128 and set(alphas.values()) == {1.0}
    read = {key.replace(".processor.", ".").replace("_lora.", "."): value for key, value in state.items()}
    for name, path in paths.items():
        path = path.removesuffix(".0")  # the converter's to_out
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
        torch.testing.assert_close(change, lora.scale * lora.up[name] @ lora.down[name])
