"""Puts a composition on a clone of a MODEL: chooses the executor, has its bank loaded, wraps what ComfyUI runs."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..adapter import Adapter
from ..composition import Composition
from ..errors import CompositionError
from .bank import Bank, BankPatcher, kept
from .choice import PREFIX, chosen
from .engine import Engine
from .executor import AUTOMATIC, ROWS, Executor
from .rows import Rows, RowsBank, low_rank
from .swap import Swap, copied

Begin = Callable[[], Executor]


@dataclass(frozen=True, eq=False)
class Voice:
    """An adapter of the stack and how strongly it speaks where the composition lets it."""

    adapter: Adapter
    strength: float


def attach(
    model: Any,
    voices: Sequence[Voice],
    composition: Composition,
    executor: str = AUTOMATIC,
    branches_at_once: int | None = None,
) -> Any:
    """A clone of a MODEL that any sampler runs with the composition; the model itself is not changed.

    `executor` is AUTOMATIC, SWAP or ROWS; ROWS needs plain low-rank adapters, and regions need ROWS.
    `branches_at_once` limits how many branches share a batch (None: as many as memory allows). Raises CompositionError
    for what cannot be run.
    """
    strengths = [voice.strength for voice in voices]
    if len(voices) != composition.adapters:
        raise CompositionError(f"The composition is for {composition.adapters} LoRAs, the stack has {len(voices)}.")
    if not all(math.isfinite(strength) for strength in strengths):
        raise CompositionError(f"strength_model is {strengths}; expected finite numbers.")
    begin, instead, patcher = _executors(executor, model, [voice.adapter for voice in voices], composition)
    clone = model.clone()
    engine = Engine(f"{PREFIX}{uuid.uuid4()}", strengths, composition, begin, instead, branches_at_once)
    clone.set_additional_models(engine.key, [patcher])
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, engine.key, engine.sample)
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, engine.key, engine.predict)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, engine.key, engine.forward)
    return clone


def _executors(
    asked: str, model: Any, adapters: Sequence[Adapter], composition: Composition
) -> tuple[Begin, Begin | None, BankPatcher]:
    """What begins a run, what begins it where memory is short, and the bank that ComfyUI has to load.

    Who asks for swap gets swap or nothing. The second one is made of a bank that ComfyUI does not load: layers fetch
    what they need of it.
    """
    executor = chosen(asked, model, adapters, composition)
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    joined = cache(lambda: RowsBank(adapters, dtype))
    if executor == ROWS:
        rows, patcher = kept(model, (executor, dtype), adapters, joined)
        return partial(Rows, rows), None, patcher
    bank, patcher = kept(model, executor, adapters, lambda: Bank(adapters), copied(model.model, adapters))
    scarce = asked == AUTOMATIC and low_rank(model.model, adapters)
    return partial(Swap, bank), (lambda: Rows(joined())) if scarce else None, patcher
