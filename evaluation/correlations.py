"""How well judges agree with people: correlations over all pictures, and within each prompt. Pure numpy and scipy.

Pooled, a judge is rewarded for knowing which prompts are easy. Who compares methods wants to know whether it ranks the
pictures of one prompt as people do: for that every number is taken relative to its prompt's mean ("centred").

Intervals come from drawing whole prompts again; every resample is reckoned exactly, all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import RESAMPLES, Array, Estimate, draws, percentiles, ratio

CHUNK = 500
"""Resamples at a time, so that ranks of thousands of pictures fit into memory."""


class Correlation(NamedTuple):
    """The three usual ones."""

    pearson: Estimate
    spearman: Estimate
    kendall: Estimate
    """Tau-b."""


@dataclass(frozen=True)
class Agreement:
    """What one list of numbers has to do with another, over pictures in groups (prompts)."""

    pooled: Correlation
    centred: Correlation
    pairs: Estimate
    """The share of pairs of one prompt on which both prefer the same picture, of those on which the second is not
    undecided; where the first is undecided, half a pair."""
    ties: int
    """Pairs on which the first is undecided and the second is not."""
    pictures: int


def agreement(values: ArrayLike, people: ArrayLike, groups: Iterable[object]) -> Agreement:
    """A judge's numbers against people's, picture by picture; pictures that lack either are left out."""
    x, y = np.asarray(values, float), np.asarray(people, float)
    there = ~(np.isnan(x) | np.isnan(y))
    numbers: dict[object, int] = {}
    of = np.array(
        [numbers.setdefault(group, len(numbers)) for group, has in zip(groups, there, strict=True) if has], int
    )
    x, y = x[there], y[there]
    pairs, ties = _pairs(x, y, of)
    return Agreement(
        correlation(x, y, of), correlation(centred(x, of), centred(y, of), of), pairs, ties, len(x)
    )  # fmt: skip


def centred(values: Array, groups: NDArray[np.int64]) -> Array:
    """Every number minus the mean of its group; what differs by rounding only becomes equal."""
    counts = np.maximum(np.bincount(groups), 1)
    return np.round(values - (np.bincount(groups, values) / counts)[groups], 9)


def correlation(x: Array, y: Array, groups: NDArray[np.int64]) -> Correlation:
    """Pearson, Spearman and Kendall of two lists, with intervals from drawing groups again."""
    number = int(groups.max()) + 1 if len(groups) else 0
    member = np.zeros((number, len(x)))
    member[groups, np.arange(len(x))] = 1.0
    once = np.ones((1, number))
    found = []
    for statistic in (_pearson(x, y, member), _spearman(x, y, member), _kendall(x, y, member)):
        value = float(statistic(once)[0]) if number else math.nan
        low, high = math.nan, math.nan
        if number > 1 and not math.isnan(value):
            times = draws(number)
            parts = [statistic(times[start : start + CHUNK]) for start in range(0, RESAMPLES, CHUNK)]
            low, high = percentiles(np.concatenate(parts), number)
        found.append(Estimate(value, low, high, number, len(x)))
    return Correlation(*found)


Statistic = Callable[[Array], Array]
"""How often each group is drawn, (resamples, groups) -> the statistic of each resample."""


def _pearson(x: Array, y: Array, member: Array) -> Statistic:
    def statistic(times: Array) -> Array:
        return _weighted_pearson(times @ member, x[None], y[None])

    return statistic


def _spearman(x: Array, y: Array, member: Array) -> Statistic:
    """Pearson of the ranks that the pictures have within each resample, equal ones in the middle."""
    below = [member @ _order(values).T for values in (x, y)]  # (groups, n): what a group puts below each picture

    def statistic(times: Array) -> Array:
        return _weighted_pearson(times @ member, times @ below[0], times @ below[1])

    return statistic


def _kendall(x: Array, y: Array, member: Array) -> Statistic:
    """Tau-b; a picture that is drawn twice is a tie with itself."""
    signs = [np.sign(values[:, None] - values[None]) for values in (x, y)]
    between = [member @ table @ member.T for table in (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))]

    def statistic(times: Array) -> Array:
        both, first, second = (np.einsum("ig,ig->i", times @ table, times) for table in between)
        return _share(both, np.sqrt(first * second))

    return statistic


def _order(values: Array) -> Array:
    """[i, j]: 1 where value j is below value i, a half where they are equal."""
    return (values[None] < values[:, None]) + 0.5 * (values[None] == values[:, None])


def _weighted_pearson(weights: Array, x: Array, y: Array) -> Array:
    """Row by row; weights (r, n), x and y (r or 1, n)."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    return _share((weights * x * y).sum(1), np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1)))


def _share(numerator: Array, denominator: Array) -> Array:
    """The quotient; no number where one side has no spread."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 1e-12, numerator / denominator, np.nan)


def _pairs(x: Array, y: Array, groups: NDArray[np.int64]) -> tuple[Estimate, int]:
    number = int(groups.max()) + 1 if len(groups) else 0
    agreed, asked, ties = np.zeros(number), np.zeros(number), 0
    for group in range(number):
        chosen = np.flatnonzero(groups == group)
        first, second = np.triu_indices(len(chosen), 1)
        one = np.sign(np.round(x[chosen[first]] - x[chosen[second]], 9))
        other = np.sign(np.round(y[chosen[first]] - y[chosen[second]], 9))
        decided = other != 0
        asked[group] = decided.sum()
        agreed[group] = (one[decided] == other[decided]).sum() + 0.5 * (one[decided] == 0).sum()
        ties += int((one[decided] == 0).sum())
    return ratio(agreed, asked), ties
