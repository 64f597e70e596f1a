"""Draws a workflow in the format that ComfyUI's editor saves (version 0.4)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]

FRONTEND = "1.32.9"  # the editor that ComfyUI 0.3.75 asks for
TITLE_HEIGHT, MARGIN, BLUE = 30, 20, "#3f789e"

# Node type -> its sockets, in the order in which the editor draws them. A test compares them with the server's.
Sockets = dict[str, str]
_SAMPLED = {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"}
SOCKETS: dict[str, tuple[Sockets, Sockets]] = {
    "MarkdownNote": ({}, {}),
    "CheckpointLoaderSimple": ({}, {"MODEL": "MODEL", "CLIP": "CLIP", "VAE": "VAE"}),
    "EmptyLatentImage": ({}, {"LATENT": "LATENT"}),
    "LoadStyleLoRA": (
        {"stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"stack": "STYLE_STACK", "lora_stack": "LORA_STACK", "trigger_words": "STRING", "report": "STRING"},
    ),
    "MixLoRAWeights": (
        {"model": "MODEL", "clip": "CLIP", "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"model": "MODEL", "clip": "CLIP", "report": "STRING"},
    ),
    "SaveMixedLoRA": (
        {"model": "MODEL", "clip": "CLIP", "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"lora_name": "STRING", "report": "STRING"},
    ),
    "LoRAWeightsFromPrompt": (
        {"model": "MODEL", "clip": "CLIP", "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {
            "model": "MODEL",
            "conditioning": "CONDITIONING",
            "clip": "CLIP",
            "text": "STRING",
            "report": "STRING",
            "stack": "STYLE_STACK",
        },
    ),
    "LoRASwitchSampler": (
        {**_SAMPLED, "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"latent": "LATENT", "timetable": "STRING", "timetable_picture": "IMAGE"},
    ),
    "LoRACompositeSampler": (
        {**_SAMPLED, "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"latent": "LATENT"},
    ),
    "EncodeTextPerLoRA": (
        {"clip": "CLIP", "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"conditioning": "CONDITIONING"},
    ),
    "ApplyLoRARegions": (
        {
            "model": "MODEL",
            "clip": "CLIP",
            "stack": "STYLE_STACK",
            "lora_stack": "LORA_STACK",
            **{f"mask_{number}": "MASK" for number in range(1, 7)},
        },
        {"model": "MODEL", "clip": "CLIP"},
    ),
    "ApplyLoRALayered": (
        {"model": "MODEL", "clip": "CLIP", "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"model": "MODEL", "clip": "CLIP", "report": "STRING"},
    ),
    "ApplyLoRARouter": (
        {"model": "MODEL", "stack": "STYLE_STACK", "lora_stack": "LORA_STACK"},
        {"model": "MODEL", "trigger_words": "STRING", "report": "STRING"},
    ),
    "SolidMask": ({}, {"MASK": "MASK"}),
    "MaskComposite": ({"destination": "MASK", "source": "MASK"}, {"MASK": "MASK"}),
    "FeatherMask": ({"mask": "MASK"}, {"MASK": "MASK"}),
    "InvertMask": ({"mask": "MASK"}, {"MASK": "MASK"}),
    "PreviewAny": ({"source": "*"}, {}),
    "PreviewImage": ({"images": "IMAGE"}, {}),
    "CLIPTextEncode": ({"clip": "CLIP"}, {"CONDITIONING": "CONDITIONING"}),
    "KSampler": (_SAMPLED, {"LATENT": "LATENT"}),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, {"IMAGE": "IMAGE"}),
    "SaveImage": ({"images": "IMAGE"}, {}),
}
OURS = {
    *("LoadStyleLoRA", "MixLoRAWeights", "LoRAWeightsFromPrompt", "LoRASwitchSampler", "LoRACompositeSampler"),
    *("EncodeTextPerLoRA", "ApplyLoRARegions", "ApplyLoRALayered", "ApplyLoRARouter", "SaveMixedLoRA"),
}


class Socket(NamedTuple):
    """One output of a drawn node."""

    node: Json
    name: str


@dataclass
class Canvas:
    """Nodes, links and groups of one workflow while it is drawn; nodes are numbered in the order they are added."""

    nodes: list[Json] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[Json] = field(default_factory=list)

    def add(self, kind: str, box: tuple[int, int, int, int], *values: Any, title: str = "", **inputs: Socket) -> Json:
        """Adds a node at `box` (left, top, width, height; its title bar lies above), with widget values and inputs."""
        takes, gives = SOCKETS[kind]
        node: Json = {
            "id": len(self.nodes) + 1,
            "type": kind,
            "pos": list(box[:2]),
            "size": list(box[2:]),
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": [{"name": name, "type": type_, "link": None} for name, type_ in takes.items()],
            "outputs": [{"name": name, "type": type_, "links": []} for name, type_ in gives.items()],
            "properties": {"cnr_id": "mixlora" if kind in OURS else "comfy-core", "Node name for S&R": kind},
            "widgets_values": list(values),
        }
        if title:
            node["title"] = title
        if kind == "MarkdownNote":
            node |= {"properties": {}, "color": "#432", "bgcolor": "#653"}
        self.nodes.append(node)
        for name, source in inputs.items():
            self.connect(source, node, name)
        return node

    def connect(self, source: Socket, node: Json, name: str) -> None:
        """Adds a link from an output to the input `name` of `node`."""
        link_id = len(self.links) + 1
        source_slot = list(SOCKETS[source.node["type"]][1]).index(source.name)
        slot = list(SOCKETS[node["type"]][0]).index(name)
        socket = source.node["outputs"][source_slot]
        socket["links"].append(link_id)
        node["inputs"][slot]["link"] = link_id
        self.links.append([link_id, source.node["id"], source_slot, node["id"], slot, socket["type"]])

    def frame(self, title: str, *members: Json) -> None:
        """Adds a group around some nodes."""
        left = min(node["pos"][0] for node in members) - MARGIN
        top = min(node["pos"][1] for node in members) - TITLE_HEIGHT - MARGIN
        right = max(node["pos"][0] + node["size"][0] for node in members) + MARGIN
        bottom = max(node["pos"][1] + node["size"][1] for node in members) + MARGIN
        bounding = [left, top - TITLE_HEIGHT, right - left, bottom - top + TITLE_HEIGHT]
        group = {"id": len(self.groups) + 1, "title": title, "bounding": bounding, "color": BLUE}
        self.groups.append(group | {"font_size": 24, "flags": {}})

    def saved(self, name: str) -> Json:
        """The workflow as the editor would save it; its id follows from `name`."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"mixlora/{name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [60, 140]}, "frontendVersion": FRONTEND},
            "version": 0.4,
        }
