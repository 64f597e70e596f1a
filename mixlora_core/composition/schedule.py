"""Which denoising step it is, and which adapter speaks in it. Pure: no torch, no ComfyUI."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from ..errors import CompositionError

AUTOMATIC = 0
"""As a block's length: chosen from the number of steps."""

PAPERS_SHARE = 20
"""The paper's block is 5 of 100 steps (arXiv 2402.16843): one twentieth of the run."""

_ROUNDING = 1e-4  # samplers compute sigmas again from their own clock; neighbouring steps are further apart than this


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """The step (from 0) that a model call with noise level `sigma` belongs to.

    `sigmas` are the n + 1 noise levels of n steps, falling, or rising where a picture is turned into noise. Step k owns
    what lies from sigmas[k] to just before sigmas[k + 1], so that samplers which look ahead (heun, dpm_2, sde) are told
    by where they look, never by how often they call. A sigma before the first belongs to step 0, one at or beyond the
    last to the last step.
    """
    if sigmas[0] < sigmas[-1]:
        reached = bisect_right(sigmas, sigma * (1 + _ROUNDING))
    else:
        reached = bisect_right(sigmas, -sigma * (1 - _ROUNDING), key=lambda level: -level)
    return max(0, min(reached - 1, len(sigmas) - 2))


def steps_within(start: float, end: float, steps: int) -> range:
    """The steps k of n whose middle, (k + 1/2) / n, lies from `start` to `end`, shares of the run from 0 to 1.

    One on a border belongs to what lies before it: windows that touch share no step and leave none out, for any n.
    """
    first, last = (math.floor(share * steps + 0.5 + 1e-9) for share in (start, end))
    return range(first, last)


def block_length(every: int, adapters: int, steps: int) -> int:
    """How many steps a turn lasts: `every`, or for AUTOMATIC a twentieth of the run, at most steps / adapters.

    Raises CompositionError for a negative `every`, and where AUTOMATIC cannot give every adapter a step.
    """
    if every < AUTOMATIC:
        raise CompositionError(f"switch_every is {every}; expected 1 or more steps, or 0 for automatic.")
    if every != AUTOMATIC:
        return every
    if adapters > steps:
        raise CompositionError(
            f"{adapters} LoRAs cannot each have a turn in {steps} steps. Use at least {adapters} steps or fewer LoRAs, "
            "or set switch_every to 1: then the last ones never speak."
        )
    return max(1, min(round(steps / PAPERS_SHARE), steps // adapters))


def timetable(order: Sequence[int], every: int, steps: int) -> tuple[int, ...]:
    """Which adapter speaks in each step: `order` in turns of `every` steps, from the start again after its end.

    LoRA Switch (arXiv 2402.16843): the adapter of step k is order[(k // every) mod N]. The paper's reference code
    changes after a step instead of before it, which makes its first turn one step longer.
    """
    length = block_length(every, len(order), steps)
    return tuple(order[(step // length) % len(order)] for step in range(steps))
