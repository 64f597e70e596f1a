"""CLIP's scores equal open_clip's own and torchmetrics' formula, weights come from the disk only, vectors are kept."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.judges import clip
from mixlora.evaluation.painting import Painted, png
from mixlora.evaluation.runner import keep
from PIL import Image

open_clip = pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

from mixlora.evaluation.judges.clip_model import ClipModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

_spec = importlib.util.spec_from_file_location("judge_world", Path(__file__).with_name("judge_world.py"))
assert _spec and _spec.loader
world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory):
    """open_clip knows "tiny", a CLIP of two layers, and "borrowed", which wants another library's tokenizer."""
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    borrowed = {**TINY, "text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "somebody/tokenizer"}}
    (folder / "borrowed.json").write_text(json.dumps(borrowed))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, architectures):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(open_clip.create_model("tiny").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def tiny(weights):
    return ClipModel("tiny", weights)


def features(weights, picture, text):
    """What open_clip itself makes of a picture and a text."""
    model, _, prepare = open_clip.create_model_and_transforms("tiny", pretrained=str(weights))
    model.eval()
    with torch.no_grad():
        seen = model.encode_image(prepare(Image.fromarray(picture))[None])
        return seen[0].double(), model.encode_text(open_clip.get_tokenizer("tiny")([text]))[0].double()


def cosine(one, other):
    return float(one @ other / (one.norm() * other.norm()))


def values(store, key):
    return {(one.measure, one.element): one.value for one in store.scores() if one.key == key}


def test_scores_equal_a_computation_with_open_clip_alone(tmp_path, weights, tiny):
    jobs = world.jobs((*world.SETS, *world.SINGLES), ("none", "switch", "merge"))
    with world.painted(tmp_path, jobs) as store:
        outcome = clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing)
        assert (outcome.judge, outcome.judged, outcome.notes) == (tiny.name, len(jobs), [])
        job = next(job for job in jobs if job.label == "switch" and job.set.name == "tower + ink")
        found = values(store, job.key)
    picture, text = features(weights, world.picture(job), "a stone tower, round windows, ink drawing, fine lines")
    assert found["text", ""] == pytest.approx(max(100 * cosine(picture, text), 0.0), abs=1e-3)  # torchmetrics' formula
    for name in ("tower", "ink"):
        alone = next(one for one in jobs if one.label == "merge" and one.set.elements == (name,))
        expected = cosine(picture, features(weights, world.picture(alone), "")[0])
        assert found["fidelity", name] == pytest.approx(expected, abs=1e-5)
    mean = (found["fidelity", "tower"] + found["fidelity", "ink"]) / 2
    assert found["fidelity", ""] == pytest.approx(mean)


def test_pictures_are_prepared_as_the_file_beside_the_weights_says(tmp_path, weights, tiny):
    other = tmp_path / "open_clip_model.safetensors"
    other.write_bytes(weights.read_bytes())
    config = tmp_path / "open_clip_config.json"
    said = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}
    config.write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": {**said, "mode": "RGB"}}), "utf-8")
    prepared = ClipModel("tiny", other)
    picture = world.picture(world.jobs()[0])
    network, _, prepare = open_clip.create_model_and_transforms(
        "tiny", pretrained=str(weights), image_mean=(0.5,) * 3, image_std=(0.5,) * 3
    )
    with torch.no_grad():
        seen = network.eval().encode_image(prepare(Image.fromarray(picture))[None])
    expected = torch.nn.functional.normalize(seen, dim=-1).numpy()
    np.testing.assert_allclose(prepared.pictures([picture]), expected, atol=1e-5)
    assert not np.allclose(tiny.pictures([picture]), expected, atol=1e-3)
    assert prepared.name.startswith(tiny.name + " "), "another judge"
    config.write_text("{}", "utf-8")
    with pytest.raises(EvaluationError, match=r"open_clip_config\.json: no preprocess_cfg"):
        ClipModel("tiny", other)


def test_a_text_that_points_away_scores_nothing():
    assert clip.clip_score(np.array([1.0, 0.0]), np.array([-0.6, 0.8])) == 0.0
    assert clip.clip_score(np.array([1.0, 0.0]), np.array([0.6, 0.8])) == pytest.approx(60.0)


def test_fidelity_is_the_mean_over_all_pictures_of_an_adapter_alone():
    alone = [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    assert clip.fidelity(np.array([0.6, 0.8]), alone) == pytest.approx(0.7)


def test_references_are_the_first_merge_or_what_is_asked_for():
    jobs = world.jobs((*world.SETS, *world.SINGLES), ("none", "switch", "merge"))
    of = {job.key: job for job in jobs}
    for asked, label in [(None, "merge"), ("switch", "switch")]:
        found = clip.references(jobs, asked)
        assert list(found) == list(world.ELEMENTS)
        assert {of[key].label for keys in found.values() for key in keys} == {label}
    without = [job for job in jobs if job.label == "none"]
    assert clip.references(without) == {}, "a picture without adapters shows none of them"
    with pytest.raises(EvaluationError, match="expected one of none, switch, merge"):
        clip.references(jobs, "composite")


def test_without_pictures_of_adapters_alone_the_text_is_scored_and_the_way_is_told(tmp_path, tiny):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store:
        outcome = clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing)
        assert set(values(store, jobs[0].key)) == {("text", "")}
        assert "4 of 4 pictures" in outcome.notes[0] and "singles = true" in outcome.notes[0]
        more = [*jobs, *world.jobs(world.SINGLES)]
        world.painted(tmp_path, more[4:]).close()
        again = clip.judge(more, world.ELEMENTS, store, tiny, world.nothing)
        assert (again.judged, again.known, again.notes) == (6, 4, []), "only new pictures are looked at"
        assert set(values(store, jobs[0].key)) == {("text", ""), *(("fidelity", one) for one in ("tower", "snow", ""))}


def test_another_reference_changes_the_scores_without_another_look(tmp_path, tiny):
    jobs = world.jobs((*world.SETS, *world.SINGLES))
    with world.painted(tmp_path, jobs) as store:
        clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing)
        before = values(store, jobs[0].key)
        assert clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing, "switch").judged == 0
        after = values(store, jobs[0].key)
        assert after["fidelity", "tower"] != before["fidelity", "tower"] and after["text", ""] == before["text", ""]
        clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing)
        assert values(store, jobs[0].key) == before, "the same bits as at first"


def test_a_picture_is_not_held_against_itself(tmp_path, tiny):
    jobs = world.jobs(world.SINGLES)
    with world.painted(tmp_path, jobs) as store:
        assert clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing).notes == []
        of = {(job.label, job.set.name): set(values(store, job.key)) for job in jobs}
    assert of["merge", "ink"] == {("text", "")} and ("fidelity", "ink") in of["switch", "ink"]


def test_a_picture_that_was_painted_anew_is_looked_at_anew(tmp_path, tiny):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store:
        clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing)
        for seen, new in ((jobs[1], 0), (world.jobs(world.SINGLES)[0], 1)):
            keep(store, Painted(jobs[0], png(world.picture(seen)), 0.5))
            assert values(store, jobs[0].key) == {}, "what was said of the former picture is gone"
            assert clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing).judged == new, "pixels that are known"
            assert values(store, jobs[0].key)


def test_an_interrupted_look_goes_on_where_it_was(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(clip, "BATCH", 1)
    jobs = world.jobs()

    def ends(number, total):
        if number == 3:
            raise KeyboardInterrupt

    with world.painted(tmp_path, jobs) as store:
        with pytest.raises(KeyboardInterrupt):
            clip.judge(jobs, world.ELEMENTS, store, tiny, ends)
        assert clip.judge(jobs, world.ELEMENTS, store, tiny, world.nothing).judged == 1


def test_a_text_longer_than_the_context_is_told(tmp_path, tiny):
    from dataclasses import replace

    elements = {**world.ELEMENTS, "snow": replace(world.ELEMENTS["snow"], trigger="snow, " * 60)}
    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store:
        notes = clip.judge(jobs, elements, store, tiny, world.nothing).notes
    assert any("1 texts are longer than CLIP reads" in note for note in notes)
    assert tiny.fits("snow, " * 37 + "x") and not tiny.fits("snow, " * 38), "75 tokens and the two marks"


def test_weights_tell_judges_apart(tmp_path, weights, tiny):
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_file(open_clip.create_model("tiny").state_dict(), other)
    assert tiny.name.startswith("clip:tiny@") and ClipModel("tiny", other).name != tiny.name


def test_nothing_is_downloaded_and_everything_wrong_is_told(tmp_path, weights, monkeypatch):
    def refuse(*_):
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(EvaluationError, match="none of open_clip's architectures"):
        ClipModel("hf-hub:somebody/model", weights)
    with pytest.raises(EvaluationError, match="tokenizer that open_clip would download"):
        ClipModel("borrowed", weights)
    with pytest.raises(EvaluationError, match=r"laion2b_s34b_b88k: no such file.*nothing is downloaded"):
        ClipModel("ViT-B-16", Path("laion2b_s34b_b88k"))
    pickled = tmp_path / "model.bin"
    torch.save({}, pickled)
    with pytest.raises(EvaluationError, match="not a safetensors file"):
        ClipModel("tiny", pickled)
    other = tmp_path / "other.safetensors"
    save_file({"nothing": torch.zeros(1)}, other)
    with pytest.raises(EvaluationError, match=r"other\.safetensors does not fit --clip-model tiny"):
        ClipModel("tiny", other)
    other.write_bytes(b"half")
    with pytest.raises(EvaluationError, match="does not fit"):
        ClipModel("tiny", other)
    ClipModel("tiny", weights)
