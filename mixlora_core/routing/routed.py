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


def taking_part(router: RouterFile, strength: float, stack: StyleStack) -> dict[int, float]:
    """Which of a router's experts speak, and how strongly: all at `strength`, or a stack's at `strength` times its own.

    Raises RouterError for adapters in the stack that are none of the router's experts, or are there twice.
    """
    if not stack.entries:
        return dict.fromkeys(range(len(router.head.experts)), strength)
    return {index: strength * own for index, own in strengths_of(router, stack).items()}


def describe(router: RouterFile, strengths: Mapping[int, float], k: int = 0) -> str:
    """The report of ApplyLoRARouter: what the router is, and who takes part. A Markdown list."""
    head, most = router.head, min(k or router.head.k, len(strengths))
    served = f"{most} of {len(strengths)} LoRAs" if most < len(strengths) else f"all {most} LoRAs"
    heading = f"{router.name}: {served} for each token in {len(router.routers)} feed-forward layers"
    rows = [
        f"- {expert.name}: {strengths[index]:.4g}" if index in strengths else f"- {expert.name}: never chosen"
        for index, expert in enumerate(head.experts)
    ]
    made_for = head.base_name or head.base
    return "\n".join([heading, *rows, f"- trained on {made_for}, with {head.k} for a token"])


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
