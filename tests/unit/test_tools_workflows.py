"""The committed example workflows are what tools/workflows.py draws, and are drawn well."""

from __future__ import annotations

import itertools
import json

import pytest
from mixlora.standin import weights
from mixlora.tools import canvas, demo, workflows

ALL = workflows.all_workflows()


@pytest.fixture(params=list(ALL))
def workflow(request):
    return ALL[request.param]


@pytest.mark.parametrize("name", list(ALL))
def test_committed_files_are_up_to_date(name):
    committed = (workflows.FOLDER / f"{name}.json").read_text("utf-8")
    assert committed == workflows.text(ALL[name]), "run `make workflows`"


def test_nothing_else_is_committed():
    assert {path.stem for path in workflows.FOLDER.glob("*.json")} == set(ALL)


def test_each_has_its_thumbnail():
    if not weights.BASE.is_file():
        pytest.skip("thumbnails are painted by the trained stand-in, whose weights are missing (`make standin`)")
    missing = [name for name in ALL if not (workflows.FOLDER / f"{name}.jpg").is_file()]
    assert not missing, "ComfyUI's template browser shows a .jpg of the same name"


def test_nodes_do_not_overlap(workflow):
    for one, other in itertools.combinations(workflow["nodes"], 2):
        assert not overlap(box(one), box(other)), f"{one['type']} and {other['type']}"


def test_groups_hold_whole_nodes_and_do_not_overlap(workflow):
    groups = [group["bounding"] for group in workflow["groups"]]
    for one, other in itertools.combinations(groups, 2):
        assert not overlap(one, other)
    for node in workflow["nodes"]:
        inside = [group for group in groups if overlap(group, box(node))]
        assert len(inside) == (node["type"] != "MarkdownNote")
        assert all(contains(group, box(node)) for group in inside)


def test_links_agree_with_the_slots_and_run_from_left_to_right(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["last_link_id"] == len(workflow["links"])
    for link_id, source, source_slot, target, target_slot, type_ in workflow["links"]:
        output, taken = nodes[source]["outputs"][source_slot], nodes[target]["inputs"][target_slot]
        assert link_id in output["links"]
        assert taken["link"] == link_id
        assert output["type"] == type_
        assert taken["type"] in (type_, "*")
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0]
        assert nodes[source]["order"] < nodes[target]["order"]


def test_every_described_node_type_is_drawn():
    assert {node["type"] for workflow in ALL.values() for node in workflow["nodes"]} == set(canvas.SOCKETS)


def test_every_node_type_is_described(workflow):
    assert {node["type"] for node in workflow["nodes"]} <= set(canvas.SOCKETS)
    assert json.loads(workflows.text(workflow)) == workflow


@pytest.mark.parametrize("shot", list(demo.shots()), ids=lambda shot: shot.name)
def test_the_demo_finds_the_nodes_that_it_changes(shot):
    info = {kind: {"input": {"required": {}}} for kind in canvas.SOCKETS}
    info["LoadStyleLoRA"]["input"]["required"] = {
        "lora_name": [["x"]], "strength_model": ["FLOAT"], "strength_clip": ["FLOAT"],
    }  # fmt: skip
    info["CLIPTextEncode"]["input"]["required"] = {"text": ["STRING"]}
    nodes = demo.prepared(shot, info)["nodes"]
    strengths = {n["widgets_values"][0]: n["widgets_values"][1] for n in nodes if n["type"] == "LoadStyleLoRA"}
    prompts = [n["widgets_values"][0] for n in nodes if n.get("title") == "Prompt"]
    assert len(strengths) == 3
    if shot.strengths is not None:
        assert sum(strengths.values()) == pytest.approx(sum(shot.strengths.values()))
    if shot.prompt is not None:
        assert prompts == [shot.prompt]


def box(node):
    """Left, top, width and height of a node with its title bar."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - canvas.TITLE_HEIGHT, width, height + canvas.TITLE_HEIGHT


def overlap(one, other):
    """Whether two boxes share a point."""
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))


def contains(outer, inner):
    """Whether `inner` lies in `outer`."""
    return all(
        outer[axis] <= inner[axis] and inner[axis] + inner[axis + 2] <= outer[axis] + outer[axis + 2] for axis in (0, 1)
    )
