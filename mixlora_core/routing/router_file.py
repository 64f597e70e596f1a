"""A router file: the routers of all blocks and the experts that they choose from, in one safetensors. Needs only torch.

    router.<feed-forward layer as in ComfyUI's UNet>.weight    (n, width), fp32
    expert.<j>.<name in the expert's own file>                 the whole adapter but for text encoders

and in the header, under `mixlora.router`, a JSON object: k, mixing, rest, the base and the experts, see `Head`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RouterError
from ..files import hashes, lora_file
from ..files.lora_file import Identity, LoraFile
from ..files.writing import serialise, write_atomically
from .router import MIXINGS, RESTS

KEY, FORMAT = "mixlora.router", 1
_ROUTER = re.compile(r"router\.(.+)\.weight")
_EXPERT = re.compile(r"expert\.(\d+)\.(.+)")
_KINDS = {"sd1": "Stable Diffusion 1.x", "sdxl": "Stable Diffusion XL"}


@dataclass(frozen=True)
class Expert:
    """An adapter that a router knows."""

    name: str
    sha256: str
    """Of the tensors in the file that it was read from (AutoV3, `sshs_model_hash`)."""
    words: tuple[str, ...] = ()
    """Its trigger words."""
    trained: bool = False
    """Whether its feed-forward part was trained on together with the router, so that the file's differs."""


@dataclass(frozen=True)
class Head:
    """What a router file's header says."""

    k: int
    """How many experts serve a token."""
    mixing: str
    rest: str
    base: str
    """Kind of the base model, as in `bases`: "sd1", "sdxl"."""
    feed_forwards: int
    """How many feed-forward layers that base has."""
    experts: tuple[Expert, ...]
    base_name: str = ""
    base_sha256: str = ""


@dataclass(frozen=True, eq=False)
class RouterFile:
    """A router file in memory, whole and consistent if `read` made it."""

    identity: Identity
    head: Head
    routers: Mapping[str, Tensor]
    """Feed-forward layer -> (n, width)."""
    experts: tuple[Mapping[str, Tensor], ...]
    """Per expert the tensors of its adapter, by their names in its own file."""

    @property
    def name(self) -> str:
        """The file's name without its folder, for messages."""
        return Path(self.identity.path).name

    def expert(self, index: int) -> LoraFile:
        """An expert as the LoRA file that it is."""
        identity = self.identity._replace(path=f"{self.identity.path} ({self.head.experts[index].name})")
        return LoraFile(identity, self.experts[index], {})


def write(
    path: Path, head: Head, routers: Mapping[str, Tensor], experts: tuple[Mapping[str, Tensor], ...],
    about: Mapping[str, str], *, keep_previous: bool = False,
) -> RouterFile:  # fmt: skip
    """Writes a router file atomically and reads it back; equal content gives equal bytes.

    `about` is further metadata. Raises RouterError for what could not be read again, OSError where it cannot be
    written.
    """
    tensors = {f"router.{name}.weight": weight.detach().to("cpu", torch.float32) for name, weight in routers.items()}
    for index, expert in enumerate(experts):
        tensors |= {f"expert.{index}.{name}": tensor.detach().cpu() for name, tensor in expert.items()}
    if broken := lora_file.not_finite(tensors):
        raise RouterError(
            f"{path} is not written: {len(broken)} of {len(tensors)} tensors are not finite: {next(iter(broken))}. "
            "Lower the learning rate."
        )
    said = json.dumps({"format": FORMAT, **asdict(head)}, ensure_ascii=False)
    _parse(path.name, said, tensors)
    data = serialise(tensors, hashes.with_hashes(tensors, {**about, KEY: said}))
    write_atomically(path, data, keep_previous=keep_previous)
    written = lora_file.inspect(path)
    if written.tensors.keys() != tensors.keys() or not all(
        torch.equal(written.tensors[name], tensor) for name, tensor in tensors.items()
    ):
        raise RouterError(f"{path} was written, but holds other values now. Do not use it; write it again.")
    return read(path)


def read(path: str | Path) -> RouterFile:
    """The router file at `path`. Raises UnreadableFileError and TensorError as `lora_file.read` does, RouterError."""
    file = lora_file.read(path)
    if KEY not in file.metadata:
        raise RouterError(
            f"{file.name} is no router file: its header has no {KEY}. A LoRA file belongs into a LoRA loader; routers "
            "are written by training/train_router.py."
        )
    head, routers, experts = _parse(file.name, file.metadata[KEY], file.tensors)
    return RouterFile(file.identity, head, routers, experts)


def check_base(router: RouterFile, kind: str | None, widths: Mapping[str, int]) -> None:
    """Raises RouterError where a model is not of the kind that the router was trained on.

    `widths` are those of the tokens that each of the model's feed-forward layers takes.
    """
    head = router.head
    made_for = f"{router.name} was trained on {_KINDS.get(head.base, head.base)}"
    if head.base_name:
        made_for += f" ({head.base_name})"
    advice = "Use the base that it was trained on, or train a router on this one."
    if kind != head.base:
        raise RouterError(
            f"{made_for}; the connected model is {_KINDS.get(kind or '', kind or 'of another kind')}. {advice}"
        )
    if len(widths) != head.feed_forwards:
        raise RouterError(
            f"{made_for} with {head.feed_forwards} feed-forward layers; the connected model has {len(widths)}. {advice}"
        )
    for name, weight in router.routers.items():
        if name not in widths:
            raise RouterError(f"{made_for} with a layer {name}, which the connected model does not have. {advice}")
        if weight.shape[1] != widths[name]:
            raise RouterError(
                f"{made_for}: router.{name}.weight reads tokens {weight.shape[1]} wide, those of the connected model "
                f"are {widths[name]} wide. {advice}"
            )


def _parse(
    name: str, said: str, tensors: Mapping[str, Tensor]
) -> tuple[Head, dict[str, Tensor], tuple[dict[str, Tensor], ...]]:
    head = _head(name, said)
    routers: dict[str, Tensor] = {}
    experts: list[dict[str, Tensor]] = [{} for _ in head.experts]
    for key, tensor in tensors.items():
        if found := _ROUTER.fullmatch(key):
            routers[found[1]] = tensor
        elif (found := _EXPERT.fullmatch(key)) and int(found[1]) < len(experts):
            experts[int(found[1])][found[2]] = tensor
        else:
            raise RouterError(f"{name}: tensor {key} is no router's and none of its {len(experts)} experts'. {_AGAIN}")
    for block, weight in routers.items():
        if weight.dim() != 2 or len(weight) != len(experts):
            raise RouterError(
                f"{name}: router.{block}.weight has the shape {tuple(weight.shape)}; expected one row for each of "
                f"{len(experts)} experts. {_AGAIN}"
            )
    if not routers:
        raise RouterError(f"{name}: it has no router (router.….weight). {_AGAIN}")
    for expert, own in zip(head.experts, experts, strict=True):
        if not own:
            raise RouterError(f"{name}: its expert {expert.name} has no tensor. {_AGAIN}")
    return head, routers, tuple(experts)


_AGAIN = "The file is damaged or incomplete: write it again with training/train_router.py."


def _head(name: str, said: str) -> Head:
    try:
        values: dict[str, Any] = json.loads(said)
        found = values.pop("format")
        experts = tuple(Expert(**{**one, "words": tuple(one["words"])}) for one in values.pop("experts"))
        head = Head(**values, experts=experts)
        problem = "" if found == FORMAT else f"format is {found}, this version of MixLoRA reads {FORMAT}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RouterError(f"{name}: {KEY} in its header cannot be understood ({error!r}). {_AGAIN}") from error
    kinds = {"k": int, "feed_forwards": int}
    for one in fields(Head):
        value = getattr(head, one.name)
        if one.name != "experts" and not isinstance(value, kinds.get(one.name, str)):
            problem = problem or f"{one.name} is {value!r}"
    if not problem and not 1 <= head.k <= len(experts):
        problem = f"k is {head.k}, with {len(experts)} experts"
    if not problem and (head.mixing not in MIXINGS or head.rest not in RESTS):
        problem = f"mixing is {head.mixing!r} and rest is {head.rest!r}, expected of {MIXINGS} and of {RESTS}"
    if problem:
        raise RouterError(f"{name}: {KEY} in its header says something impossible: {problem}. {_AGAIN}")
    return head
