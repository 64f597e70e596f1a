"""Pictures and captions through ComfyUI's own tokenizer, text encoder, VAE and UNet."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from mixlora.training.base import Base
from mixlora.training.cache import Cache
from mixlora.training.captions import count_chunks, tokenize
from mixlora.training.dataset import find_pictures
from mixlora.training.encoding import encode, repeated, skipping
from mixlora.training.loop import train
from mixlora.training.settings import TrainingError, TrainSettings
from PIL import Image

SETTINGS = TrainSettings(
    resolution=128, trigger="monet style", steps=4, batch=2, accumulate=1, lr=1e-2, flip=True, caption_shuffle=3
)


@pytest.fixture
def folder(tmp_path):
    """Three pictures in two proportions; one caption is longer than 75 tokens."""
    for number, caption in enumerate(["a hill", "a (very) red sea", "a hill, " * 30 + "trees"]):
        width = 160 if number < 2 else 360
        Image.new("RGB", (width, 140), (90 * number, 40, 200)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption)
    return tmp_path


class Shrink:
    """Stands in for a VAE: the mean of every 8 x 8 pixels."""

    def encode(self, pixels):
        assert pixels.min() >= 0 and pixels.max() <= 1
        mean = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([mean, mean[:, :1]], 1)


@pytest.fixture
def encoded(folder, clip):
    def start(**options):
        settings = replace(SETTINGS, **options)
        found = find_pictures(folder, settings, count_chunks(clip))
        return encode(found.pictures, clip, Shrink(), lambda latent: latent * 2, flip=settings.flip)

    return start


def test_brackets_in_captions_weigh_nothing(clip):
    tokens = tokenize(clip, "a ((study)) of (light:1.4) [and] shade")
    assert {token[1] for chunk in tokens["l"] for token in chunk} == {1.0}
    assert clip.tokenize("(light:1.4)") != clip.tokenize("light")  # what prompts do
    chunks = count_chunks(clip)
    assert chunks("a hill") == 1 and chunks("a hill " * 60) == 2


def test_a_folder_becomes_samples(clip, encoded):
    samples = encoded(caption_shuffle=0)
    assert samples.shapes == [(4, 16, 16), (4, 16, 16), (4, 8, 24)] and samples.rows == ((0,), (1,), (2,))
    torch.testing.assert_close(samples.latents[1][0], torch.full((16, 16), 2 * 90 / 255))
    assert samples.captions[1] == "a (very) red sea, monet style"
    assert samples.context.shape[1] == 154 and samples.empty is not None
    one = samples.context[:, :77], samples.context[:, 77:]
    assert torch.equal(one[0][0], one[1][0]) and not torch.equal(one[0][2], one[1][2])
    torch.testing.assert_close(one[0][0], clip.encode("a hill, monet style")[0].float())
    torch.testing.assert_close(samples.context[2], clip.encode(samples.captions[2])[0].float())
    torch.testing.assert_close(samples.empty, clip.encode("").repeat(1, 2, 1)[0].float())
    assert not torch.allclose(one[0][1], clip.encode("a (very) red sea, monet style")[0].float())


def test_repeating_a_context_changes_nothing_that_the_unet_says(sd15):
    base = Base.from_comfy(sd15)
    source = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8, generator=source), torch.randn(77, 768, generator=source)
    with torch.no_grad():
        once, thrice = (base(x, torch.tensor([500.0]), repeated(context, 77 * n)[None]) for n in (1, 3))
    assert (once - thrice).norm() <= 1e-5 * once.norm()


def test_clip_skip_reads_the_layer_that_comfys_node_sets(clip):
    comfys: Any = importlib.import_module("nodes")
    assert skipping(clip, 1, sdxl=True) is clip
    encoders = [skipping(clip, 2, sdxl=False), *comfys.CLIPSetLastLayer().set_last_layer(clip, -2), clip]
    ours, of_the_node, unskipped = (each.encode_from_tokens(each.tokenize("a hill")) for each in encoders)
    assert torch.equal(ours, of_the_node) and not torch.equal(ours, unskipped)
    assert clip.layer_idx is None
    with pytest.raises(TrainingError, match=r"clip_skip: SDXL .*found 2, leave it out"):
        skipping(clip, 2, sdxl=True)


def test_several_proportions_train_each_batch_in_one(models, encoded):
    narrow, shapes = encoded(), []
    assert narrow.empty is not None
    wide = {name: torch.nn.functional.pad(getattr(narrow, name), (0, 704)) for name in ("context", "empty")}
    samples = replace(narrow, **wide, caption_of=narrow.rows)  # the tiny CLIP's states, as wide as CLIP-L's
    base = Base.from_comfy(models.unet(models.SD15_UNET, seed=3))
    base.unet.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    assert [len(rows) for rows in samples.rows] == [1, 1, 3] and len(samples.flipped) == 3
    trained = train(base, samples, SETTINGS)
    assert trained.finished and torch.isfinite(torch.tensor(trained.losses)).all()
    assert set(shapes) == {(2, 4, 16, 16), (2, 4, 8, 24)}


def test_a_second_start_asks_neither_encoder_again(folder, clip, tmp_path, monkeypatch):
    from comfy.sd import VAE
    from comfy.taesd.taesd import TAESD

    torch.manual_seed(0)
    like = TAESD().state_dict()  # ComfyUI leaves convolutions uninitialised
    weights = {name: torch.randn_like(value) * 0.1 if value.dim() else value for name, value in like.items()}
    vae = VAE(sd=weights)
    found = find_pictures(folder, SETTINGS, count_chunks(clip))

    def start():
        cache = Cache(tmp_path / "cache")
        return encode(found.pictures, clip, vae, lambda latent: latent, flip=True, cache=cache), cache

    first, cache = start()
    assert cache.made == {"latent": 6, "text": 6} and not cache.read
    asked = []
    monkeypatch.setattr(vae, "encode", asked.append)
    monkeypatch.setattr(clip, "encode_from_tokens", asked.append)
    # SD v1.5 checkpoints have no such weights, and ComfyUI leaves them as the memory was
    projection = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    monkeypatch.setattr(projection, "data", torch.full_like(projection, torch.nan))
    second, cache = start()
    assert cache.read == {"latent": 6, "text": 6} and not cache.made and not asked
    assert second.digest() == first.digest()
    monkeypatch.undo()
    without = encode(found.pictures, clip, vae, lambda latent: latent, flip=True)
    assert without.digest() == first.digest()


def test_sdxl_gets_pooled_text_and_sizes(folder):
    import types

    import comfy.sd
    import comfy.sdxl_clip

    narrow = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "hidden_act": "gelu", "max_position_embeddings": 77, "layer_norm_eps": 1e-5, "projection_dim": 64,
        "vocab_size": 49408, "eos_token_id": 49407, "num_channels": 3,
    }  # fmt: skip
    target = types.SimpleNamespace(
        params={}, clip=comfy.sdxl_clip.SDXLClipModel, tokenizer=comfy.sdxl_clip.SDXLTokenizer
    )
    options = {"clip_l_model_config": narrow, "clip_g_model_config": narrow, "dtype": torch.float32}
    clip = comfy.sd.CLIP(target, model_options=options)
    torch.manual_seed(1)
    for name, parameter in clip.cond_stage_model.named_parameters():
        unused = name == "clip_l.transformer.text_projection.weight"
        parameter.data = torch.randn_like(parameter) * 0.05 if not unused else torch.full_like(parameter, torch.nan)

    found = find_pictures(folder, SETTINGS, count_chunks(clip))
    samples = encode(found.pictures, clip, Shrink(), lambda latent: latent, sdxl=True)
    encoded: Any = clip.encode_from_tokens(tokenize(clip, samples.captions[0]), return_pooled=True)
    assert samples.context.shape[1:] == (154, 128) and samples.pooled is not None and samples.sizes is not None
    torch.testing.assert_close(samples.context[0], encoded[0][0].repeat(2, 1))
    torch.testing.assert_close(samples.pooled[0], encoded[1][0])
    assert samples.empty_pooled is not None and not torch.equal(samples.empty_pooled, samples.pooled[0])
    assert samples.sizes.tolist() == [[140, 160, 0, 9, 128, 128]] * 2 + [[140, 360, 5, 0, 64, 192]]
