"""The sampler nodes in a server that goes on for long: parts of a run, and two hundred queues in turn."""

from __future__ import annotations

import io
import statistics

import numpy as np
import psutil
import pytest
from mixlora.tools import workflows
from mixlora.tools.graph import to_prompt
from PIL import Image

SAMPLERS = {"merge": "KSampler", "switch": "LoRASwitchSampler", "composite": "LoRACompositeSampler"}


def picture(result) -> np.ndarray:
    """The one saved picture of a result."""
    (only,) = result.saved
    return np.asarray(Image.open(io.BytesIO(only.data)))


@pytest.fixture(scope="module")
def prompt(object_info):
    """`prompt(method, **inputs)`: the comparison with this method's picture alone, 64 x 64; inputs of its sampler."""

    def make(method, **inputs):
        made = to_prompt(workflows.all_workflows()["Merge Switch Composite stand-in"], object_info)
        for key, entry in list(made.items()):
            if entry["class_type"] == "EmptyLatentImage":
                entry["inputs"] |= {"width": 64, "height": 64}
            elif entry["class_type"] == SAMPLERS[method]:
                entry["inputs"] |= inputs
            elif entry["class_type"] == "SaveImage" and not entry["inputs"]["filename_prefix"].endswith(method):
                del made[key]
        return made

    return make


def in_two_parts(prompt, steps):
    """LoRA Composite's sampler replaced by its patch and two of KSampler (Advanced), each for half of the steps."""
    (sampler,) = (key for key, entry in prompt.items() if entry["class_type"] == "LoRACompositeSampler")
    given = dict(prompt[sampler]["inputs"])
    patch = {name: given.pop(name) for name in ("model", "weights", "stack")}
    given.pop("denoise")
    given["noise_seed"], latent = given.pop("seed"), given.pop("latent_image")
    prompt["patched"] = {"class_type": "ApplyLoRAComposite", "inputs": patch}
    halves = {
        "first": {"start_at_step": 0, "end_at_step": steps // 2, "return_with_leftover_noise": "enable"},
        sampler: {"start_at_step": steps // 2, "end_at_step": steps, "return_with_leftover_noise": "disable"},
    }
    for key, half in halves.items():
        first = key == "first"
        noise = {"add_noise": "enable" if first else "disable", "latent_image": latent if first else ["first", 0]}
        inputs = given | half | noise | {"model": ["patched", 0]}
        prompt[key] = {"class_type": "KSamplerAdvanced", "inputs": inputs}
    return prompt


def test_start_and_end_steps_of_ksampler_advanced(client, prompt):
    whole = client.run(prompt("composite", steps=4, seed=7))
    parts = client.run(in_two_parts(prompt("composite", steps=4, seed=7), 4))
    assert np.abs(picture(whole).astype(int) - picture(parts)).max() <= 1


def test_two_hundred_queues_in_turn_hold_no_more_memory(client, server, prompt):
    """Merge, Switch and Composite alternate, with other settings each time: no adapter, weight or run stays behind."""
    process, held = psutil.Process(server.pid), []
    first = picture(client.run(prompt("switch", steps=3, seed=0)))
    for number in range(200):
        kind, inputs = (
            ("merge", {}),
            ("switch", {"switch_every": 1 + number % 3}),
            ("composite", {"weights": f"1, {1 + number % 5}, 1"}),
            ("switch", {"order": "3, 1, 2"}),
        )[number % 4]
        client.run(prompt(kind, steps=3, seed=1 + number, **inputs))
        held.append(process.memory_info().rss / 2**20)
    assert np.array_equal(first, picture(client.run(prompt("switch", steps=3, seed=0))))
    early, late = (statistics.median(part) for part in (held[40:80], held[160:]))
    # One more copy of the touched weights in each queue would be 2 GiB by then, one more set of adapters 100 MiB.
    assert late - early < 32, f"{early:.0f} MiB after 60 queues, {late:.0f} MiB after 180"
