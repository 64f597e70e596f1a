"""ComposLoRA (arXiv 2402.16843): 22 public LoRAs of two worlds, 480 sets, prompts and settings of the paper.

Nothing is downloaded: checkpoints and LoRAs come from the folders that a plan names, or from ComfyUI's. What the
paper's code does and this does not: its first turn of Switch is a step longer, it encodes the prompt once with the
LoRAs that are active before the first step, and its library cuts prompts after 77 tokens (the negative prompts here are
cut as it cuts them; two of the 48 longest positive ones would be).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from .jobs import Element, ElementSet, EvaluationError, Sampling
from .testbeds import composed_sets

_DATA = Path(__file__).with_name("composlora.json")
_LORA_FOLDERS = ("", "ComposLoRA", "composlora")
"""Where `anime/character_1.safetensors` may lie below a folder of LoRAs."""


class Source(NamedTuple):
    """What is known of a file besides what it does."""

    file: str
    """Its place below a folder of LoRAs, without its ending, as in the paper's archive."""
    page: str
    person: bool
    """Whether it makes pictures of a real person."""


class ComposLoRA:
    """The testbed of the paper."""

    name: str = "composlora"

    def __init__(self, checkpoints: str = "", vae: str = "", loras: str = "") -> None:
        """Folders; an empty one means ComfyUI's own folders of that kind."""
        self.options: Mapping[str, Any] = {"checkpoints": checkpoints, "vae": vae, "loras": loras}
        self._known: dict[str, Path] = {}
        data = json.loads(_DATA.read_text(encoding="utf-8"))
        self.strength: float = data["strength"]
        self.categories: tuple[str, ...] = tuple(data["categories"])
        self.worlds: dict[str, dict[str, Any]] = data["worlds"]
        elements: dict[str, Element] = {}
        self.sources: dict[str, Source] = {}
        for world, about in self.worlds.items():
            for one in about["elements"]:
                elements[one["name"]] = Element(one["name"], world, one["category"], one["trigger"])
                self.sources[one["name"]] = Source(one["file"], one["page"], one.get("person", False))
        self.elements: Mapping[str, Element] = elements
        self.sets = composed_sets(self.elements.values(), self.categories)

    def prompt(self, chosen: ElementSet) -> tuple[str, str]:
        """The world's words and every trigger; of the negative prompt what the paper's library reads."""
        about = self._world(chosen.world)
        triggers = (self.elements[name].trigger for name in chosen.elements)
        return ", ".join([about["prompt"], *triggers]), about["negative_read"]

    def sampling(self, world: str) -> Sampling:
        """DPM-Solver++ in two orders, as the paper; its steps, guidance and size."""
        return Sampling(**self._world(world)["sampling"])

    def checkpoint(self, world: str) -> Path:
        """The one file whose name is like the checkpoint's."""
        about = self._world(world)
        return self._one("checkpoints", about["checkpoint"], about["pattern"])

    def vae(self, world: str) -> Path | None:
        """The autoencoder beside the reality checkpoint, which has none."""
        about = self._world(world)
        return self._one("vae", about["vae"], about["vae_pattern"]) if "vae" in about else None

    def adapter(self, element: str) -> Path:
        """The file under the name that it has in the paper's archive."""
        source = self.sources[element]
        roots = self._folders("loras")
        for root in roots:
            for folder in _LORA_FOLDERS:
                path = root / folder / f"{source.file}.safetensors"
                if path.is_file():
                    return path
        raise EvaluationError(
            f"{element}: {source.file}.safetensors is missing in {_listed(roots)}. It is at {source.page}"
            + (" and shows a real person: has she or he agreed?" if source.person else "")
        )

    def precision(self) -> AbstractContextManager[Any]:
        """As ComfyUI chooses."""
        return nullcontext()

    def _world(self, world: str) -> dict[str, Any]:
        if world not in self.worlds:
            raise EvaluationError(
                f"{world}: ComposLoRA's two worlds have no common checkpoint; compose elements of one of them."
            )
        return self.worlds[world]

    def _one(self, kind: str, name: str, pattern: str) -> Path:
        if kind + name in self._known:
            return self._known[kind + name]
        roots = self._folders(kind)
        files = [
            path
            for root in roots
            for path in sorted(root.rglob("*.safetensors"))
            if fnmatch(path.stem.lower(), pattern) and "inpaint" not in path.stem.lower()
        ]
        if len(files) != 1:
            found = f"{_listed(files)} are there" if files else f"no file like {pattern}.safetensors"
            advice = "leave one in the folder that [folders] names" if files else f"it is {name} on Hugging Face"
            raise EvaluationError(f"{name}: {found} in {_listed(roots)}; {advice}.")
        self._known[kind + name] = files[0]
        return files[0]

    def _folders(self, kind: str) -> list[Path]:
        if self.options[kind]:
            return [Path(self.options[kind])]
        from .. import standalone

        standalone.import_comfy()
        import folder_paths

        return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))
