"""What a user does wrong comes back over HTTP as an error that says where and what; nothing is painted."""

from __future__ import annotations

import math
import pickle
import re

import pytest
import torch
from mixlora.tools import workflows
from mixlora.tools.client import ExecutionError, PromptRejectedError
from mixlora.tools.graph import to_prompt
from safetensors.torch import save

GOOD = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"


def lora(module: str = GOOD, width: int = 320, value: float = 0.01) -> bytes:
    """A safetensors file with one rank-4 module."""
    return save(
        {
            f"{module}.lora_up.weight": torch.full((width, 4), value),
            f"{module}.lora_down.weight": torch.full((4, width), value),
            f"{module}.alpha": torch.tensor(4.0),
        }
    )


BROKEN = {
    "empty": (b"", "empty"),
    "truncated": (lora()[:-100], "truncated|cut|incomplete|ends"),
    "pickled": (pickle.dumps({"weight": [1.0]}, protocol=2), "pickle"),
    "web_page": (b"<!DOCTYPE html><html>not found</html>", "web page"),
    "nan": (lora(value=math.nan), f"{GOOD}.*(nan|finite)"),
    "sdxl_shape": (lora(width=640), GOOD),
    "no_match": (lora("lora_unet_some_other_model_block_7"), "lora_unet_some_other_model_block_7"),
}


@pytest.fixture
def prompt(object_info):
    """The first example workflow as a prompt, with few steps."""
    made = to_prompt(workflows.all_workflows()["MixLoRA stand-in"], object_info)
    for entry in made.values():
        if entry["class_type"] == "KSampler":
            entry["inputs"]["steps"] = 2
    return made


def first(prompt, class_type):
    """The id and the inputs of the first node of a class."""
    return next((node_id, entry["inputs"]) for node_id, entry in prompt.items() if entry["class_type"] == class_type)


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_file_is_named_before_sampling_starts(client, loras, prompt, name):
    content, message = BROKEN[name]
    (loras / f"{name}.safetensors").write_bytes(content)
    _, inputs = first(prompt, "LoadStyleLoRA")
    inputs["lora_name"] = f"{name}.safetensors"
    steps = []
    with pytest.raises(ExecutionError, match=rf"(?is){name}\.safetensors.*({message})") as caught:
        client.run(prompt, lambda *step: steps.append(step))
    assert caught.value.node_type in ("LoadStyleLoRA", "MixLoRAWeights")
    assert steps == []


@pytest.mark.parametrize("name", ["../../checkpoints/mixlora_standin.safetensors", "gone.safetensors"])
def test_name_outside_the_folder_is_refused(client, prompt, name):
    node_id, inputs = first(prompt, "LoadStyleLoRA")
    inputs["lora_name"] = name
    # Core checks the list of files before it runs anything, but 0.3.75 does so only for V1 nodes.
    with pytest.raises((PromptRejectedError, ExecutionError), match=re.escape(name)) as caught:
        client.run(prompt)
    assert (caught.value.node_id, caught.value.node_type) == (node_id, "LoadStyleLoRA")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["strength_model", "strength_clip"])
def test_strength_must_be_a_number(client, prompt, name, value):
    _, inputs = first(prompt, "LoadStyleLoRA")
    inputs[name] = value
    with pytest.raises((ExecutionError, PromptRejectedError), match=rf"LoadStyleLoRA.*(?i:{name}|strength)"):
        client.run(prompt)


def test_nothing_connected_is_an_error(client, prompt):
    _, inputs = first(prompt, "MixLoRAWeights")
    del inputs["stack"]
    with pytest.raises(ExecutionError, match=r"MixLoRAWeights.*connect"):
        client.run(prompt)


def test_the_server_still_works_afterwards(client, prompt):
    assert len(client.run(prompt).pictures) == 1


def test_a_file_that_changed_on_disk_is_read_again(client, loras, prompt):
    path = loras / "changing.safetensors"
    _, inputs = first(prompt, "LoadStyleLoRA")
    inputs["lora_name"], inputs["strength_model"] = path.name, 1.0
    pictures = []
    for value in (0.01, 0.5):
        path.write_bytes(lora(value=value))
        pictures.append(client.run(prompt).pictures[0].data)
    assert pictures[0] != pictures[1]
