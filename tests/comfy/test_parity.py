"""The parity contract on the real ComfyUI: strength 0 is the base, "sum" is chained LoraLoaders, no trace stays."""

import pytest
import torch

FAMILIES = ["LoRA", "LoCon", "LoCon mid", "LoHa", "LoHa Tucker", "LoKr", "LoKr factored", "DoRA", "GLoRA", "OFT",
            "BOFT", "full diff", "set weight", "norm and bias", "lora_A/B"]  # fmt: skip


def assert_same(models, one, other):
    assert one.keys() == other.keys()
    assert one
    for key, weight in one.items():
        assert models.same_bits(weight, other[key]), key


def test_families_are_all_listed(models):
    assert tuple(FAMILIES) == models.FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_sum_is_chained_lora_loaders_bit_for_bit(family, models, sd15, clip, loras, chained, mixed):
    rows = [
        (loras.save("a", family), 0.8, 0.6),
        (loras.save("b", "LoRA", seed=1), -0.35, 1.0),
        # With one strength 0, core's loader still lets a "set" patch overwrite the weight; here 0 is always silence.
        (loras.save("c", family, seed=2), 1.0, 0.3 if family == "set weight" else 0.0),
    ]
    theirs, ours = chained(sd15, clip, rows), mixed(sd15, clip, rows)
    base = {**sd15.model.state_dict(), **clip.cond_stage_model.state_dict()}
    for their, our in zip(theirs, ours[:2], strict=True):
        patched = models.patched_weights(their)
        if our is ours[1]:  # core also adds patches of strength 0 to the CLIP: the same weights, so the same bits
            assert set(our.patcher.patches) <= set(their.patcher.patches)
        assert_same(models, patched, models.patched_weights(our, patched.keys()))
        assert any(not torch.equal(weight, base[key]) for key, weight in patched.items())


def test_sum_equals_the_chain_in_half_precision(models, sdxl, loras, chained, mixed):
    """Shape-true SDXL in fp16: ComfyUI rounds the patched weights stochastically, from a seed made of the key."""
    names = [loras.save(f"x{seed}", family, seed=seed, text=False, width=2048) for seed, family in
             enumerate(("LoRA", "LoHa", "LoCon"))]  # fmt: skip
    # SDXL's first level has no attention: its names differ from those of SD 1.5 files
    renamed = []
    import safetensors.torch as st

    for name in names:
        tensors = st.load_file(loras.folder / name)
        tensors = {key.replace("down_blocks_0", "down_blocks_1").replace("up_blocks_0", "up_blocks_1"): value
                   for key, value in tensors.items()}  # fmt: skip
        renamed.append(loras.save("sdxl_" + name.removesuffix(".safetensors"), tensors))
    rows = [(name, 0.7, 0.0) for name in renamed]
    theirs, ours = chained(sdxl, None, rows)[0], mixed(sdxl, None, rows)[0]
    assert_same(models, models.patched_weights(theirs), models.patched_weights(ours))


@pytest.mark.parametrize("family", ["LoRA", "set weight", "DoRA", "OFT"])
def test_strength_zero_is_the_base_model(family, models, sd15, clip, loras, mixed):
    rows = [(loras.save("a", family), 0.0, 0.0), (loras.save("b", family), 0.0, 0.0)]
    model, same_clip, _ = mixed(sd15, clip, rows)
    assert model is sd15
    assert same_clip is clip
    model, _, _ = mixed(sd15, clip, [(rows[0][0], 0.0, 1.0)])
    assert model is sd15
    assert mixed(sd15, clip, rows, mode="sum to total")[0] is sd15


@pytest.mark.parametrize("mode", ["sum", "equal energy"])
def test_nothing_stays_behind(mode, models, sd15, clip, loras, mixed):
    before = {k: v.clone() for k, v in {**sd15.model.state_dict(), **clip.cond_stage_model.state_dict()}.items()}
    sibling = sd15.clone()
    uuid = sd15.patches_uuid
    rows = [(loras.save(f"{i}", "LoRA", seed=i), 0.9, 0.5) for i in range(3)]
    model, patched_clip, _ = mixed(sd15, clip, rows, mode=mode, limit=0.05)
    assert not sd15.patches and not sibling.patches and not clip.patcher.patches and sd15.patches_uuid == uuid
    for owner in (model, patched_clip):
        models.patched_weights(owner)
    after = {**sd15.model.state_dict(), **clip.cond_stage_model.state_dict()}
    for key, weight in before.items():
        assert models.same_bits(weight, after[key]), key


def test_an_error_leaves_nothing_behind(sd15, clip, loras, mixed, models):
    good, bad = loras.save("good"), models.lora_tensors("LoRA", width=2048)
    with pytest.raises(ValueError, match="320x2048"):
        mixed(sd15, clip, [(good, 1.0, 1.0), (loras.save("bad", bad), 1.0, 1.0)])
    assert not sd15.patches and not clip.patcher.patches and not sd15.backup


def test_the_picture_is_the_same_bits(sd15, clip, loras, chained, mixed):
    """End to end through ComfyUI's sampler: 2 Euler steps with CFG."""
    import comfy.sample

    rows = [(loras.save("a"), 0.8, 0.8), (loras.save("b", "LoHa", seed=3), 0.5, 0.5)]

    def sample(model):
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        text = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(6))
        positive, negative = [[text, {}]], [[text * 0.5, {}]]
        return comfy.sample.sample(
            model,
            noise,
            2,
            2.0,
            "euler",
            "normal",
            positive,
            negative,
            torch.zeros(1, 4, 8, 8),
            disable_pbar=True,
            seed=5,
        )

    base, theirs = sample(sd15), sample(chained(sd15, clip, rows)[0])
    ours = sample(mixed(sd15, clip, rows)[0])
    assert torch.equal(theirs, ours)
    assert not torch.equal(base, ours)
    assert torch.equal(base, sample(sd15))
