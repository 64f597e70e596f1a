"""The sampler nodes and their twins: KSampler's own behaviour, and what they say about bad input."""

import importlib
import logging
from typing import Any

import pytest
import torch

KSAMPLER = {"seed": 3, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture
def rows(loras):
    """A LORA_STACK of two files."""
    return [(loras.save(f"n{seed}", "LoRA", seed=seed, size=0.1), 0.8, 0.0) for seed in range(2)]


@pytest.fixture
def paint(sd15, models):
    """Runs a sampler node on the same texts and a fixed latent; returns all its outputs."""

    def run(node, denoise=1.0, latent=None, **inputs):
        latent = latent or {"samples": torch.zeros(1, 4, 8, 8)}
        texts = {"positive": models.text(6), "negative": models.text(7)}
        values = {"model": sd15, **KSAMPLER, **texts, "latent_image": latent, "denoise": denoise, **inputs}
        return node.execute(**values).result

    return run


@pytest.fixture
def ksampler(models):
    """KSampler of ComfyUI with the same inputs."""
    core: Any = importlib.import_module("nodes")

    def run(model, denoise=1.0, latent=None):
        latent = latent or {"samples": torch.zeros(1, 4, 8, 8)}
        return core.KSampler().sample(
            model, *KSAMPLER.values(), models.text(6), models.text(7), latent, denoise=denoise
        )[0]

    return run


def nodes() -> dict[str, Any]:
    from mixlora import nodes as pack

    return {node.__name__: node for node in pack.NODES}


def switch(paint, **inputs):
    return paint(nodes()["LoRASwitchSampler"], **({"switch_every": 1, "order": ""} | inputs))


def composite(paint, **inputs):
    return paint(nodes()["LoRACompositeSampler"], **({"weights": ""} | inputs))


@pytest.mark.parametrize("case", ["whole", "image to image", "inpainting", "batch"])
def test_one_lora_is_ksampler_with_lora_loader(case, paint, ksampler, chained, sd15, rows, models):
    """Noise, masks, batches and partial denoising are KSampler's own; so are the bits."""
    random = torch.Generator().manual_seed(1)
    latent: dict[str, Any] = {"samples": torch.zeros(1, 4, 8, 8)}
    denoise = 1.0
    if case == "image to image":
        latent, denoise = {"samples": torch.randn(1, 4, 8, 8, generator=random)}, 0.6
    elif case == "inpainting":
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., 32:] = 1.0
        latent = {"samples": torch.randn(1, 4, 8, 8, generator=random), "noise_mask": mask}
    elif case == "batch":
        latent = {"samples": torch.zeros(2, 4, 8, 8), "batch_index": [4, 9]}
    expected = ksampler(chained(sd15, None, rows[:1])[0], denoise, latent)
    ours = switch(paint, lora_stack=rows[:1], denoise=denoise, latent=latent)[0]
    assert models.same_bits(ours["samples"], expected["samples"])
    assert ours.keys() == expected.keys()
    averaged = composite(paint, lora_stack=rows[:1], denoise=denoise, latent=latent)[0]["samples"]
    assert ((averaged - expected["samples"]).norm() / expected["samples"].norm()).item() < 1e-5


@pytest.mark.parametrize("name", ["Switch", "Composite"])
def test_the_twin_gives_ksampler_the_same(name, paint, ksampler, sd15, rows, models):
    if name == "Switch":
        theirs = switch(paint, lora_stack=rows)[0]
        model = nodes()["ApplyLoRASwitch"].execute(sd15, 1, "", lora_stack=rows).result[0]
    else:
        theirs = composite(paint, lora_stack=rows, weights="2, 1")[0]
        model = nodes()["ApplyLoRAComposite"].execute(sd15, "2, 1", lora_stack=rows).result[0]
    assert models.same_bits(ksampler(model)["samples"], theirs["samples"])


@pytest.mark.parametrize("mode", ["average", "full strength"])
def test_modes_of_composite_are_its_forms(mode, paint, rows, compose, ksampler, models):
    from mixlora.mixlora_core.composition import Centred, Composite, Reused
    from mixlora.mixlora_core.stack import StyleStack

    weights = (1.0, 0.5)
    forms = {"average": Composite(2, weights), "full strength": Reused(Centred(2, weights=weights))}
    expected = ksampler(compose(StyleStack().plus(rows), forms[mode]))["samples"]
    (ours,) = composite(paint, lora_stack=rows, weights="1, 0.5", mode=mode)
    assert models.same_bits(ours["samples"], expected)


def test_both_inputs_make_one_stack(paint, rows, models):
    from mixlora.mixlora_core.stack import StyleStack

    apart = composite(paint, stack=StyleStack().plus(rows[:1]), lora_stack=rows[1:])[0]["samples"]
    assert models.same_bits(apart, composite(paint, lora_stack=rows)[0]["samples"])


def test_switch_tells_its_timetable(paint, rows):
    _, text, picture = switch(paint, lora_stack=rows, order="2, 1", switch_every=3)
    assert f"- {rows[1][0]}: 3 steps (1-3)" in text
    assert f"- {rows[0][0]}: 1 steps (4)" in text
    assert picture.dim() == 4 and picture.shape[3] == 3 and picture.min() >= 0 and picture.max() <= 1


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"scheduler": "ddim_uniform", "steps": 35}, 36), ({"denoise": 0.5}, 4), ({"denoise": 0.0}, 4)],
)
def test_the_timetable_is_that_of_the_steps_that_are_run(settings, steps, paint, rows, monkeypatch):
    """ComfyUI's ddim_uniform makes 36 steps of 35."""
    monkeypatch.setattr("mixlora.nodes._sampling.KSamplerValues.sample", lambda self, model: {})
    text = switch(paint, lora_stack=rows, switch_every=steps - 1, **settings)[1]
    assert f"1 steps ({steps})" in text


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("switch", {"lora_stack": []}, "stack is empty"),
        ("composite", {}, "stack is empty"),
        ("switch", {"order": "1"}, "expected each number from 1 to 2 once"),
        ("switch", {"order": "one"}, "expected whole numbers"),
        ("switch", {"switch_every": 0, "steps": 1}, "2 LoRAs cannot each have a turn in 1 steps"),
        ("composite", {"weights": "1"}, "1 weights for 2 LoRAs"),
        ("composite", {"weights": "0 0"}, "All weights are 0"),
        ("composite", {"weights": "nan 1"}, "finite numbers"),
    ],
)
def test_bad_input_stops_before_sampling(node, inputs, message, paint, rows, sd15):
    if "stack" not in message:
        inputs = {"lora_stack": rows} | inputs
    with pytest.raises(ValueError, match=message):
        {"switch": switch, "composite": composite}[node](paint, **inputs)
    assert not sd15.patches


def test_a_lora_that_never_speaks_is_named(paint, rows):
    assert f"- {rows[1][0]}: NEVER" in switch(paint, lora_stack=rows, switch_every=9)[1]


NOTE = "2 of 3 LoRAs have text-encoder parts that this node does not use: Encode Text per LoRA applies them"


@pytest.mark.parametrize("name", ["LoRASwitchSampler", "LoRACompositeSampler", "ApplyLoRASwitch", "ApplyLoRAComposite"])
def test_text_encoder_parts_that_are_not_used_are_told(name, paint, sd15, models, loras, caplog):
    from mixlora.mixlora_core.execution import TEXT

    files = [(loras.save("quiet", text=False), 1.0, 1.0), *((loras.save(f"t{seed}"), 1.0, 1.0) for seed in range(2))]
    inputs = {"switch_every": 1, "order": ""} if "Switch" in name else {"weights": ""}
    with caplog.at_level(logging.INFO):
        if name.startswith("Apply"):
            nodes()[name].execute(sd15, **inputs, lora_stack=files)
        else:
            told = paint(nodes()[name], **inputs, lora_stack=files)
            assert "Switch" not in name or told[1].endswith(f"- note: {NOTE}")
    assert caplog.text.count(NOTE) == 1
    caplog.clear()
    own = [*(models.text(6, **{TEXT: (index, 3)})[0] for index in range(3))]
    with caplog.at_level(logging.INFO):
        if not name.startswith("Apply"):
            paint(nodes()[name], **inputs, lora_stack=files, positive=own)
    assert "text-encoder" not in caplog.text
