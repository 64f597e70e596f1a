"""The trainer on ComfyUI's own classes: what it computes, what it writes, and who can read that."""

import re
from dataclasses import replace

import pytest
import torch
from mixlora.training.base import Base
from mixlora.training.checkpoint import Autosave
from mixlora.training.export import export, file_tensors
from mixlora.training.files import serialise
from mixlora.training.loop import train
from mixlora.training.lora import LoRA
from mixlora.training.metadata import describe
from mixlora.training.objective import noisy_and_target
from mixlora.training.run import NonFiniteLossError
from mixlora.training.samples import Samples
from mixlora.training.settings import TrainingError, TrainSettings
from mixlora.training.targets import target_layers
from safetensors import safe_open
from safetensors.torch import load_file

SETTINGS = TrainSettings(steps=3, batch=2, accumulate=1, lr=1e-2, warmup=0.0, trigger="monet style", min_snr=0.0)


@pytest.fixture(scope="module")
def model(models):
    """A model of this file's own: training leaves its UNet frozen and its convolutions in another order."""
    return models.unet(models.SD15_UNET, seed=3)


@pytest.fixture(scope="module")
def samples():
    source = torch.Generator().manual_seed(0)
    return Samples(
        latents=torch.randn(3, 4, 8, 8, generator=source),
        context=torch.randn(2, 77, 768, generator=source),
        caption_of=[0, 1, 0],
        empty=torch.randn(77, 768, generator=source),
        names=["a.png", "b.png", "c.png"],
        captions=["a hill, monet style", "a sea, monet style", "a hill, monet style"],
    )


@pytest.fixture(scope="module")
def trained(model, samples):
    return train(Base.from_comfy(model), samples, SETTINGS)


@torch.no_grad()
def predictions(model, lora=None):
    base = Base.from_comfy(model)
    source = torch.Generator().manual_seed(9)
    x, context = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 77, 768, generator=source)
    if lora is None:
        return base(x, torch.tensor([20.0, 800.0]), context)
    with lora.attached(base.unet):
        return base(x, torch.tensor([20.0, 800.0]), context)


def test_the_exported_file_is_what_was_trained(model, samples, trained, tmp_path):
    import comfy.sd

    base = Base.from_comfy(model, name="tiny")
    path = tmp_path / "monet.safetensors"
    about = describe(base, samples, SETTINGS, title="monet", steps=trained.steps)
    report = export(trained.lora, path, model, about, dtype=torch.float32)
    assert report.modules == 56 and report.bytes == path.stat().st_size and report.norm > 0.1

    plain, hooked = predictions(model), predictions(model, trained.lora)
    patched = comfy.sd.load_lora_for_models(model, None, load_file(path), 1.0, 0.0)[0]
    assert patched and len(patched.patches) == 56
    patched.patch_model(device_to=patched.load_device)
    try:
        applied = predictions(patched)
    finally:
        patched.unpatch_model(device_to=patched.offload_device)
    assert (hooked - plain).norm() > 0.01 * plain.norm()
    assert (hooked - applied).norm() <= 1e-5 * plain.norm()
    assert torch.equal(predictions(model), plain)

    with safe_open(path, "pt") as file:
        written, keys = file.metadata(), set(file.keys())
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert len(keys) == 3 * 56 and {f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"} <= keys
    assert written["sshs_model_hash"] == report.sha256 and written["modelspec.trigger_phrase"] == "monet style"
    assert written["ss_network_dim"] == "4" and written["format"] == "pt"


def test_every_kind_of_layer_is_what_was_trained(models, samples, tmp_path):
    """Convolutions, feed-forward and projections too; only the chosen blocks are in the file."""
    import comfy.sd

    model = models.unet(models.SD15_UNET, seed=5)
    settings = replace(SETTINGS, targets="all", blocks="middle output.[1-3]", steps=2)
    base = Base.from_comfy(model)
    trained = train(base, samples, settings)
    about = describe(base, samples, settings, title="all", steps=2)
    path = tmp_path / "all.safetensors"
    report = export(trained.lora, path, model, about, dtype=torch.float32)
    keys = load_file(path).keys()
    assert report.modules == len(trained.lora.names) == len(keys) / 3
    assert not any("down_blocks" in key for key in keys)
    for part in ("resnets_0_conv2", "conv_shortcut", "upsamplers_0_conv", "ff_net_2", "proj_in", "attn1_to_q"):
        assert any(part in key for key in keys), part
    with pytest.raises(TrainingError, match=r"blocks: 'outptu' names no block .* output\.3\."):
        train(base, samples, replace(settings, blocks="outptu"))

    plain, hooked = predictions(model), predictions(model, trained.lora)
    patched = comfy.sd.load_lora_for_models(model, None, load_file(path), 1.0, 0.0)[0]
    assert patched
    patched.patch_model(device_to=patched.load_device)
    try:
        applied = predictions(patched)
    finally:
        patched.unpatch_model(device_to=patched.offload_device)
    assert (hooked - plain).norm() > 0.01 * plain.norm()
    assert (hooked - applied).norm() <= 1e-5 * plain.norm()


def test_the_default_file_is_half_precision_and_repeatable(model, samples, trained, tmp_path):
    about = describe(Base.from_comfy(model), samples, SETTINGS, title="monet", steps=3)
    reports = [export(trained.lora, tmp_path / f"{n}.safetensors", model, about) for n in range(2)]
    first, second = (report.path.read_bytes() for report in reports)
    assert first == second
    formats = {key.split(".", 1)[1]: value.dtype for key, value in load_file(reports[0].path).items()}
    assert formats == {"lora_down.weight": torch.float16, "lora_up.weight": torch.float16, "alpha": torch.float32}


def test_an_adapter_that_learned_nothing_or_broke_is_not_written(model, trained, tmp_path):
    path = tmp_path / "o.safetensors"
    untrained = LoRA(target_layers(model.model.diffusion_model), 4, 4.0)
    with pytest.raises(TrainingError, match=r"56 of 168 tensors are unusable, first .*lora_up.weight is zero"):
        export(untrained, path, model, {})
    with torch.no_grad():
        untrained.flat.copy_(trained.lora.flat)
        untrained.up["middle_block.1.transformer_blocks.0.attn1.to_q"].fill_(1e6)  # more than fp16 holds
    with pytest.raises(TrainingError, match=r"1 of 168 tensors .* not finite"):
        export(untrained, path, model, {})
    assert not path.exists()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_goes_through_the_unet_once_with_its_own_rows(model, samples, batch):
    base, seen = Base.from_comfy(model), []
    handle = base.unet.register_forward_pre_hook(
        lambda _, inputs, named: seen.append((inputs, named)), with_kwargs=True
    )
    try:
        train(base, samples, replace(SETTINGS, steps=1, batch=batch, accumulate=2, caption_dropout=0.0))
    finally:
        handle.remove()
    assert [len(inputs[0]) for inputs, _ in seen] == [batch, batch]
    for inputs, named in seen:
        assert len(inputs[1]) == len(named["context"]) == batch
        assert not inputs[0].requires_grad
        assert all(any(torch.equal(row, caption) for caption in samples.context) for row in named["context"])


def test_stop_and_resume_is_the_uninterrupted_run(model, samples, trained, tmp_path):
    autosave = Autosave(tmp_path / "state", every_steps=0, every_minutes=0, resume=True)
    asked = iter([False, True])
    part = train(Base.from_comfy(model), samples, SETTINGS, autosave=autosave, stop=lambda: next(asked))
    assert part.steps == 1 and not part.finished
    rest = train(Base.from_comfy(model), samples, SETTINGS, autosave=autosave)
    assert rest.losses == trained.losses
    assert torch.equal(rest.lora.flat, trained.lora.flat)


def test_training_leaves_the_model_as_it_was(models, samples):
    model = models.unet(models.SD15_UNET, seed=4)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    train(Base.from_comfy(model), samples, replace(SETTINGS, steps=1))
    after = model.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    modules = list(model.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert not any("forward" in vars(module) for module in modules)


def test_a_bf16_base_trains_an_fp32_adapter(models, model, samples):
    settings = replace(SETTINGS, steps=1, batch=1)
    full = train(Base.from_comfy(model), samples, settings)
    half = train(Base.from_comfy(models.unet(models.SD15_UNET, dtype=torch.bfloat16, seed=3)), samples, settings)
    assert half.lora.flat.dtype == torch.float32 and all(up.any() for up in half.lora.up.values())
    assert half.losses == pytest.approx(full.losses, rel=0.05)


def test_nan_in_the_base_stops_at_once(model, samples):
    base = Base.from_comfy(model)
    broken = replace(base, call=lambda x, timesteps, context: base(x, timesteps, context) * torch.nan)
    with pytest.raises(NonFiniteLossError, match=r"loss of step 1 is not finite, with: \w\.png, \w\.png\."):
        train(broken, samples, SETTINGS)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_targets_are_those_of_comfy(model, prediction):
    import comfy.model_base

    kind = {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}[prediction]
    sampling = comfy.model_base.model_sampling(model.model.model_config, comfy.model_base.ModelType[kind])
    base = Base.from_comfy(model)
    timesteps = torch.tensor([0, 17, 500, 999])
    source = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(4, 4, 8, 8, generator=source), torch.randn(4, 4, 8, 8, generator=source)

    noisy, target = noisy_and_target(x0, noise, base.alphas_cumprod[timesteps], prediction)
    sigma = sampling.sigmas[timesteps]
    wide = x0 + sigma.view(-1, 1, 1, 1) * noise
    assert torch.equal(sampling.timestep(sigma), timesteps)
    torch.testing.assert_close(noisy, sampling.calculate_input(sigma, wide), rtol=1e-5, atol=1e-5)
    denoised = sampling.calculate_denoised(sigma, target, wide)
    torch.testing.assert_close(denoised, x0, rtol=1e-4, atol=1e-4)


def test_v_prediction_trains_towards_the_velocity(model, samples):
    """The answer that is right gives no loss, whatever the kind of prediction."""
    for prediction in ("epsilon", "v_prediction"):
        base = replace(Base.from_comfy(model), prediction=prediction)

        def right(x, timesteps, context, base=base):
            signal = base.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1)
            touched = base.unet(x, timesteps, context=context) * 0  # the adapter takes part, its gradient is zero
            x0 = samples.latents[0]
            noise = (x - signal.sqrt() * x0) / (1 - signal).sqrt()
            answer = noise if base.prediction == "epsilon" else signal.sqrt() * noise - (1 - signal).sqrt() * x0
            return answer + touched

        one = Samples(latents=samples.latents[:1], context=samples.context[:1])
        settings = replace(SETTINGS, steps=1, batch=1, caption_dropout=0.0)
        assert train(replace(base, call=right), one, settings).losses[0] < 1e-6


def test_files_of_equal_runs_are_equal_but_for_the_date(model, samples, trained):
    base = Base.from_comfy(model)
    tensors = file_tensors(trained.lora, model.model.model_config.unet_config, torch.float16)
    dated = [describe(base, samples, SETTINGS, title="m", steps=3, date=date) for date in ("2025-01-01", "2025-01-02")]
    first, second = (serialise(tensors, about) for about in dated)
    assert first != second and re.sub(b"2025-01-0[12]", b"", first) == re.sub(b"2025-01-0[12]", b"", second)
