"""The numbers of experiments that are kept as a benchmark's are: what was found, and whether it reaches what was asked.

The best of several methods is chosen by the same pictures that its lead is read from, so that the lead of many that are
alike is too large; the names of the rows say which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..benchmarks.results import Row
from .experiments import measure, numbers
from .findings import Findings
from .methods import policy

ABOVE = 0.01
"""What an interval's lower end must reach to be above zero, in points of a percent."""
MANY = 5
"""The number of adapters that the goals are about."""


def differences(findings: Findings) -> list[Row]:
    """Every method's means and leads over the merge."""
    return [Row(what, value) for what, value in numbers(findings)]


def methods(findings: Findings) -> list[Row]:
    """The same, and the goals of the methods beyond the paper at N = 5."""
    where = findings.sizes == MANY
    others = [label for label in findings.reading.labels if label not in ("switch", "composite", "no LoRA")]
    one_pass = [label for label in others if runs(findings, label) <= 1]
    cheap = [label for label in others if findings.cost(label, where) <= 2]
    return [
        *best(findings, "one-pass method", one_pass, "switch"),
        *best(findings, "method at no more than 2 x plain cost", cheap, "composite"),
        *differences(findings),
    ]


def best(findings: Findings, what: str, labels: list[str], other: str) -> list[Row]:
    """The lead over `other` in elements that are there of that one of `labels` that has most of them."""
    share = measure(findings, "share")
    where = findings.sizes == MANY
    if (
        share is None
        or other not in findings.reading.labels
        or not labels
        or not (findings.common(share) & where).any()
    ):
        return []
    chosen = max(labels, key=lambda label: findings.mean(share, label, where).value)
    gap = findings.difference(share, chosen, other, where)
    name = f"N = {MANY}: best {what} ({chosen}) minus {other}, elements there (points)"
    return [
        Row(name, share.factor * gap.value),
        Row(f"{name}, 95 % from", share.factor * gap.low, ABOVE),
        Row(f"{name}, 95 % to", share.factor * gap.high),
    ]


def runs(findings: Findings, label: str) -> float:
    """How often the model runs in a step, at N = 5."""
    job = findings.reading.first_job(label)
    return policy(job.method).evaluations(MANY, job.sampling.steps, job.sampling.cfg)


KEPT: Mapping[str, tuple[str, Callable[[Findings], list[Row]]]] = {
    "full": ("testbed-evidence", differences),
    "methods": ("methods", methods),
}
"""By plan: the topic of its results file, and its rows."""
