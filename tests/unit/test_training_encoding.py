"""Encodings on disk: made once, found again, noticed where anything they depend on changed, made anew where damaged."""

import os
import types
from dataclasses import replace

import pytest
import torch
from mixlora.training.cache import Cache, fingerprint
from mixlora.training.dataset import find_pictures
from mixlora.training.encoding import encode, repeated
from mixlora.training.settings import TrainingError, TrainSettings
from PIL import Image
from safetensors import safe_open

SETTINGS = TrainSettings(resolution=128, caption_shuffle=2)


class Vae:
    """ComfyUI's VAE in its call only: the mean of every 8 x 8 pixels."""

    def __init__(self):
        self.first_stage_model = torch.nn.Conv2d(3, 4, 8)
        self.calls = 0
        torch.nn.init.ones_(self.first_stage_model.weight)
        torch.nn.init.zeros_(self.first_stage_model.get_parameter("bias"))

    def encode(self, pixels):
        self.calls += len(pixels)
        mean = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([mean, mean[:, :1]], 1)


class Clip:
    """ComfyUI's CLIP in its calls only: chunks of four words, a word's number its length."""

    def __init__(self):
        self.cond_stage_model = torch.nn.Linear(2, 2)
        self.calls = 0
        torch.nn.init.ones_(self.cond_stage_model.weight)
        torch.nn.init.zeros_(self.cond_stage_model.bias)

    def tokenize_with_weights(self, text, return_word_ids, disable_weights):
        assert not return_word_ids and disable_weights
        words = text.split() or [""]
        chunks = [[*words[i : i + 4], "", "", ""][:4] for i in range(0, len(words), 4)]
        return {"l": [[(len(word), 1.0) for word in chunk] for chunk in chunks]}

    def encode_from_tokens(self, tokens, return_pooled):
        assert return_pooled
        self.calls += 1
        numbers = torch.tensor([[float(number), 1.0] for chunk in tokens["l"] for number, _ in chunk])[None]
        return numbers, numbers.sum(1)


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number, caption in enumerate(["hill, tree", "sea", "hill, tree"]):
        Image.effect_noise((150 + 150 * (number == 1), 140), 60).convert("RGB").save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(caption)
    return data


@pytest.fixture
def run(folder, tmp_path):
    """One start of the trainer up to the samples, with encoders of its own unless others are given."""

    def start(*, flip=True, vae=None, clip=None, kept=True, settings=SETTINGS, sdxl=False):
        vae, clip = vae or Vae(), clip or Clip()
        vae.calls = clip.calls = 0
        cache = Cache(tmp_path / "cache") if kept else None
        found = find_pictures(folder, settings, lambda text: 1)
        samples = encode(found.pictures, clip, vae, lambda x: 2 * x, flip=flip, sdxl=sdxl, cache=cache)
        return types.SimpleNamespace(samples=samples, vae=vae.calls, clip=clip.calls, cache=cache)

    return start


def test_a_second_start_encodes_nothing_and_gives_the_same_samples(run, tmp_path):
    without = run(kept=False)
    first, second = run(), run()
    assert (first.vae, first.clip) == (without.vae, without.clip) == (6, 4) and (second.vae, second.clip) == (0, 0)
    assert str(first.cache) == f"cache {tmp_path / 'cache'}: latents 0 read, 6 made, texts 0 read, 4 made"
    assert str(second.cache) == f"cache {tmp_path / 'cache'}: latents 6 read, 0 made, texts 4 read, 0 made"
    assert first.samples.digest() == second.samples.digest() == without.samples.digest()
    names = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert names == {".latent", ".text"}  # ComfyUI would list .safetensors


def test_samples_are_what_was_encoded(run):
    samples = run(sdxl=True).samples
    assert samples.shapes == [(4, 16, 16), (4, 8, 24), (4, 16, 16)] and samples.rows == ((0, 1), (2,), (0, 1))
    torch.testing.assert_close(samples.flipped[0], samples.latents[0].flip(-1))
    assert samples.latents[0].mean().item() == pytest.approx(1.0, abs=0.1)  # the noise's mean is a half, scaled by 2
    assert samples.context[0].tolist() == [[5, 1], [4, 1], [0, 1], [0, 1]] and samples.empty is not None
    assert samples.captions == ["hill, tree", "sea", "hill, tree"] and samples.names[1].endswith("1.png")
    assert samples.pooled is not None and samples.pooled.tolist() == [[9, 4], [9, 4], [3, 4]]
    assert samples.sizes is not None and samples.sizes[1].tolist() == [140, 300, 13, 0, 64, 192]
    plain = run(flip=False).samples
    assert plain.flipped == () and plain.pooled is None and plain.sizes is None


def test_progress_is_told_of_captions_and_pictures(folder):
    told = []

    def progress(what, total):
        return lambda done: told.append(f"{what} {done}/{total}")

    found = find_pictures(folder, SETTINGS, lambda text: 1)
    encode(found.pictures, Clip(), Vae(), lambda x: x, progress=progress)
    assert told == [f"encoding captions {n}/4" for n in range(1, 5)] + [f"encoding pictures {n}/3" for n in (1, 2, 3)]


def test_whatever_an_encoding_depends_on_makes_it_new(run, folder):
    run()
    Image.effect_noise((150, 140), 90).convert("RGB").save(folder / "0.png")
    changed = run()
    assert (changed.vae, changed.clip) == (2, 0)
    (folder / "1.txt").write_text("a sea")
    again = run()
    assert (again.vae, again.clip) == (0, 1)
    other = run(settings=replace(SETTINGS, buckets=False))
    assert (other.vae, other.clip) == (2, 0)  # only the picture that was no square

    vae, clip = Vae(), Clip()
    with torch.no_grad():
        vae.first_stage_model.weight[0, 0, 0, 0] += 1
    again = run(vae=vae)
    assert (again.vae, again.clip) == (6, 0)
    clip.cond_stage_model.half()
    again = run(clip=clip)
    assert (again.vae, again.clip) == (0, 4)
    again = run()  # nothing was overwritten by all this
    assert (again.vae, again.clip) == (0, 0)


def test_damaged_files_are_made_anew_and_named(run, tmp_path):
    good = run().samples
    latents = sorted((tmp_path / "cache").glob("*.latent"))
    texts = sorted((tmp_path / "cache").glob("*.text"))
    latents[0].write_bytes(latents[0].read_bytes()[:-10])
    latents[1].write_bytes(b"")
    bytes_ = bytearray(latents[2].read_bytes())
    bytes_[-3] ^= 1
    latents[2].write_bytes(bytes_)
    texts[0].write_bytes(texts[1].read_bytes())
    again = run()
    assert (again.vae, again.clip) == (3, 1) and again.samples.digest() == good.digest()
    told = str(again.cache)
    assert "4 damaged file(s) in the cache were made anew: " in told
    assert all(path.name in told for path in (*latents[:3], texts[0]))
    clean = run()
    assert (clean.vae, clean.clip) == (0, 0) and not clean.cache.damaged
    with safe_open(latents[0], "pt") as file:
        assert list(file.keys()) == ["latent"] and '"flip"' in file.metadata()["key"]


def test_a_picture_that_changes_meanwhile_is_noticed(folder, tmp_path):
    found = find_pictures(folder, SETTINGS, lambda text: 1)
    (folder / "2.png").write_bytes((folder / "1.png").read_bytes())
    with pytest.raises(TrainingError, match=r"2\.png: has changed since the start"):
        encode(found.pictures, Clip(), Vae(), lambda x: x, cache=Cache(tmp_path / "cache"))


def test_a_folder_that_cannot_be_written_to_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(TrainingError, match=r"cache.*: cannot write there .*--cache"):
        run()
    (tmp_path / "cache").unlink()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(TrainingError, match=r"No space left on device.*--cache"):
        run()
    assert not list((tmp_path / "cache").iterdir())


def test_what_is_not_finite_is_refused_by_name_and_not_kept(run, monkeypatch):
    monkeypatch.setattr(Vae, "encode", lambda self, pixels: torch.full((1, 4, 16, 16), torch.nan))
    with pytest.raises(TrainingError, match=r"(?s)latents: not finite for .*0\.png, .*1\.png, .*2\.png"):
        run()
    monkeypatch.undo()
    assert run().vae == 6


def test_captions_of_several_lengths_are_repeated_to_one(run, folder):
    (folder / "1.txt").write_text("one two three four five")
    (folder / "2.txt").write_text("one two three four five six seven eight nine")
    samples = run().samples
    assert samples.context.shape == (4, 24, 2) and samples.empty is not None and samples.empty.shape == (24, 2)
    longest = samples.context[3]
    assert torch.equal(longest[:12], longest[12:]) and torch.equal(samples.context[2][:8], samples.context[2][16:])

    torch.manual_seed(0)
    query, keys, values = torch.randn(1, 5, 8), torch.randn(4, 8), torch.randn(4, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(
        attend(query, repeated(keys, 12)[None], repeated(values, 12)[None]), attend(query, keys[None], values[None])
    )


def test_fingerprints_tell_weights_names_and_formats_apart():
    torch.manual_seed(0)
    one, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    same = torch.nn.Linear(3, 3)
    same.load_state_dict(one.state_dict())
    prints = [fingerprint(module) for module in (one, other, torch.nn.Sequential(one))]
    assert fingerprint(same) == prints[0] and fingerprint(same.bfloat16()) not in prints and len(set(prints)) == 3
