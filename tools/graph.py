"""Workflows as ComfyUI's editor saves them, turned into the prompts that its HTTP API takes.

The editor's file says what is drawn: widget values by position, links by number, nodes that are only for the eye. The
API wants each node's inputs by name. `to_prompt` does what the editor does on "Queue", with the server's
``/object_info`` as the source of which inputs a node has. Subgraphs and dynamic prompts ({a|b}) are not supported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Json = dict[str, Any]

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEED_NAMES = {"seed", "noise_seed"}  # the editor gives these a "control after generate" widget unasked
NOTES = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4  # LiteGraph's modes; 0 is the normal one


class GraphError(ValueError):
    """A workflow that cannot be turned into a prompt; the message names the node."""


class Widget(NamedTuple):
    """One input that is edited on the node: its name, its value when new, and how many saved values follow its own."""

    name: str
    default: Any
    followers: int


class Link(NamedTuple):
    """The output slot of a node that an input is connected to."""

    node: Any
    slot: int


def to_prompt(workflow: Json, object_info: Mapping[str, Json]) -> Json:
    """The prompt of a saved workflow: node id -> ``{class_type, inputs, _meta}``, without muted and drawn-only nodes.

    `object_info` is the server's answer to ``/object_info``.
    Raises GraphError for a node type that the server does not know, a broken link, or a subgraph.
    """
    graph = _Graph(workflow)
    prompt: Json = {}
    for node in graph.nodes.values():
        if node["type"] in NOTES or graph.is_virtual(node) or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        inputs = widget_values(node, _known(node, object_info))
        for slot in node.get("inputs") or []:
            if slot.get("link") is None:
                continue
            source = graph.source(slot["link"])
            if isinstance(source, Link):
                inputs[slot["name"]] = [str(source.node), source.slot]
            elif source is not None:
                inputs[slot["name"]] = source["value"]
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", node["type"])},
        }
    # A link to a node that is not sent (it is muted) is no link.
    for entry in prompt.values():
        entry["inputs"] = {name: value for name, value in entry["inputs"].items() if not _dangling(value, prompt)}
    return prompt


def widgets(info: Json) -> Iterator[Widget]:
    """The widgets of a node, in the order of its saved values, from its entry in ``/object_info``."""
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
            choices = kind if isinstance(kind, list) else options.get("options", []) if kind == "COMBO" else []
            if not (isinstance(kind, list) or kind in WIDGET_TYPES) or options.get("forceInput"):
                continue
            followers = 0
            if options.get("control_after_generate", kind == "INT" and name in SEED_NAMES):
                followers = 1 if kind == "INT" else 2  # a combo has a filter besides
            yield Widget(name, options.get("default", choices[0] if choices else None), followers)


def widget_values(node: Json, info: Json) -> Json:
    """The values of a node's widgets by name; a widget that is newer than the saved file has its default."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, Mapping):
        return {widget.name: saved.get(widget.name, widget.default) for widget in widgets(info)}
    values, position = {}, 0
    for widget in widgets(info):
        values[widget.name] = saved[position] if position < len(saved) else widget.default
        position += 1 + widget.followers
    return values


def with_widgets(workflow: Json, object_info: Mapping[str, Json], changes: Mapping[int, Json]) -> Json:
    """A copy of `workflow` in which the widgets of some nodes have other values: node id -> widget name -> value."""
    changed = copy.deepcopy(workflow)
    nodes = {node["id"]: node for node in changed["nodes"]}
    for node_id, values in changes.items():
        positions, position = {}, 0
        for widget in widgets(_known(nodes[node_id], object_info)):
            positions[widget.name] = position
            position += 1 + widget.followers
        for name, value in values.items():
            if name not in positions:
                raise GraphError(f"{_name(nodes[node_id])} has no widget {name!r}, only {', '.join(positions)}.")
            nodes[node_id]["widgets_values"][positions[name]] = value
    return changed


class _Graph:
    """The nodes and links of a saved workflow, and where an input's value really comes from."""

    def __init__(self, workflow: Json) -> None:
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[Any, Link] = {}
        for link in workflow.get("links", []):
            if isinstance(link, Mapping):  # the newer of the two file formats
                self.links[link["id"]] = Link(link["origin_id"], link["origin_slot"])
            else:
                self.links[link[0]] = Link(link[1], link[2])
        self.subgraphs = {subgraph["id"] for subgraph in workflow.get("definitions", {}).get("subgraphs", [])}
        for node in self.nodes.values():
            if node["type"] in self.subgraphs:
                raise GraphError(f"{_name(node)} is a subgraph: unpack it in the editor and save the workflow again.")

    @staticmethod
    def is_virtual(node: Json) -> bool:
        """Whether the editor resolves this node itself and never sends it."""
        return node["type"] in ("Reroute", "PrimitiveNode")

    def source(self, link_id: Any) -> Link | Json | None:
        """What a link brings: an output, ``{"value": ...}`` from a PrimitiveNode, or None for nothing."""
        seen = set()
        while link_id is not None and link_id not in seen:
            seen.add(link_id)
            if link_id not in self.links or self.links[link_id].node not in self.nodes:
                raise GraphError(f"Link {link_id} leads nowhere: the workflow file is damaged.")
            link = self.links[link_id]
            node = self.nodes[link.node]
            if node.get("mode", 0) == MUTED:
                return None
            if node["type"] == "PrimitiveNode":
                return {"value": node["widgets_values"][0]}
            if node["type"] == "Reroute":
                link_id = node["inputs"][0].get("link")
            elif node.get("mode", 0) == BYPASSED:
                link_id = self._bypass(node, link.slot)
            else:
                return link
        return None

    @staticmethod
    def _bypass(node: Json, slot: int) -> Any:
        """The link of the input that stands in for an output of a bypassed node: same place first, then same type."""
        inputs = node.get("inputs") or []
        wanted = node["outputs"][slot]["type"]
        for candidate in [*inputs[slot : slot + 1], *inputs]:
            if candidate["type"] == wanted or "*" in (candidate["type"], wanted):
                return candidate.get("link")
        return None


def _known(node: Json, object_info: Mapping[str, Json]) -> Json:
    if node["type"] not in object_info:
        raise GraphError(f"{_name(node)} is of a type that the server does not know: is its pack installed and loaded?")
    return object_info[node["type"]]


def _dangling(value: Any, prompt: Json) -> bool:
    is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
    return is_link and value[0] not in prompt


def _name(node: Json) -> str:
    return f"Node {node.get('id')} ({node.get('type')})"
