"""Intervals, wins and correlations: against slow and plain ways, against scipy, and against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mixlora.evaluation import correlations, statistics
from mixlora.evaluation.correlations import agreement, centred, correlation
from mixlora.evaluation.statistics import RESAMPLES, Wins, difference, draws, mean, paired_ratio, ratio, wins
from scipy import stats


def numbers(count, seed=0):
    return np.random.default_rng(seed).normal(size=count)


def test_an_interval_is_that_of_sets_drawn_one_by_one():
    values, sets = numbers(24), np.repeat(np.arange(9), [1, 4, 3, 2, 5, 1, 3, 3, 2])
    found = []
    for times in draws(9):
        drawn = [values[sets == one] for one in range(9) for _ in range(int(times[one]))]
        found.append(np.concatenate(drawn).mean())
    share = stats.norm.cdf(math.sqrt(9 / 8) * stats.t.ppf(0.025, 8))
    low, high = np.quantile(found, [share, 1 - share])
    estimate = mean(values, sets)
    assert (estimate.value, estimate.sets, estimate.cases) == (pytest.approx(values.mean()), 9, 24)
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))


def test_with_many_sets_it_is_scipys_percentile_interval():
    values = numbers(400)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    ours = mean(values, np.arange(400))
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.01), pytest.approx(theirs.high, abs=0.01))


def test_with_few_sets_it_holds_what_it_promises():
    """The true mean lies in about 95 of 100 intervals of eight sets; plain percentiles would hold it in about 88."""
    drawn = np.random.default_rng(0).normal(size=(600, 8))
    held = [found.low <= 0 <= found.high for found in (mean(one, np.arange(8)) for one in drawn)]
    assert 0.92 < np.mean(held) < 0.98


def test_more_seeds_of_the_same_sets_are_no_more_sets():
    values = numbers(12)
    once, thrice = mean(values, np.arange(12)), mean(np.tile(values, 3), np.tile(np.arange(12), 3))
    assert (thrice.low, thrice.high, thrice.sets) == (pytest.approx(once.low), pytest.approx(once.high), 12)
    assert thrice.cases == 36


def test_a_difference_is_paired_and_leaves_out_what_one_side_lacks():
    hard, gain = 10 * numbers(30), 0.5 + 0.1 * numbers(30, 1)
    ours, theirs = hard + gain, hard.copy()
    theirs[3] = np.nan
    found = difference(ours, theirs, np.arange(30))
    assert found.value == pytest.approx(np.delete(gain, 3).mean()) and found.cases == 29
    assert found.clear and found.high - found.low < 0.1, "sets differ by tens, methods on a set by tenths"
    assert not mean(ours, np.arange(30)).clear


def test_the_same_numbers_give_the_same_interval_to_the_bit():
    first = mean(numbers(50), np.arange(50))
    draws.cache_clear()
    assert mean(numbers(50), np.arange(50)) == first


def test_one_set_has_no_interval_and_none_no_number():
    alone = mean([0.5, 0.7], [4, 4])
    assert alone.value == pytest.approx(0.6) and math.isnan(alone.low) and not alone.clear
    assert math.isnan(mean([math.nan], [0]).value) and math.isnan(ratio(np.zeros(3), np.zeros(3)).value)
    same = mean(np.full(20, 0.3), np.arange(20))
    assert same.low == pytest.approx(0.3) and same.high == pytest.approx(0.3)


def test_a_share_weighs_sets_by_what_they_count():
    found = ratio(np.array([1.0, 3.0, 0.0]), np.array([1.0, 4.0, 0.0]))
    assert found.value == pytest.approx(4 / 5) and found.sets == 2 and found.cases == 5
    assert len(statistics.drawn(np.ones(3), np.ones(3))) == RESAMPLES


def test_wins_ties_and_losses():
    gaps = np.array([0.8 - 0.6 - 0.2, 0.3, -0.1, np.nan, 0.02, -0.02, -0.021])
    assert wins(gaps) == Wins(2, 1, 3)
    assert wins(gaps, tie=0.02) == Wins(1, 3, 2), "0.02 is within 0.02"


def test_cost_is_the_median_of_ratios_case_by_case():
    assert paired_ratio(np.array([2.0, 30, np.nan, 9]), np.array([1.0, 10, 5, np.nan])) == pytest.approx(2.5)
    assert math.isnan(paired_ratio(np.array([np.nan]), np.array([1.0])))


@pytest.fixture(scope="module")
def rated():
    """30 pictures of ten prompts, with ties: a judge's numbers, people's, and the prompt of each."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(10), 3)
    ease = rng.normal(size=10)[groups]
    x, y = np.round(3 * ease + rng.normal(size=30)), np.round(-ease + rng.normal(size=30))
    return x, y, groups


def test_correlations_are_scipys(rated):
    x, y, groups = rated
    found = correlation(x, y, groups)
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y)[0])
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y)[0])
    assert found.kendall.value == pytest.approx(stats.kendalltau(x, y)[0])


def test_resampled_correlations_are_scipys_of_the_pictures_written_out(rated):
    x, y, groups = rated
    member = np.zeros((10, 30))
    member[groups, np.arange(30)] = 1
    times = draws(10)[:25]
    statistic = {
        "pearsonr": correlations._pearson(x, y, member), "spearmanr": correlations._spearman(x, y, member),
        "kendalltau": correlations._kendall(x, y, member),
    }  # fmt: skip
    for name, ours in statistic.items():
        for row, value in zip(times, ours(times), strict=True):
            pictures = np.repeat(np.arange(30), row[groups].astype(int))
            assert value == pytest.approx(getattr(stats, name)(x[pictures], y[pictures])[0]), name


def test_a_judge_that_knows_easy_prompts_only_agrees_pooled_not_within():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    ease = rng.normal(size=40)[groups]
    people = 3 * ease + rng.normal(size=120)
    knows_prompts, knows_pictures = ease, people - 6 * ease
    first, second = agreement(knows_prompts, people, groups), agreement(knows_pictures, people, groups)
    assert first.pooled.pearson.low > 0.85 and math.isnan(first.centred.pearson.value), "blind within"
    assert first.pairs.value == 0.5 and first.ties == 120
    assert second.pooled.pearson.high < 0 and second.centred.pearson.value == pytest.approx(1)
    assert second.pairs.value == 1 and second.centred.kendall.low == pytest.approx(1)


def test_pairs_count_undecided_people_out_and_an_undecided_judge_half():
    people = [1, 2, 3, 5, 5, 4]
    judge = [1, 1, 3, 0, 9, 2]
    found = agreement(judge, people, list("aaabbb"))
    # a: 1-2 undecided, 1-3 and 2-3 agreed; b: 5-5 is not asked, 5(0)-4(2) is not agreed, 5(9)-4(2) is
    assert found.pairs.value == pytest.approx((0.5 + 2 + 1) / 5) and found.pairs.cases == 5 and found.ties == 1


def test_pictures_without_a_number_are_left_out(rated):
    x, y, groups = rated
    holes = x.copy()
    holes[[0, 7]] = np.nan
    left = np.delete(np.arange(30), [0, 7])
    found = agreement(holes, y, list(groups))
    assert found.pictures == 28 and found.pooled.pearson.value == pytest.approx(stats.pearsonr(x[left], y[left])[0])
    assert math.isnan(agreement([math.nan], [1.0], ["a"]).pooled.kendall.value)


def test_rounding_makes_no_order_within_a_prompt():
    values = np.array([0.1 + 0.2, 0.3, 0.3, 1.0])
    assert len(set(centred(values, np.array([0, 0, 0, 1])).tolist())) == 1
