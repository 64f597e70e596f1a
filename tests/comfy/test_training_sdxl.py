"""SDXL through the same trainer: its second text, its picture sizes, its names."""

import re
from types import SimpleNamespace
from typing import Any

import comfy.ops
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from mixlora.mixlora_core.bases import BASES
from mixlora.mixlora_core.files.layouts import a1111_losses
from mixlora.training import describe_cli
from mixlora.training.base import Base
from mixlora.training.export import export, file_prefixes
from mixlora.training.loop import train
from mixlora.training.metadata import describe
from mixlora.training.objective import noisy_and_target
from mixlora.training.samples import Samples
from mixlora.training.settings import TrainingError, TrainSettings
from mixlora.training.targets import target_layers
from safetensors.torch import load_file, save_file

SETTINGS = TrainSettings(steps=2, batch=2, accumulate=1, lr=1e-2, warmup=0.0, rank=2)


@pytest.fixture(scope="module")
def model(models):
    return models.unet(models.SDXL_UNET, seed=3)


def samples(**changes) -> Samples:
    source = torch.Generator().manual_seed(0)
    options: dict[str, Any] = dict(
        latents=torch.randn(2, 4, 8, 8, generator=source),
        context=torch.randn(2, 77, 2048, generator=source),
        empty=torch.randn(77, 2048, generator=source),
        pooled=torch.randn(2, 1280, generator=source),
        empty_pooled=torch.randn(1280, generator=source),
        sizes=torch.tensor([[900, 1200, 0, 40, 1024, 1024], [512, 640, 8, 0, 768, 1280]]),
    )
    return Samples(**{**options, **changes})


@pytest.fixture(params=["EPS", "V_PREDICTION"])
def either(model, request):
    """The model as one of each kind of prediction."""
    import comfy.model_base

    owner = model.model
    former = owner.model_type, owner.model_sampling
    owner.model_type = comfy.model_base.ModelType[request.param]
    owner.model_sampling = comfy.model_base.model_sampling(owner.model_config, owner.model_type)
    yield model
    owner.model_type, owner.model_sampling = former


def test_it_computes_what_comfy_samples_with(either):
    """ComfyUI's own path from a CONDITIONING's fields to the denoised latent, against the base's prediction."""
    model, sampling = either, either.model.model_sampling
    prediction = {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}[model.model.model_type.name]
    base, given = Base.from_comfy(model), samples()
    assert base.family == "sdxl" and base.prediction == prediction
    assert base.vector and given.pooled is not None and given.sizes is not None
    vector = base.vector(given.pooled, given.sizes)
    timesteps = torch.tensor([17, 800])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents = torch.stack(list(given.latents))
    noisy, _ = noisy_and_target(latents, noise, base.alphas_cumprod[timesteps], prediction)
    with torch.no_grad():
        predicted = base(noisy, timesteps.float(), given.context, vector)

    names = "height", "width", "crop_h", "crop_w", "target_height", "target_width"
    for row in range(2):
        fields = dict(zip(names, given.sizes[row].tolist(), strict=True))
        y = model.model.encode_adm(pooled_output=given.pooled[row : row + 1], device="cpu", **fields)
        assert torch.equal(vector[row : row + 1], y)
        sigma = sampling.sigmas[timesteps[row : row + 1]]
        wide = latents[row : row + 1] + sigma * noise[row : row + 1]
        with torch.no_grad():
            denoised = model.model.apply_model(wide, sigma, c_crossattn=given.context[row : row + 1], y=y)
        ours = sampling.calculate_denoised(sigma, predicted[row : row + 1], wide)
        assert (ours - denoised).norm() <= 1e-5 * denoised.norm()


def test_the_exported_file_is_what_was_trained(model, tmp_path):
    import comfy.sd

    base, given = Base.from_comfy(model, name="tiny"), samples()
    trained = train(base, given, SETTINGS)
    about = describe(base, given, SETTINGS, title="monet", steps=2)
    report = export(trained.lora, tmp_path / "monet.safetensors", model, about, dtype=torch.float32)
    assert report.modules == len(target_layers(base.unet)) == 136
    assert about["ss_base_model_version"] == "sdxl_base_v1-0"
    assert about["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"

    assert base.vector and given.pooled is not None and given.sizes is not None
    vector = base.vector(given.pooled, given.sizes)
    inputs = torch.stack(list(given.latents)), torch.tensor([20.0, 800.0]), given.context, vector
    with torch.no_grad():
        plain = base(*inputs)
        with trained.lora.attached(base.unet):
            hooked = base(*inputs)
        patched = comfy.sd.load_lora_for_models(model, None, load_file(report.path), 1.0, 0.0)[0]
        assert patched
        patched.patch_model(device_to=patched.load_device)
        try:
            applied = Base.from_comfy(patched)(*inputs)
        finally:
            patched.unpatch_model(device_to=patched.offload_device)
    assert (hooked - plain).norm() > 0.01 * plain.norm()
    assert (hooked - applied).norm() <= 1e-5 * plain.norm()


def test_mix_ups_are_named(model, sd15):
    narrow = dict(context=torch.randn(2, 77, 768), empty=torch.randn(77, 768))
    with pytest.raises(TrainingError, match="reads text 2048 wide, the captions were encoded 768 wide"):
        train(Base.from_comfy(model), samples(**narrow), SETTINGS)
    with pytest.raises(TrainingError, match="reads text 768 wide, the captions were encoded 2048 wide"):
        train(Base.from_comfy(sd15), samples(), SETTINGS)
    with pytest.raises(TrainingError, match=r"needs Samples\(pooled=..., sizes=...\)"):
        train(Base.from_comfy(model), samples(pooled=None, empty_pooled=None, sizes=None), SETTINGS)


@pytest.mark.parametrize("kind, says", [("SDXLRefiner", "give the SDXL base model"), ("SD20", "SD v1.5 and SDXL")])
def test_other_families_are_refused(kind, says):
    import comfy.supported_models

    config = getattr(comfy.supported_models, kind)({})
    with pytest.raises(TrainingError, match=f"anime is {kind}; .*{says}"):
        Base.from_comfy(SimpleNamespace(model_config=config), name="anime")


@pytest.mark.parametrize("kind, lost", [("sd1", []), ("sdxl", ["lora_unet_up_blocks_0_upsamplers_0_conv"])])
def test_the_one_layer_that_a1111_leaves_out_is_known(kind, lost):
    """By A1111's own formula for these names, which was made for SD v1.5 (its convert_diffusers_name_to_compvis)."""
    config = dict(next(base for base in BASES if base.kind == kind).unet)
    with torch.device("meta"):
        unet = UNetModel(**config, operations=comfy.ops.disable_weight_init)
    prefixes = file_prefixes(target_layers(unet, "all"), config)
    wrong = []
    for ours, theirs in prefixes.items():
        if found := re.fullmatch(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", theirs):
            block = int(found[1])
            if ours != f"output_blocks.{2 + block * 3}.{2 if block else 1}.conv":
                wrong.append(theirs)
    assert wrong == lost == a1111_losses(prefixes.values(), kind)


def test_describe_says_which_layer_a1111_leaves_out(tmp_path, capsys):
    names = ("up_blocks_0_upsamplers_0_conv", "mid_block_resnets_0_conv1")
    factors = {"lora_up.weight": torch.ones(1280, 2, 1, 1), "lora_down.weight": torch.ones(2, 1280, 3, 3)}
    tensors = {f"lora_unet_{name}.{side}": factor.clone() for name in names for side, factor in factors.items()}
    save_file(tensors, tmp_path / "a.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    assert describe_cli.main([str(tmp_path / "a.safetensors")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "A1111, Forge: no: A1111 leaves out lora_unet_up_blocks_0_upsamplers_0_conv; Forge reads all" in said


@pytest.mark.parametrize("targets, count", [("attention", 560), ("ff", 140), ("proj", 22), ("conv", 49)])
def test_comfy_and_diffusers_know_every_full_sdxl_name(targets, count):
    import comfy.lora
    import comfy.ops

    config = dict(next(base for base in BASES if base.kind == "sdxl").unet)
    skeleton: Any = torch.nn.Module()
    skeleton.diffusion_model = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
    skeleton.model_config = SimpleNamespace(unet_config=config)
    layers = target_layers(skeleton.diffusion_model, targets)
    prefixes = file_prefixes(layers, config)
    known = comfy.lora.model_lora_keys_unet(skeleton, {})
    assert len(layers) == count
    assert {known[prefixes[name]] for name in layers} == {f"diffusion_model.{name}.weight" for name in layers}

    try:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"diffusers cannot be imported: {error}")
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10),  # type: ignore[arg-type]
            attention_head_dim=(5, 10, 20), cross_attention_dim=2048, use_linear_projection=True,  # type: ignore
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
    theirs = {f"lora_unet_{name.replace('.', '_')}": module.weight.shape for name, module in unet.named_modules()
              if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))}  # fmt: skip
    for name, layer in layers.items():
        assert theirs[prefixes[name]] == layer.weight.shape
