"""The numbers of experiments that are kept as a benchmark's are: what was found, and whether it reaches what was asked.

The best of several methods is chosen by the same pictures that its lead is read from, so that the lead of many that are
alike is too large; the names of the rows say which one it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ..benchmarks.results import Row
from .experiments import measure, numbers
from .findings import Findings
from .methods import policy

ABOVE = 0.01
"""What an interval's lower end must reach to be above zero, in points of a percent."""
FORMS = ("anchored", "centred", "reused", "windowed", "layered")
"""Kinds that make Composite stronger or cheaper."""
FIXED, LEARNT = ("merge",), ("learned", "timed")
"""Kinds with strengths of a person's and of a search's."""
MANY = 5
"""The number of adapters that the goals are about."""
HOURS = 8.0
"""What the full plan may take on two cores."""


def differences(findings: Findings) -> list[Row]:
    """Every method's means and leads over the merge."""
    return [Row(what, value) for what, value in numbers(findings)]


def full(findings: Findings) -> list[Row]:
    """Those, and once every picture is painted, how long sampling took, if none were sampled at once."""
    seconds = findings.reading.seconds
    if np.isnan(seconds).any():
        return differences(findings)
    name = f"sampling, all {seconds.size} pictures one after the other (h)"
    return [*differences(findings), Row(name, float(seconds.sum()) / 3600, HOURS, at_most=True)]


def methods(findings: Findings) -> list[Row]:
    """Those, and the goals of the methods beyond the paper at N = 5."""
    where = findings.sizes == MANY
    others = [label for label in findings.reading.labels if label not in ("switch", "composite", "no LoRA")]
    one_pass = [label for label in others if runs(findings, label) <= 1]
    cheap = [label for label in others if findings.cost(label, where) <= 2]
    return [
        *lead(findings, "best one-pass method", one_pass, "", ["switch"]),
        *lead(findings, "best method at no more than 2 x plain cost", cheap, "", ["composite"]),
        *cheapest(findings),
        *differences(findings),
    ]


def cheapest(findings: Findings) -> list[Row]:
    """At N = 5 the cost over Composite's of the cheapest of its forms with as many elements there, or more."""
    share, where = measure(findings, "share"), findings.sizes == MANY
    if share is None or "composite" not in findings.reading.labels or not (findings.common(share) & where).any():
        return []
    least = findings.mean(share, "composite", where).value
    cost = {
        label: findings.cost(label, where) / findings.cost("composite", where)
        for label in findings.reading.labels
        if findings.reading.kind(label) in FORMS and findings.mean(share, label, where).value >= least
    }
    cost = {label: one for label, one in cost.items() if not math.isnan(one)}  # painted in one run with Composite
    if not cost:
        return []
    chosen = min(cost, key=lambda label: cost[label])
    name = (
        f"N = {MANY}: cost of {chosen}, the cheapest form of Composite with no fewer elements there, over Composite's"
    )
    return [Row(name, cost[chosen], 0.5, at_most=True)]


def learned(findings: Findings) -> list[Row]:
    """The leads of the best learned mix and of layered over the best fixed strength, and every method's means."""
    labels = findings.reading.labels
    fixed, learnt = ([one for one in labels if findings.reading.kind(one) in kinds] for kinds in (FIXED, LEARNT))
    leads = [lead(findings, *who, "best fixed λ", fixed) for who in (("learned mix", learnt), ("layered", ["layered"]))]
    return [*(row for rows in leads for row in rows), *differences(findings)]


def lead(findings: Findings, what: str, labels: list[str], over: str, others: list[str]) -> list[Row]:
    """At N = 5 the lead in elements that are there of the best of `labels` over the best of `others`."""
    share, where = measure(findings, "share"), findings.sizes == MANY
    there = [[label for label in some if label in findings.reading.labels] for some in (labels, others)]
    if share is None or not all(there) or not (findings.common(share) & where).any():
        return []
    means = {label: findings.mean(share, label, where).value for some in there for label in some}
    chosen, other = (max(some, key=lambda label: means[label]) for some in there)
    gap = findings.difference(share, chosen, other, where)
    named = f"{over} ({other})" if over else other
    name = f"N = {MANY}: {what} ({chosen}) minus {named}, elements there (points)"
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
    "full": ("testbed-evidence", full),
    "methods": ("methods", methods),
    "learned": ("methods-learned", learned),
    "timed": ("methods-timed", learned),
}
"""By plan: the topic of its results file, and its rows."""
