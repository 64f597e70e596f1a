"""SSR-Merge and NP-LoRA on a model: what is heard, what is applied, and that the saved file does the same."""

import json

import comfy.model_management
import comfy.sd
import pytest
import torch
from mixlora.mixlora_core.errors import AdapterError, MergeError
from mixlora.mixlora_core.merging import calibration, conflicts, merged
from mixlora.mixlora_core.merging.calibration import Calibration
from mixlora.mixlora_core.merging.null_space import NullSpaceSettings
from mixlora.mixlora_core.merging.ssr import SSRSettings
from mixlora.mixlora_core.mixing import saving
from mixlora.mixlora_core.stack import StyleStack
from safetensors.torch import load_file

SHORT = Calibration(steps=2, size=64)


@pytest.fixture(autouse=True)
def wide_texts(monkeypatch):
    """The tiny CLIP's states are 64 wide, this UNet reads 768."""
    narrow = comfy.sd.CLIP.encode_from_tokens_scheduled

    def wide(self, tokens, *args, **kwargs):
        return [[states.repeat(1, 1, 12), fields] for states, fields in narrow(self, tokens, *args, **kwargs)]

    monkeypatch.setattr(comfy.sd.CLIP, "encode_from_tokens_scheduled", wide)


@pytest.fixture
def stack(loras):
    """Three adapters that meet in two linear layers and the text encoder; two of them meet in a convolution."""
    words = {"modelspec.trigger_phrase": "in old oils"}
    rows = [(loras.save("a", seed=0, size=0.5, metadata=words), 0.8, 0.6),
            (loras.save("b", "LoCon", seed=1, size=0.7), -0.5, 1.0),
            (loras.save("night sky", "LoCon", seed=2, size=0.5), 1.0, 0.4)]  # fmt: skip
    return StyleStack().plus(rows)


def changes(models, owner, base):
    """What is added to each weight, in double precision."""
    comfy.model_management.unload_all_models()  # a calibration leaves its last model loaded, patches and all
    state = getattr(base, "patcher", base).model.state_dict()
    return {key: weight.double() - state[key].double() for key, weight in models.patched_weights(owner).items()}


def off(one, other, base):
    """||one - other|| / ||other||, beyond fp32's rounding of W + dW."""
    difference = (one - other).norm().item() - 6e-8 * base.norm().item()
    return max(difference, 0.0) / other.norm().item()


def same(models, ours, theirs, bases):
    for one, other, base in zip(ours, theirs, bases, strict=True):
        found, wanted = changes(models, one, base), changes(models, other, base)
        state = getattr(base, "patcher", base).model.state_dict()
        assert found.keys() == wanted.keys() and found
        for key, change in wanted.items():
            assert off(found[key], change, state[key]) <= 1e-5, key


def test_ssr_is_heard_applied_and_saved(models, sd15, clip, stack, chained, mixed):
    before = {key: weight.clone() for key, weight in sd15.model.state_dict().items()}
    calibrated = calibration.calibrate(sd15, clip, stack, SHORT)
    comfy.model_management.unload_all_models()
    after = sd15.model.state_dict()
    assert all(models.same_bits(after[key], weight) for key, weight in before.items())
    for owner in (sd15.model, clip.cond_stage_model):
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in owner.modules())
    assert not sd15.patches and not any(sd15.wrappers.values())

    assert len(calibrated.layers) == 4 and not calibrated.left
    assert calibrated.prompts[0] == ("in old oils", "a picture, in old oils")
    assert calibrated.prompts[2] == ("night sky", "a picture, night sky")
    (key,) = [key for key in calibrated.layers if "attn2.to_k" in str(key)]
    down = torch.cat([part.down for part in calibrated.layers[key]])
    for index, row in enumerate(stack.rows):  # a text's states are what this layer hears, at every step
        alone = chained(sd15, clip, [row])[1]
        texts = [alone.encode_from_tokens_scheduled(alone.tokenize(text)) for text in calibrated.prompts[index]]
        z = torch.cat([states[0].float() for ((states, _),) in texts]) @ down.T
        own = calibrated.statistics[key].blocks[index]
        expected = (z.T @ z / len(z))[own].double()
        assert (calibrated.statistics[key].guide[own] - expected).norm() <= 1e-4 * expected.norm()

    result = merged.merge_ssr(sd15, clip, calibrated, SSRSettings())
    assert all(routed < min(added, mean) for added, mean, routed in result.misses.values())
    file = merged.save_merge(sd15, clip, stack, result, saving.SaveSettings(dtype="fp32"), "merge")
    same(models, (result.model, result.clip), chained(sd15, clip, [(file.lora_name, 1.0, 1.0)]), (sd15, clip))
    tensors = load_file(file.path)
    assert tensors[f"{models.SQUARE}.lora_down.weight"].shape == (12, 320)
    assert tensors[f"{models.CONV}.lora_down.weight"].shape == (8, 320, 3, 3)
    recipe = json.loads(saving.lora_file.read(file.path).metadata["mixlora.recipe"])
    assert recipe["mode"] == "SSR-Merge" and recipe["ridge"] == 1e-4 and recipe["steps"] == 2

    sums = changes(models, mixed(sd15, clip, stack.rows)[0], sd15)
    ours = changes(models, result.model, sd15)
    assert all((ours[key] - sums[key]).norm() > 0.01 * sums[key].norm() for key in sums)
    text = merged.describe_merge(stack, result, calibrated)
    assert (
        "merged: 4 layers" in text
        and "as their mean" in text
        and "b.safetensors read: b; a picture, b (its file records no" in text
    )


def test_the_same_noise_every_time_and_for_every_order(models, sd15, clip, stack):
    turned = StyleStack(stack.entries[::-1])
    short = Calibration(("{}",), steps=1, size=64)
    one, again = (calibration.calibrate(sd15, clip, stack, short) for _ in range(2))
    for key in one.layers:
        assert torch.equal(one.statistics[key].gram, again.statistics[key].gram)
    other = calibration.calibrate(sd15, clip, turned, short)
    settings = SSRSettings(1e-2)
    found = changes(models, merged.merge_ssr(sd15, clip, one, settings).model, sd15)
    wanted = changes(models, merged.merge_ssr(sd15, clip, other, settings).model, sd15)
    assert all((found[key] - wanted[key]).norm() <= 1e-4 * wanted[key].norm() for key in wanted)


def test_null_space_is_applied_and_saved(models, sd15, stack, chained):
    settings = NullSpaceSettings(mu=2.0, order=(2, 0, 1))
    result = merged.merge_null_space(sd15, None, stack, settings)
    assert result.clip is None and result.merged == 3
    delta = []
    for entry in stack.entries:
        found = {key: value.double() for key, value in entry.file.tensors.items()}
        up, down = (found[f"{models.SQUARE}.lora_{side}.weight"] for side in ("up", "down"))
        delta.append(up @ down * (2 / 4) * entry.strength_model)
    whole, seen = delta[2], [delta[2]]
    for index in (0, 1):
        _, s, vh = torch.linalg.svd(torch.cat(seen))
        basis = vh[: int((s > 1e-6 * s[0]).sum())]
        whole = whole + delta[index] @ (torch.eye(320).double() - 2 / 3 * basis.T @ basis)
        seen.append(delta[index])
    (key,) = [key for key in result.model.patches if "attn1.to_q" in key]
    assert off(changes(models, result.model, sd15)[key], whole, sd15.model.state_dict()[key]) <= 1e-5
    file = merged.save_merge(sd15, None, stack, result, saving.SaveSettings(dtype="fp32"), "np")
    theirs = chained(sd15, None, [(file.lora_name, 1.0, 1.0)])[:1]
    same(models, (result.model,), theirs, (sd15,))


def test_other_families_stay_a_sum_and_are_listed(models, sd15, clip, stack, loras, mixed):
    mixture = stack.plus([(loras.save("hada", "LoHa", seed=3, size=0.5), 0.5, 0.0)])
    result = merged.merge_null_space(sd15, clip, mixture, NullSpaceSettings())
    assert result.merged == 2  # the convolution, and the text encoder, where the fourth has strength 0
    assert len(result.left) == 2 and all("LoHa of hada.safetensors" in one.reason for one in result.left)
    assert "plain sum in 2 layers" in merged.describe_merge(mixture, result)
    found = changes(models, result.model, sd15)
    wanted = changes(models, mixed(sd15, clip, mixture.rows)[0], sd15)
    for key in found:
        assert torch.equal(found[key], wanted[key]) == (key in {one.layer for one in result.left})
    with pytest.raises(AdapterError, match=r"hada\.safetensors has LoHa in 2 layers"):
        merged.save_merge(sd15, clip, mixture, result, saving.SaveSettings(), "np")
    listed, left = merged.find_conflicts(sd15, clip, mixture)
    assert {one.layer for one in left} == {one.layer for one in result.left} and len(listed) == 4
    text = conflicts.describe(listed, [entry.lora_name for entry in mixture.entries], left)
    assert "not compared, 2 layers" in text and "advice: " in text


def test_what_cannot_be_merged(models, sd15, clip, stack, loras):
    with pytest.raises(MergeError, match="connect CLIP"):
        calibration.calibrate(sd15, None, stack, SHORT)
    with pytest.raises(MergeError, match="multiple of 64"):
        Calibration(size=100)
    with pytest.raises(MergeError, match="prompts"):
        Calibration(("a hill",))
    text_free = StyleStack().plus([(loras.save(n, seed=at, text=False), 1.0, 1.0) for at, n in enumerate("xy")])
    with pytest.raises(MergeError, match="Nothing came through"):
        calibration.calibrate(models.watched(sd15, lambda sigma: None), clip, text_free, SHORT)
    alone = calibration.calibrate(sd15, clip, StyleStack(stack.entries[:1]), SHORT)  # nobody to meet: nothing runs
    assert not alone.layers and alone.prompts == ((),)


def test_the_testbed_listens_once_for_a_stack(models, sd15, clip, stack, monkeypatch):
    from mixlora.evaluation.policies.merging import SSR, NullSpace

    heard = []
    listen = calibration.calibrate
    monkeypatch.setattr(calibration, "calibrate", lambda *args: heard.append(args) or listen(*args))
    two = StyleStack(stack.entries[:2])
    for ridge in (1e-4, 1e-4, 1e-1):
        model, encode = SSR(ridge=ridge, steps=1, size=64).apply(sd15, clip, two)
        assert model is not sd15 and encode.clip is not clip
    assert len(heard) == 1
    SSR(steps=2, size=64).apply(sd15, clip, two)
    assert len(heard) == 2
    model, _ = NullSpace().apply(sd15, clip, two)
    assert set(model.patches) == {key for key in model.patches if key.startswith("diffusion_model.")}
