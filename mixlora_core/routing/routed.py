"""A router file and a stack -> a MODEL that any sampler runs with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import execution
from ..compose import matched
from ..stack import StyleStack
from .experts import strengths_of
from .router_file import RouterFile

if TYPE_CHECKING:
    from .region_map import Trace


def routed(
    model: Any, router: RouterFile, stack: StyleStack, *, k: int = 0, rest: str = "", trace: Trace | None = None
) -> Any:
    """A clone of a MODEL in whose feed-forward layers the router chooses among the stack's adapters for every token.

    The stack says which of the router's experts take part and with which strengths; their tensors are those in the
    router file. `k`, `rest` and `trace` are those of `execution.attach_router`. Raises RouterError for adapters that
    the router does not know and for another base, AdapterError for experts that do not fit the model.
    """
    return routed_by(model, router, strengths_of(router, stack), k=k, rest=rest, trace=trace)


def routed_by(
    model: Any, router: RouterFile, strengths: Mapping[int, float], *, k: int = 0, rest: str = "",
    trace: Trace | None = None,
) -> Any:  # fmt: skip
    """The same with the strengths of the experts that take part, by their place in the router."""
    execution.check_model(model, router)
    voices = {
        index: execution.Voice(matched(model, router.expert(index)), strength) for index, strength in strengths.items()
    }
    return execution.attach_router(model, router, voices, k=k, rest=rest, trace=trace)
