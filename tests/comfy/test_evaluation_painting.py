"""What the testbed paints is what the pack's nodes paint; killed, resumed or painted by a cluster, the same bits."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mixlora.evaluation import cli
from mixlora.evaluation.jobs import Element, ElementSet, EvaluationError, Job, Sampling
from mixlora.evaluation.methods import method
from mixlora.evaluation.painting import Painter, unknown_samplers
from mixlora.evaluation.plan import read_plan
from mixlora.evaluation.runner import missing, open_results, paint
from mixlora.evaluation.testbeds import digests
from mixlora.mixlora_core.files import lora_file
from mixlora.mixlora_core.stack import StackEntry, StyleStack
from mixlora.nodes import EncodeTextPerLoRA, LoRACompositeSampler, LoRASwitchSampler, MixLoRAWeights
from safetensors.torch import save_file

SAMPLING = Sampling(3, 2.0, "euler", "normal", 64, 64)
CHOSEN = ElementSet("tower + snow", "north", ("tower", "snow"))


def text_layers(seed):
    """LoRAs of CLIP-L's own width, which the tiny files of models.py have not; the tiny checkpoint has zeros there."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for layer, out, into in (("fc1", 3072, 768), ("fc2", 768, 3072)):
        name = f"lora_te_text_model_encoder_layers_0_mlp_{layer}"
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 4, generator=generator) * 0.1
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, into, generator=generator) * 0.1
    return tensors


@pytest.fixture(scope="module")
def testbed(checkpoint, models, tmp_path_factory):
    """Two adapters with a text half each, on the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(CHOSEN.elements):
        tensors = models.lora_tensors("LoRA", seed=seed, text=False) | text_layers(seed)
        save_file({key: value.clone() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return SimpleNamespace(
        elements={name: Element(name, "north", "thing", name) for name in CHOSEN.elements},
        checkpoint=lambda world: checkpoint,
        vae=lambda world: None,
        adapter=lambda name: folder / f"{name}.safetensors",
        precision=nullcontext,
    )


@pytest.fixture(scope="module")
def painter(testbed):
    return Painter(testbed)


def job(testbed, kind, strength=0.7, **parameters):
    made = method(kind, parameters, strength)
    return Job(kind, made, CHOSEN, "a hill, tower, snow", "dull", 11, SAMPLING, digests(testbed, CHOSEN))


@pytest.fixture
def by_hand(testbed):
    """The picture as the graph of nodes paints it, from the loaded checkpoint up."""
    import comfy.sd

    loaded: Any = comfy.sd.load_checkpoint_guess_config(str(testbed.checkpoint("")))
    model, clip, vae = loaded[:3]

    def stack(strength):
        files = [lora_file.read(testbed.adapter(name)) for name in CHOSEN.elements]
        return StyleStack(tuple(StackEntry(file.name, file, strength, strength) for file in files))

    def read(clip, text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def paint(kind, strength=0.7, mode="sum", every=5):
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        values = {
            "seed": 11, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "latent_image": latent,
        }  # fmt: skip
        prompts = job(testbed, kind).prompt, job(testbed, kind).negative
        if kind in ("none", "merge"):
            nodes: Any = importlib.import_module("nodes")  # ComfyUI's
            mixed = MixLoRAWeights.execute(model, mode, 1.0, 0.0, clip, stack(strength)).args if kind == "merge" else ()
            patched, reader = mixed[:2] if mixed else (model, clip)
            texts = [read(reader, text) for text in prompts]
            sampled = nodes.common_ksampler(patched, 11, 3, 2.0, "euler", "normal", *texts, latent)[0]
        else:
            texts = [EncodeTextPerLoRA.execute(clip, text, stack(strength)).args[0] for text in prompts]
            values |= dict(zip(("positive", "negative"), texts, strict=True))
            node, own = (LoRASwitchSampler, {"switch_every": every, "order": ""}) if kind == "switch" else (
                LoRACompositeSampler, {"weights": ""})  # fmt: skip
            sampled = node.execute(model, stack=stack(strength), **own, **values).args[0]
        return (255 * vae.decode(sampled["samples"])).clamp(0, 255).byte().numpy()[0]

    return paint


@pytest.mark.parametrize(
    ("kind", "parameters", "nodes"),
    [
        ("none", {}, {}),
        ("merge", {}, {}),
        ("merge", {"mode": "root"}, {"mode": "1/sqrt(N)"}),
        ("merge", {"mode": "mean"}, {"strength": 0.35}),
        ("switch", {"every": 1}, {"every": 1}),
        ("composite", {}, {}),
    ],
)
def test_paints_what_the_nodes_paint(testbed, painter, by_hand, kind, parameters, nodes):
    with torch.inference_mode():
        expected = by_hand(kind, **nodes)
    picture, seconds = painter.paint(job(testbed, kind, **parameters))
    assert picture.shape == (64, 64, 3) and seconds > 0
    np.testing.assert_array_equal(picture, expected)


def test_a_layout_is_the_masks_of_the_node(testbed, painter, monkeypatch):
    """Boxes become masks in the order of the stack, as an artist would connect them."""
    from mixlora.mixlora_core.regions import regional

    given, by_hand = [], regional.by_hand

    def remembered(model, clip, stack, masks, overlap):
        given.append((*masks, overlap))
        return by_hand(model, clip, stack, masks, overlap)

    monkeypatch.setattr(regional, "by_hand", remembered)
    boxes = ["snow 0 0.25 0.5 1", "castle 0 0 1 1"]
    picture, _ = painter.paint(job(testbed, "layout", boxes=boxes))
    tower, snow, overlap = given[0]
    assert tower is None and overlap == "sum"
    assert snow.shape == (64, 64) and snow[:32, 16:].all() and snow.sum() == 32 * 48
    whole = [f"{name} 0 0 1 1" for name in CHOSEN.elements]
    everywhere, _ = painter.paint(job(testbed, "layout", boxes=whole))
    merged, _ = painter.paint(job(testbed, "merge"))
    assert np.abs(everywhere.astype(int) - merged).max() <= 2, "everywhere it is the sum"
    assert (picture != everywhere).any()


def test_methods_parameters_and_noise_all_matter(testbed, painter):
    jobs = [job(testbed, "none"), job(testbed, "merge"), job(testbed, "merge", mode="mean"), job(testbed, "merge", 0.3),
            *(job(testbed, "switch", text=text, every=1) for text in ("own", "base", "first", "all")),
            replace(job(testbed, "none"), seed=12)]  # fmt: skip
    pictures = {painter.paint(one)[0].tobytes() for one in jobs}
    assert len(pictures) == len(jobs)
    first = painter.paint(jobs[0])[0]
    np.testing.assert_array_equal(first, painter.paint(jobs[0])[0], "whatever was painted between")


def test_a_job_that_cannot_be_painted_says_why(testbed, painter):
    other = replace(job(testbed, "merge"), files=("0" * 64,) * 3)
    assert painter.attempt(other).error.startswith("EvaluationError: the files here are not those")
    unknown = replace(job(testbed, "none"), sampling=replace(SAMPLING, sampler_name="eulr"))
    assert "sampler_name 'eulr' is unknown" in painter.attempt(unknown).error, "ComfyUI would take another one"
    assert unknown_samplers([unknown]) == [line for line in unknown_samplers([unknown]) if "'eulr' is unknown" in line]
    assert painter.attempt(job(testbed, "none")).png, "the next one is painted"


PLAN = """
testbed = "standin"
[sets]
names = ["lighthouse + snow", "lighthouse + snow + van_gogh"]
[sampling]
steps = 2
[methods.none]
kind = "none"
[methods.merge]
kind = "merge"
[methods.switch]
kind = "switch"
every = 1
[methods.composite]
kind = "composite"
"""


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A plan on the stand-in and what this process paints of it."""
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
    assert cli.main(["run", str(folder / "plan.toml"), "--results", str(folder / "here")]) == 0
    with open_results(folder / "here") as store:
        pictures = {key: store.picture_path(key).read_bytes() for key in store.pictures()}
    assert len(pictures) == 8
    return SimpleNamespace(plan=read_plan(folder / "plan.toml"), path=folder / "plan.toml", pictures=pictures)


def kept(folder):
    with open_results(folder) as store:
        return {key: store.picture_path(key).read_bytes() for key in store.pictures()}


def test_a_killed_run_goes_on_to_the_same_bits(painted, tmp_path, comfyui):
    command = [sys.executable, "-m", "mixlora.evaluation", "run", str(painted.path), "--results", str(tmp_path)]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert running.stdout is not None
    assert any(line.startswith("1/8") for line in running.stdout)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = kept(tmp_path)
    assert 1 <= len(before) < 8
    with open_results(tmp_path) as store:
        todo = missing(store, painted.plan.jobs())
        assert len(todo) == 8 - len(before)
        local = Painter(painted.plan.testbed)
        outcome = paint(store, todo, lambda jobs, stop: map(local.attempt, jobs), lambda: False)
    assert outcome.painted == len(todo)
    assert kept(tmp_path) == painted.pictures


def test_a_plan_with_an_unknown_sampler_paints_nothing(painted, tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN.replace("steps = 2", 'sampler_name = "eulr"'), encoding="utf-8")
    assert cli.main(["run", str(tmp_path / "plan.toml"), "--results", str(tmp_path)]) == 1
    assert "sampler_name 'eulr' is unknown to this ComfyUI" in capsys.readouterr().err


@pytest.fixture
def on_one_core(painted, tmp_path_factory):
    """What this process paints with one thread, as a worker does: on some processors two threads round otherwise."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("one core")
    torch.set_num_threads(1)
    try:
        assert cli.main(["run", str(painted.path), "--results", str(folder)]) == 0
    finally:
        torch.set_num_threads(threads)
    return kept(folder)


def test_two_workers_of_which_one_is_killed_lose_nothing(painted, on_one_core, tmp_path):
    pytest.importorskip("ray")
    from mixlora.evaluation.cluster import Cluster

    killed, seen, at_sigterm = [], [], signal.getsignal(signal.SIGTERM)
    jobs = painted.plan.jobs()
    with open_results(tmp_path) as store, Cluster(painted.plan.testbed, "local", workers=2) as cluster:
        assert signal.getsignal(signal.SIGTERM) is at_sigterm, "Ray has its own, which loses the picture in hand"

        def source(jobs, stop):
            for done in cluster.paint(jobs, stop):
                if not killed:
                    killed.append(next(iter(cluster.workers.values())))
                    os.kill(killed[0], signal.SIGKILL)
                seen.append(done.job.key)
                yield done

        outcome = paint(store, missing(store, jobs), source, lambda: False)
    assert killed and (outcome.painted, outcome.failed) == (8, [])
    assert sorted(seen) == sorted(job.key for job in jobs), "each once"
    assert kept(tmp_path) == on_one_core


def test_without_ray_it_says_what_to_install(painted, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["run", str(painted.path), "--results", str(tmp_path), "--ray"]) == 1
    assert "pip install ray" in capsys.readouterr().err


def test_the_negative_prompts_of_composlora_are_one_chunk():
    from comfy.sd1_clip import SD1Tokenizer
    from mixlora.evaluation.composlora import ComposLoRA

    for world in ComposLoRA().worlds.values():
        whole, cut = (SD1Tokenizer().tokenize_with_weights(world[key])["l"] for key in ("negative", "negative_read"))
        assert len(whole) > 1 and cut == whole[:1], "what the paper's library reads"


def test_a_file_that_is_gone_is_named(painted):
    absent: Any = SimpleNamespace(checkpoint=lambda world: painted.path.with_name("absent"), vae=lambda world: None)
    with pytest.raises(EvaluationError, match="absent cannot be read"):
        digests(absent, CHOSEN)
