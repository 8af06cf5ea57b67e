"""Permutations stay within their groups, p-values and their corrections agree with others, drift is removed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import permutation_test

from lvmzoo.claims.nulls import (
    bootstrap,
    cells,
    drift_basis,
    holm,
    interval,
    log_exchanges,
    null_summary,
    p_value,
    permutations,
    without_drift,
)
from lvmzoo.claims.surrogates import exchangeable


def test_trials_stay_in_their_condition_and_block() -> None:
    generator = torch.Generator().manual_seed(0)
    condition = torch.tensor([0, 1, 2] * 20)
    seen = torch.stack([permutations(condition, 60, generator, blocks=3) for _ in range(200)])
    for found in seen:
        assert sorted(found.tolist()) == list(range(60))
        assert torch.equal(condition[found], condition)
        assert torch.equal(found // 20, torch.arange(60) // 20)
    # Each trial reaches each of the places that it may reach, equally often.
    group = [trial for trial in range(20) if condition[trial] == 0]
    counts = torch.stack([(seen[:, group[0]] == trial).sum() for trial in group])
    assert int(counts.min()) > 0
    assert float(counts.sum()) == 200
    assert float(((counts - 200 / len(group)) ** 2 / (200 / len(group))).sum()) < 20  # chi-square, 6 degrees


def test_trials_of_unknown_condition_stay_where_they_are() -> None:
    condition = torch.tensor([0, -1, 1, -1] * 10)
    unknown = condition < 0
    for seed in range(20):
        found = permutations(condition, 40, torch.Generator().manual_seed(seed), blocks=2)
        assert torch.equal(found[unknown], torch.arange(40)[unknown])
        assert torch.equal(condition[found], condition)
    assert exchangeable(condition, 40, 2) == 20
    assert log_exchanges(cells(condition, 40, 2)) == pytest.approx(4 * math.log(math.factorial(5)))


def test_permutations_without_condition_and_of_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    found = permutations(None, 50, generator)
    assert sorted(found.tolist()) == list(range(50))
    assert not torch.equal(found, torch.arange(50))
    assert len(permutations(None, 0, generator)) == 0
    assert len(permutations(torch.zeros(0, dtype=torch.int64), 0, generator)) == 0
    assert permutations(torch.tensor([-1]), 1, generator).tolist() == [0]


def test_p_value_counts_ties_against_the_claim() -> None:
    assert p_value(2.0, [0.0, 1.0, 2.0, 3.0]) == pytest.approx(3 / 5)
    assert p_value(4.0, torch.tensor([0.0, 1.0, 2.0, 3.0])) == pytest.approx(1 / 5)
    assert p_value(4.0, [math.nan, 0.0]) == pytest.approx(2 / 3)
    assert p_value(math.nan, [0.0, 0.0]) == 1.0
    assert p_value(1.0, []) == 1.0


def test_p_value_equals_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=30), random.normal(0.4, 1, size=30)
    theirs = permutation_test(
        (x, y), lambda a, b: b.mean() - a.mean(), n_resamples=999, alternative="greater", rng=np.random.default_rng(1)
    )
    assert p_value(theirs.statistic, theirs.null_distribution.tolist()) == pytest.approx(theirs.pvalue)


def test_holm_is_the_closed_test_by_bonferroni() -> None:
    """The corrected p of a hypothesis is the largest Bonferroni p of any set of hypotheses that holds it."""
    ps = [0.01, 0.04, 0.03, 0.005, 0.9, 0.03]
    sets = [held for size in range(1, 7) for held in itertools.combinations(range(6), size)]
    expected = [max(min(1.0, len(s) * min(ps[j] for j in s)) for s in sets if i in s) for i in range(6)]
    assert holm(ps) == pytest.approx(expected)
    assert holm([]) == []


def test_percentiles_leave_out_what_is_not_a_number() -> None:
    draws = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert null_summary([*draws.tolist(), math.nan]) == pytest.approx((0.5, 0.96))  # the 97th: .95 x 102 is 96.9
    assert interval([*draws.tolist(), math.nan]) == pytest.approx(((0.025 * 102 - 1) / 100, (0.975 * 102 - 1) / 100))
    assert all(math.isnan(value) for value in interval([]))


@pytest.mark.parametrize("draws", [19, 25, 39, 50, 139, 199, 200, 999])
@pytest.mark.parametrize("ties", [False, True])
def test_what_lies_above_the_null_has_a_p_of_one_in_twenty(draws: int, ties: bool) -> None:
    random = np.random.default_rng(draws)
    null = torch.from_numpy(random.integers(0, 9, draws).astype(float) if ties else random.normal(size=draws))
    limit = null_summary(null)[1]
    for observed in (limit - 1e-9, limit, limit + 1e-9, *null.tolist(), float(null.max()) + 1):
        assert (p_value(observed, null) <= 0.05) == (observed > limit)


def test_few_or_endless_draws_have_a_largest() -> None:
    assert null_summary([3.0, 1.0, 2.0]) == (2.0, 3.0)
    assert null_summary([-math.inf, 0.0, math.inf]) == (0.0, math.inf)
    assert all(map(math.isnan, null_summary([math.nan])))


def test_resamples_are_sorted_and_draw_with_replacement() -> None:
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([bootstrap(40, generator) for _ in range(500)])
    assert bool((found.diff(dim=1) >= 0).all())
    distinct = np.mean([len(set(row.tolist())) for row in found])
    assert distinct == pytest.approx(40 * (1 - (1 - 1 / 40) ** 40), rel=0.02)
    counts = torch.bincount(found.flatten(), minlength=40)
    assert float(counts.double().std()) < 3 * math.sqrt(500)


def test_drift_is_removed_by_least_squares() -> None:
    random = np.random.default_rng(0)
    trials, bins, units = 80, 6, 3
    position = (np.arange(trials) + 0.5) / trials
    drift = np.stack([3 * np.cos(np.pi * position), position * 0, 2 * np.cos(3 * np.pi * position)], 1)
    noise = random.normal(size=(trials, bins, units))
    values = torch.tensor(noise + drift[:, None] + 5.0)
    observed = torch.ones(values.shape, dtype=torch.bool)
    observed[3, 2, 1] = False
    values[3, 2, 1] = torch.nan
    found = without_drift(values, observed)
    # The same by least squares over single samples, unit by unit, with a mean of each bin.
    for unit in range(units):
        kept = observed[..., unit].numpy()
        drifts = drift_basis(torch.tensor(position), 4).numpy()[:, None, 1:].repeat(bins, 1)
        design = np.concatenate([drifts, np.eye(bins)[None].repeat(trials, 0)], 2)
        slope = np.linalg.lstsq(design[kept], values[..., unit].numpy()[kept], rcond=None)[0]
        expected = values[..., unit].numpy() - drifts @ slope[:4]
        expected -= expected[kept].mean()
        np.testing.assert_allclose(found[..., unit].numpy()[kept], expected[kept], atol=1e-8)
    assert float(found.mean(1).var(0).max()) < 3 / bins


@pytest.mark.parametrize("conditions", [1, 3])
def test_courses_in_trials_of_unlike_length_are_no_drift(conditions: int) -> None:
    random = np.random.default_rng(2)
    trials, bins = 60, 30
    condition = torch.from_numpy(random.integers(0, conditions, trials))
    course = torch.from_numpy(random.normal(size=(conditions, bins, 2)).cumsum(1))
    values = course[condition]
    length = torch.from_numpy(np.where(random.random(trials) < 0.3, bins, 5))
    observed = (torch.arange(bins) < length[:, None])[..., None].expand(values.shape)
    found = without_drift(values, observed, condition=condition)
    torch.testing.assert_close(
        found[observed].reshape(-1, 2), values[observed].reshape(-1, 2) - values[observed].reshape(-1, 2).mean(0)
    )


def test_few_trials_lose_their_mean_alone() -> None:
    values = torch.arange(24, dtype=torch.float64).reshape(4, 3, 2)
    found = without_drift(values, torch.ones(values.shape, dtype=torch.bool))
    torch.testing.assert_close(found, values - values.mean((0, 1)), rtol=1e-8, atol=1e-8)


def test_drift_leaves_the_means_of_conditions() -> None:
    """The order of conditions is no drift: what is left of a condition does not depend on when it came."""
    random = np.random.default_rng(1)
    trials, bins = 60, 5
    condition = torch.from_numpy(random.integers(-1, 3, trials))
    level = torch.tensor([2.0, -4.0, 7.0, 1.0], dtype=torch.float64)[condition + 1]
    position = torch.from_numpy((np.arange(trials) + 0.5) / trials)
    values = (level + torch.cos(math.pi * position))[:, None, None].expand(trials, bins, 1).clone()
    found = without_drift(values, torch.ones(values.shape, dtype=torch.bool), condition=condition)[:, 0, 0]
    torch.testing.assert_close(found - found[0], level - level[0], rtol=1e-7, atol=1e-7)
    other = without_drift(values, torch.ones(values.shape, dtype=torch.bool))[:, 0, 0]
    assert float((other - other[0] - level + level[0]).abs().max()) > 0.1
