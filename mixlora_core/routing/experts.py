"""Adapters as experts of a router: what of them belongs to feed-forward layers, and what is the rest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import RouterError
from ..files import hashes
from ..files.lora_file import Identity
from .router import FIRST, MEAN, OFF, SECOND

if TYPE_CHECKING:
    from ..adapter import Adapter
    from ..stack import StyleStack
    from .router_file import RouterFile

Factors = tuple[Tensor, Tensor, float]
"""(up (out, r), down (r, in), alpha / r), as in `families.Anatomy`."""

PREFIX = "diffusion_model."
"""What a MODEL's weights are called beyond the UNet's own names."""


@dataclass(frozen=True, eq=False)
class Parts:
    """One adapter, taken apart."""

    layers: Mapping[str, tuple[Factors | None, Factors | None]]
    """Feed-forward layer -> what is changed in its `FIRST` and `SECOND`; only those where anything is."""
    rest: Mapping[Any, Any]
    """All other patches, as ComfyUI has them."""


def parts(adapter: Adapter, feed_forwards: Iterable[str]) -> Parts:
    """The adapter's feed-forward part and its rest. Raises RouterError where the former is not plain low-rank."""
    layers, rest = {}, dict(adapter.model_patches)
    for name in feed_forwards:
        keys = [f"{PREFIX}{name}.{linear}.weight" for linear in (FIRST, SECOND)]
        for key in keys:
            if rest.pop(key, None) is not None and adapter.anatomies[key].factors is None:
                raise RouterError(
                    f"{adapter.file.name}: its change of {key} is {adapter.anatomies[key].family}; an expert of a "
                    "router needs plain low-rank changes there (LoRA). Train it with --targets ff, or convert it with "
                    "Save Mixed LoRA."
                )
        first, second = (adapter.anatomies[key].factors if key in adapter.anatomies else None for key in keys)
        if first is not None or second is not None:
            layers[name] = (first, second)
    return Parts(layers, rest)


def share(rest: str, experts: int) -> float:
    """By what the strength of everything beside the feed-forward layers is multiplied."""
    return 0.0 if rest == OFF else 1 / experts if rest == MEAN else 1.0


def strengths_of(router: RouterFile, stack: StyleStack) -> dict[int, float]:
    """Which of a router's experts a stack has, with their strengths in it, in the router's order.

    The stack's files are recognised by their tensors, whatever they are called. Experts that the stack lacks are never
    chosen. Raises RouterError for an empty stack, for a file that is no expert of this router, or is there twice.
    """
    known = {expert.sha256: index for index, expert in enumerate(router.head.experts)}
    found: dict[int, float] = {}
    for entry in stack.entries:
        index = known.get(_sha256(entry.file.identity))
        if index is None:
            names = ", ".join(expert.name for expert in router.head.experts)
            raise RouterError(
                f"{entry.lora_name} is no expert of {router.name}, whose experts are {names} (compared by the hash of "
                "their tensors). Use the files that the router was trained with, or train a router for these."
            )
        if index in found:
            raise RouterError(f"{entry.lora_name} is in the stack twice; a router has it as one expert. Remove one.")
        found[index] = entry.strength_model
    if not found:
        raise RouterError(f"The stack is empty: put experts of {router.name} into it.")
    return dict(sorted(found.items()))


@lru_cache(maxsize=64)
def _sha256(identity: Identity) -> str:
    return hashes.of_file(identity.path)[1]
