"""The nodes as ComfyUI sees them, LoadStyleLoRA's outputs, and files that other projects' libraries wrote."""

import asyncio
import os

import pytest
import torch
from mixlora.nodes import ApplyLoRARouter, LoRAWeightsFromPrompt
from mixlora.nodes.style_lora import LoadStyleLoRA


def test_extension_and_schemas():
    import mixlora

    extension = asyncio.run(mixlora.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    assert [node.GET_SCHEMA().node_id for node in nodes] == [
        "LoadStyleLoRA", "MixLoRAWeights", "LoRAWeightsFromPrompt", "SaveMixedLoRA", "LoRASwitchSampler",
        "ApplyLoRASwitch", "LoRACompositeSampler", "ApplyLoRAComposite", "EncodeTextPerLoRA",
        "ApplyLoRARegions", "ApplyLoRALayered", "ApplyLoRARouter",
    ]  # fmt: skip
    for node in nodes:
        schema = node.GET_SCHEMA()
        assert schema.description and schema.display_name and schema.category.startswith("MixLoRA/")
        for item in (*schema.inputs, *schema.outputs):
            assert item.tooltip, (schema.node_id, item.id)


def test_stack_order_trigger_words_and_lora_stack(loras):
    a = loras.save("a", metadata={"modelspec.trigger_phrase": "monet style"})
    b = loras.save("sub/b", metadata={"modelspec.trigger_phrase": "van gogh style"})
    first = LoadStyleLoRA.execute(a, 0.5, 0.25).result
    row = ["sub\\b.safetensors", 1, 0]
    output = LoadStyleLoRA.execute(a, 0.0, 0.0, stack=first[0], lora_stack=[row, ["None", 1.0, 1.0], (b, 0, 0.0)])
    assert output.result is not None
    stack, rows, words, report = output.result
    assert rows == [(a, 0.5, 0.25), (os.path.join("sub", "b.safetensors"), 1.0, 0.0), (b, 0.0, 0.0), (a, 0.0, 0.0)]
    assert all(type(row) is tuple for row in rows)
    assert words == "monet style, van gogh style"
    assert [entry.lora_name for entry in stack.entries] == [row[0] for row in rows[:2]]
    assert "trigger words: monet style" in report and "rank 4, alpha 2" in report


def test_a_file_that_changed_is_read_again(loras):
    name = loras.save("a", metadata={"modelspec.trigger_phrase": "old"})
    before = LoadStyleLoRA.fingerprint_inputs(lora_name=name, strength_model=1.0)
    assert LoadStyleLoRA.execute(name, 1.0, 1.0).result[2] == "old"
    loras.save("a", metadata={"modelspec.trigger_phrase": "new"})
    os.utime(loras.folder / name, ns=(0, before.mtime_ns + 1_000_000))
    assert LoadStyleLoRA.fingerprint_inputs(lora_name=name, strength_model=1.0) != before
    assert LoadStyleLoRA.execute(name, 1.0, 1.0).result[2] == "new"


def test_what_another_node_names_may_be_any_file(loras):
    """ComfyUI asks with None then; an error would make it sample everything behind the node again at every queue."""
    nodes = [(LoadStyleLoRA, "lora_name"), (ApplyLoRARouter, "router_name"), (LoRAWeightsFromPrompt, "text")]
    name = loras.save("a")
    for node, linked in nodes:
        before = node.fingerprint_inputs(**{linked: None}, others="silent")
        assert before == node.fingerprint_inputs(**{linked: None}, others="silent")
        os.utime(loras.folder / name, ns=(0, before[0].mtime_ns + 1_000_000))
        assert node.fingerprint_inputs(**{linked: None}, others="silent") != before


def test_report_says_what_the_base_does_not_know(loras):
    assert "Stable Diffusion 1.x layout with two levels" in LoadStyleLoRA.execute(loras.save("a"), 1.0, 1.0).result[3]
    report = LoadStyleLoRA.execute(loras.save("xl", width=2048, text=False), 1.0, 1.0).result[3]
    assert "Stable Diffusion XL (guessed: cross-attention reads 2048 channels)" in report
    assert "keys matched to the names of that model: 3 of 6" in report and "left out" in report


def test_the_full_sdxl_key_map():
    """560 attention projections in kohya's naming, both text encoders; names only, nothing of SDXL's size is made."""
    from mixlora.mixlora_core import bases

    sd1, standin, _, sdxl = bases.BASES
    names = bases.lora_names(sdxl)
    attention = [name for name in names if name.startswith("lycoris_") and "_attn" in name]
    assert len(attention) == 560
    assert "lora_te2_text_model_encoder_layers_31_mlp_fc2" in names
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_9_attn2_to_k" in names
    for base, count in ((sd1, 128), (standin, 56)):
        attention = {name for name in bases.lora_names(base) if name.startswith("lycoris_") and "_attn" in name}
        assert len(attention) == count


@pytest.fixture(scope="module")
def diffusers_unet():
    """The tiny SD 1.5 layout as diffusers builds it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(320, 320), layers_per_block=1, cross_attention_dim=768, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip


@pytest.mark.parametrize("prefix", ["unet.", "base_model.model."])
def test_a_file_of_diffusers_is_what_its_conversion_is(prefix, diffusers_unet, sd15, loras, mixed, models):
    """ComfyUI itself reads feed-forward and projections of it, and leaves attention out."""
    peft = pytest.importorskip("peft")
    import safetensors.torch as st
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import (
        convert_all_state_dict_to_peft,
        convert_state_dict_to_diffusers,
        convert_state_dict_to_kohya,
    )

    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]
    diffusers_unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=targets))
    layers = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(diffusers_unet))
    diffusers_unet.unload_lora()  # other tests share this UNet
    StableDiffusionPipeline.save_lora_weights(loras.folder, unet_lora_layers=layers, weight_name="theirs.safetensors")
    state = st.load_file(loras.folder / "theirs.safetensors")
    kohya = loras.save("kohya", convert_state_dict_to_kohya(convert_all_state_dict_to_peft(state)))
    named = loras.save("peft", {key.replace("unet.", prefix): value for key, value in state.items()})

    model, _, report = mixed(sd15, None, [(named, 1.0, 0.0)])
    ours, theirs = (models.patched_weights(one) for one in (model, mixed(sd15, None, [(kohya, 1.0, 0.0)])[0]))
    assert len(theirs) == 63 and all(models.same_bits(ours[key], theirs[key]) for key in theirs)
    assert "left out" not in report
    said = LoadStyleLoRA.execute(named, 1.0, 1.0).result[3]
    assert "of these keys have PEFT's names: this pack reads them" in said and "NONE" not in said


@pytest.mark.parametrize("algo, family, options", [
    ("locon", "LoCon", {}), ("loha", "LoHa", {}), ("lokr", "LoKr", {"factor": 8}), ("locon", "DoRA", {"dora_wd": True}),
])  # fmt: skip
def test_lycoris_files_equal_the_chain(algo, family, options, diffusers_unet, models, sd15, loras, chained, mixed):
    lycoris = pytest.importorskip("lycoris")
    torch.manual_seed(1)
    names = ["mid_block.attentions.0.*to_k", "mid_block.resnets.0.conv1"]
    lycoris.LycorisNetwork.apply_preset({"target_module": [], "target_name": names, "use_fnmatch": True})
    network = lycoris.create_lycoris(diffusers_unet, 1.0, linear_dim=4, linear_alpha=2, algo=algo, **options)
    network.apply_to()
    network.restore()
    state = {key: value.detach() + 0.01 * torch.randn_like(value) for key, value in network.state_dict().items()}
    name = loras.save(f"lycoris_{family}", {k: v for k, v in state.items() if not k.endswith(".scalar")})
    rows = [(name, 0.7, 0.0)]
    theirs, (ours, _, report) = chained(sd15, None, rows)[0], mixed(sd15, None, rows)
    theirs, ours = models.patched_weights(theirs), models.patched_weights(ours)
    assert len(theirs) == 3 and all(models.same_bits(theirs[key], ours[key]) for key in theirs)
    assert family in report
