"""Means, differences and wins, with bootstrap intervals. Pure numpy and scipy.

What is drawn again are whole sets (clusters): all seeds of a set go together, and all methods on it, so that the
interval of a difference knows that both methods had the same sets, prompts and noise. Draws depend on the number of
sets only: the same findings give the same intervals, to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. No number where there is nothing to reckon from, no interval from a single set."""

    value: float
    low: float
    high: float
    sets: int
    """How many were drawn from."""
    cases: int
    """How many numbers went into `value`."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 0)


class Wins(NamedTuple):
    """How often one did better than the other, about as well, and worse."""

    win: int
    tie: int
    loss: int


def mean(values: ArrayLike, sets: ArrayLike) -> Estimate:
    """The mean of a number per case, (cases,), with its interval; `sets` says which set a case is of.

    Cases without a number (NaN) are left out: who compares leaves them out of both sides first.
    """
    values, sets = np.asarray(values, float), np.asarray(sets)
    there = ~np.isnan(values)
    _, places = np.unique(sets[there], return_inverse=True)
    return ratio(np.bincount(places, values[there]), np.bincount(places))


def difference(values: ArrayLike, others: ArrayLike, sets: ArrayLike) -> Estimate:
    """The mean of `values - others`, paired case by case, over the cases that have both."""
    return mean(np.asarray(values, float) - np.asarray(others, float), sets)


def ratio(sums: ArrayLike, counts: ArrayLike) -> Estimate:
    """Σ sums / Σ counts over sets, (sets,) each, with its interval; sets that count nothing are left out.

    The interval is the expanded percentile interval (T. Hesterberg, arXiv 1411.5279), which is as wide as
    Student's where sets are few; the plain percentile interval is too narrow there.
    """
    sums, counts = np.asarray(sums, float), np.asarray(counts, float)
    kept = counts > 0
    sums, counts = sums[kept], counts[kept]
    number = len(sums)
    if not number:
        return NOTHING
    value, cases = float(sums.sum() / counts.sum()), round(float(counts.sum()))
    if number == 1:
        return Estimate(value, math.nan, math.nan, 1, cases)
    low, high = percentiles(drawn(sums, counts), number)
    return Estimate(value, low, high, number, cases)


def drawn(sums: Array, counts: Array) -> Array:
    """Σ sums / Σ counts of every resample, (RESAMPLES,)."""
    times = draws(len(sums))
    return (times @ sums) / (times @ counts)


@lru_cache(maxsize=8)
def draws(number: int) -> Array:
    """How often each of `number` sets is drawn in each resample, (RESAMPLES, number); always the same, read only."""
    times = np.random.default_rng(SEED).multinomial(number, np.full(number, 1 / number), RESAMPLES).astype(float)
    times.flags.writeable = False
    return times


def percentiles(found: Array, number: int) -> tuple[float, float]:
    """The ends of the expanded percentile interval of what resamples of `number` sets gave."""
    share = _tail(number)
    found = found[~np.isnan(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.quantile(found, [share, 1 - share])
    return float(low), float(high)


@lru_cache(maxsize=64)
def _tail(number: int) -> float:
    """The share of resamples beyond each end: 2.5 % for very many sets, less for few."""
    return float(stats.norm.cdf(math.sqrt(number / (number - 1)) * stats.t.ppf((1 - LEVEL) / 2, number - 1)))


def wins(differences: Array, tie: float = 0.0) -> Wins:
    """Of the cases that have a difference: how many are above `tie`, within it, and below -tie."""
    found = differences[~np.isnan(differences)]
    slack = tie + 1e-9  # 0.8 - 0.6 is not quite 0.2
    win, loss = int((found > slack).sum()), int((found < -slack).sum())
    return Wins(win, len(found) - win - loss, loss)


def paired_ratio(values: ArrayLike, others: ArrayLike) -> float:
    """The median of `values / others` over the cases that have both; no number where none has."""
    found = np.asarray(values, float) / np.asarray(others, float)
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else math.nan
