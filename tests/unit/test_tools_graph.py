"""The editor's workflows become the API's prompts as the editor itself does it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from mixlora.tools.graph import GraphError, to_prompt, with_widgets

Json = dict[str, Any]

INFO: dict[str, Json] = {
    "Loader": {"input": {"required": {"file": [["a.safetensors", "b.safetensors"]]}}},
    "Filter": {
        "input": {
            "required": {"model": ["MODEL"], "strength": ["FLOAT", {"default": 1.0}]},
            "optional": {"mode": ["COMBO", {"options": ["sum", "mean"]}], "extra": ["MODEL"]},
        }
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "note": ["STRING", {"forceInput": True}],
                "pick": ["COMBO", {"options": ["x", "y"], "control_after_generate": True}],
                "cfg": ["FLOAT", {"default": 8.0}],
            }
        }
    },
}


def node(id_: int, kind: str, values: Any = (), inputs: Json | None = None, outputs: Any = (), mode: int = 0) -> Json:
    """A node as the editor saves it; `inputs` is name -> (type, link), `outputs` a list of types."""
    return {
        "id": id_,
        "type": kind,
        "mode": mode,
        "inputs": [{"name": name, "type": type_, "link": link} for name, (type_, link) in (inputs or {}).items()],
        "outputs": [{"name": type_, "type": type_} for type_ in outputs],
        "widgets_values": values if isinstance(values, dict) else list(values),
    }


def workflow(*, filter_mode: int = 0, source: str = "Loader") -> Json:
    """Loader -> Filter -> Sampler, with a note."""
    return {
        "nodes": [
            node(1, source, ["b.safetensors"], outputs=["MODEL"]),
            node(2, "Filter", [0.5], {"model": ("MODEL", 1), "extra": ("MODEL", None)}, ["MODEL"], filter_mode),
            node(3, "Sampler", [7, "fixed", 30, "y", "fixed", "", 2.0], {"model": ("MODEL", 2)}),
            node(4, "MarkdownNote", ["hello"]),
        ],
        "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "MODEL"]],
    }


def test_names_widgets_and_follows_links():
    prompt = to_prompt(workflow(), INFO)
    assert set(prompt) == {"1", "2", "3"}, "the note must not be sent"
    assert prompt["1"]["inputs"] == {"file": "b.safetensors"}
    assert prompt["3"]["inputs"] == {"model": ["2", 0], "seed": 7, "steps": 30, "pick": "y", "cfg": 2.0}
    assert prompt["3"]["class_type"] == "Sampler"


def test_a_widget_newer_than_the_file_has_its_default():
    assert to_prompt(workflow(), INFO)["2"]["inputs"] == {"model": ["1", 0], "strength": 0.5, "mode": "sum"}


def test_bypassed_node_passes_the_input_of_the_same_type():
    prompt = to_prompt(workflow(filter_mode=4), INFO)
    assert "2" not in prompt
    assert prompt["3"]["inputs"]["model"] == ["1", 0]


def test_muted_node_and_the_links_from_it_vanish():
    prompt = to_prompt(workflow(filter_mode=2), INFO)
    assert "2" not in prompt
    assert "model" not in prompt["3"]["inputs"]


def test_reroutes_are_transparent():
    flow = workflow()
    flow["nodes"].append(node(9, "Reroute", inputs={"": ("*", 1)}, outputs=["MODEL"]))
    flow["links"][1] = [2, 9, 0, 3, 0, "MODEL"]
    prompt = to_prompt(flow, INFO)
    assert "9" not in prompt
    assert prompt["3"]["inputs"]["model"] == ["1", 0]


def test_a_primitive_gives_its_value_to_a_converted_widget():
    flow = workflow()
    flow["nodes"].append(node(9, "PrimitiveNode", [99, "randomize"], outputs=["INT"]))
    flow["links"].append([3, 9, 0, 3, 1, "INT"])
    flow["nodes"][2]["inputs"].append({"name": "seed", "type": "INT", "link": 3, "widget": {"name": "seed"}})
    prompt = to_prompt(flow, INFO)
    assert prompt["3"]["inputs"]["seed"] == 99
    assert prompt["3"]["inputs"]["steps"] == 30, "the converted widget still has its place among the values"


def test_a_widget_fed_by_a_node_is_a_link():
    flow = workflow()
    flow["nodes"][2]["inputs"].append({"name": "steps", "type": "INT", "link": 3, "widget": {"name": "steps"}})
    flow["nodes"].append(node(5, "Loader", ["a.safetensors"], outputs=["INT"]))
    flow["links"].append([3, 5, 0, 3, 1, "INT"])
    assert to_prompt(flow, INFO)["3"]["inputs"]["steps"] == ["5", 0]


def test_values_saved_by_name_and_links_saved_as_objects():
    flow = workflow()
    flow["nodes"][0]["widgets_values"] = {"file": "a.safetensors", "videopreview": {}}
    flow["links"] = [{"id": 1, "origin_id": 1, "origin_slot": 0}, {"id": 2, "origin_id": 2, "origin_slot": 0}]
    prompt = to_prompt(flow, INFO)
    assert prompt["1"]["inputs"] == {"file": "a.safetensors"}
    assert prompt["3"]["inputs"]["model"] == ["2", 0]


def test_unknown_node_is_named():
    with pytest.raises(GraphError, match=r"Node 1 \(Missing\).*pack installed"):
        to_prompt(workflow(source="Missing"), INFO)


def test_broken_link_and_subgraph_are_refused():
    flow = workflow()
    flow["links"] = []
    with pytest.raises(GraphError, match="Link 1 leads nowhere"):
        to_prompt(flow, INFO)
    flow = workflow() | {"definitions": {"subgraphs": [{"id": "Filter"}]}}
    with pytest.raises(GraphError, match=r"Node 2 \(Filter\) is a subgraph"):
        to_prompt(flow, INFO)


def test_with_widgets_changes_a_copy_by_name():
    flow = workflow()
    before = copy.deepcopy(flow)
    changed = with_widgets(flow, INFO, {3: {"steps": 5, "cfg": 1.5}})
    assert flow == before
    assert to_prompt(changed, INFO)["3"]["inputs"] == {
        "model": ["2", 0], "seed": 7, "steps": 5, "pick": "y", "cfg": 1.5,
    }  # fmt: skip
    with pytest.raises(GraphError, match=r"Node 3 \(Sampler\) has no widget 'strength'"):
        with_widgets(flow, INFO, {3: {"strength": 1.0}})
