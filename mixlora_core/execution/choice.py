"""Which executor runs a composition on a model: the one that is faster there, of those that can."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..adapter import Adapter
from ..composition import Composition
from ..errors import CompositionError
from .executor import AUTOMATIC, ROWS, SWAP
from .placed import for_regions
from .rows import low_rank
from .swap import writable

PREFIX = "mixlora."
"""Begins the key under which a composition stands on a model."""
_ORDINARY = 30
_TOO_MANY = 1 / 3
"""On a CPU a change of SD v1.5's attention weights costs as much as three steps of rows (docs/performance.md)."""


def chosen(executor: str, model: Any, adapters: Sequence[Adapter], composition: Composition) -> str:
    """Which executor runs this: weights serve one branch at a time at no cost a forward, rows serve many at once."""
    can = {ROWS: low_rank(model.model, adapters), SWAP: writable(model.model, adapters)}
    if getattr(composition, "regional", False):
        return for_regions(executor, model, can[ROWS])
    composed = any(key.startswith(PREFIX) for key in model.wrappers.get(WrappersMP.CALC_COND_BATCH, {}) if key)
    if executor == AUTOMATIC:
        alone = len(composition.branches(0, composition.adapters, 1.0)) == 1
        # Weights that ComfyUI streams to the device at every forward are better left alone.
        streamed = model.model.model_lowvram or getattr(model, "is_dynamic", lambda: False)()
        restless = model.load_device.type == "cpu" and changes(composition) > _TOO_MANY
        executor = SWAP if alone and can[SWAP] and not (composed or streamed or restless) else ROWS
        executor = executor if can[executor] else SWAP
    if not can[executor]:
        why = "a LoRA is not plain low-rank" if executor == ROWS else "a weight of the model is quantised"
        raise CompositionError(f"The executor {executor!r} cannot run this: {why}. Use LoRA files of the LoRA family.")
    if executor == SWAP and composed:
        raise CompositionError(
            "The model already has a composition, and these LoRAs (not all plain low-rank) would rewrite the same "
            "weights. Put all LoRAs into one stack, or use LoRA files of the LoRA family."
        )
    return executor


def changes(composition: Composition) -> float:
    """The share of the steps of an ordinary run that speak otherwise than the step before."""
    steps = _ORDINARY
    try:
        composition.check(steps)
    except CompositionError:  # more turns than steps
        steps = max(steps, composition.adapters)
    told = [composition.branches(step, steps, 1.0) for step in range(steps if composition.depends_on_step else 1)]
    return sum(one != other for one, other in pairwise(told)) / steps
