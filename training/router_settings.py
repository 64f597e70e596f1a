"""The options of a router, beside those that it shares with every training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .settings import _check as check  # the machinery of all settings
from .settings import _option as option

MIXINGS, RESTS = ("outputs", "layers"), ("off", "mean", "sum")
"""As in `mixlora_core.routing.router`, which this module must not import: --help would wait for torch."""
_router: dict[str, Any] = dict(group="router")


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """What a router is and how it is kept even. Raises TrainingError that lists every value out of range."""

    k: int = option(
        2, int, "experts that serve a token. With one, its coefficient is always 1, and the pictures would teach the "
        "router nothing; a finished router may be run with one",
        lambda v: v >= 2, "2 or more", **_router,
    )  # fmt: skip
    balance: float = option(
        0.01, float, "weight of the load-balance loss, which is 1 where all experts serve as much and their number "
        "where one serves alone; 0 for none",
        lambda v: v >= 0, "0 or more", **_router,
    )  # fmt: skip
    mixing: str = option(
        "outputs", str, "what the coefficients mix: the experts' outputs, as MixLoRA does (arXiv 2404.15159), or their "
        "changes of the two layers", choices=MIXINGS, **_router,
    )  # fmt: skip
    rest: str = option(
        "mean", str, "how what the experts change beside the feed-forward layers speaks, in training and later: off, "
        "mean (each at 1 / n, as weights) or sum", choices=RESTS, **_router,
    )  # fmt: skip
    train_experts: bool = option(
        False, bool, "also train the experts' feed-forward layers; the files themselves stay as they are", **_router
    )
    spread: float = option(
        0.01, float, "standard deviation of the untrained router's logits: small, so that all experts speak alike at "
        "first, and not 0, so that no expert is left out by a tie",
        lambda v: v > 0, "more than 0", **_router,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)

    def shaping_result(self) -> dict[str, Any]:
        """What the trained bytes depend on: all of it."""
        return asdict(self)
