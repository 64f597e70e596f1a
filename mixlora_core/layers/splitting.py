"""An adapter cut into several by layers, so that a composition over the parts has coefficients per adapter and layer.

To the engine a part is an adapter like any other: dW = sum of the parts, and each weight belongs to one part.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import blocks

if TYPE_CHECKING:
    from ..adapter import Adapter

_known: weakref.WeakKeyDictionary[Any, dict[str, dict[str, weakref.ref[Any]]]] = weakref.WeakKeyDictionary()


def split(adapter: Adapter, grouping: str) -> Mapping[str, Adapter]:
    """The adapter's UNet half cut by one of `blocks.GROUPINGS`: name of a group -> the part, in the file's order.

    As long as parts are in use, the same adapter gives the same parts, so what the engine keeps of them on the device
    is found again. Patches are shared, not copied; the text encoder's belong to no part. Raises CompositionError for
    an unknown grouping.
    """
    group_of = blocks.grouping(grouping)
    known = _known.setdefault(adapter, {})
    parts = {name: part() for name, part in known.get(grouping, {}).items()}
    if not parts or None in parts.values():
        parts = _cut(adapter, group_of)
        known[grouping] = {name: weakref.ref(part) for name, part in parts.items()}
    return {name: part for name, part in parts.items() if part is not None}


def _cut(adapter: Adapter, group_of: Callable[[Any], str]) -> dict[str, Any]:
    keys: dict[str, list[Any]] = {}
    for key in adapter.model_patches:
        keys.setdefault(group_of(key), []).append(key)
    return {
        name: replace(
            adapter,
            model_patches={key: adapter.model_patches[key] for key in own},
            clip_patches={},
            anatomies={key: adapter.anatomies[key] for key in own},
            whole=adapter,  # what knows the whole holds it weakly; a part in use keeps it
        )
        for name, own in keys.items()
    }
