"""The server knows the pack: its nodes, help pages and example workflows."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from mixlora.tools import canvas, workflows
from mixlora.tools.graph import to_prompt, widgets

VISIBLE = ("required", "optional")
NODES = [
    "LoadStyleLoRA", "MixLoRAWeights", "LoRAWeightsFromPrompt", "SaveMixedLoRA", "LoRASwitchSampler",
    "ApplyLoRASwitch", "LoRACompositeSampler", "ApplyLoRAComposite", "EncodeTextPerLoRA",
    "ApplyLoRARegions", "ApplyLoRALayered", "ApplyLoRARouter",
]  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_node_is_there_and_explains_itself(object_info, name):
    info = object_info[name]
    assert info["display_name"]
    assert info["description"]
    assert info["category"].startswith("MixLoRA/")
    assert info["python_module"] == "custom_nodes.mixlora"
    inputs = {key: spec for group in VISIBLE for key, spec in info["input"].get(group, {}).items()}
    assert [key for key, spec in inputs.items() if not spec[1].get("tooltip")] == []
    assert len(info["output_tooltips"]) == len(info["output"])
    assert all(info["output_tooltips"])


@pytest.mark.parametrize("kind", sorted(set(canvas.SOCKETS) - {"MarkdownNote"}))
def test_example_workflows_draw_the_sockets_that_the_node_has(object_info, kind):
    info, (takes, gives) = object_info[kind], canvas.SOCKETS[kind]
    named = {name: spec[0] for group in VISIBLE for name, spec in info["input"].get(group, {}).items()}
    drawn = {widget.name for widget in widgets(info)}
    assert takes == {name: type_ for name, type_ in named.items() if name not in drawn}
    assert list(takes) == [name for name in named if name not in drawn]
    assert list(gives.items()) == list(zip(info["output_name"], info["output"], strict=True))


@pytest.mark.parametrize("name", list(workflows.all_workflows()))
def test_example_workflow_fits_the_nodes(object_info, name):
    prompt = to_prompt(workflows.all_workflows()[name], object_info)
    for entry in prompt.values():
        info = object_info[entry["class_type"]]
        assert set(info["input"].get("required", {})) <= set(entry["inputs"])
        for widget in widgets(info):
            value, spec = entry["inputs"][widget.name], _spec(info, widget.name)
            choices = spec[0] if isinstance(spec[0], list) else spec[1].get("options")
            if choices and not _is_file(widget.name):
                assert value in choices
            elif spec[0] in ("INT", "FLOAT"):
                assert spec[1]["min"] <= value <= spec[1]["max"]


def test_template_browser_shows_the_example_workflows(client):
    names = client.get_json("/api/workflow_templates")["mixlora"]
    assert set(names) == set(workflows.all_workflows())
    for name in names:
        path = f"/api/workflow_templates/mixlora/{quote(name)}"
        assert json.loads(client.get(f"{path}.json")) == workflows.all_workflows()[name]


@pytest.mark.parametrize("name", NODES)
def test_help_page_is_served(client, name):
    page = client.get(f"/extensions/mixlora/docs/{name}.md").decode("utf-8")
    assert page.startswith("# ")
    assert len(page) > 500


def _spec(info, name):
    return next(group[name] for group in info["input"].values() if name in group)


def _is_file(name):
    """File lists depend on what lies in the models folder."""
    return name.endswith("_name") and name not in ("sampler_name",)
