"""Canonical correlations against scikit-learn, SciPy and loops over lags, folds and pairs of times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import eigh, subspace_angles
from sklearn.cross_decomposition import CCA

from lvmzoo.claims.lag_profile import asymmetry
from lvmzoo.claims.nulls import drift_basis
from lvmzoo.claims.surrogates import CircularShifts, TrialPermutations, correlation_time
from lvmzoo.inference.canonical_correlation import (
    Pairs,
    Regularization,
    canonical_pairs,
    held_out,
    pooled,
    projection,
    whitening,
)
from lvmzoo.inference.lag_map import (
    LaggedProducts,
    Sums,
    choose,
    correlations,
    fold_of_trials,
    located,
    of_one_lag,
    widened,
)
from tests.models import regions_world


def two(seed: int = 0, n: int = 400, p: int = 6, q: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shared = random.normal(size=(n, 2)) * [1.5, 0.7]
    x = shared @ random.normal(size=(2, p)) + random.normal(size=(n, p)) + 3.0
    y = shared @ random.normal(size=(2, q)) + random.normal(size=(n, q)) - 1.0
    return x, y


def products(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a, b = (torch.from_numpy(np.c_[part, np.ones(len(part))]) for part in (x, y))
    return a.mT @ b, a.mT @ a, b.mT @ b


def test_equals_scikit_learn_with_one_component() -> None:
    """C1: the correlation, and the directions up to sign."""
    x, y = two()
    cross, within_x, within_y = products(x, y)
    none = Regularization()
    found = canonical_pairs(cross, projection(within_x, 1, none), projection(within_y, 1, none), 1, 1)
    theirs = CCA(1, scale=False, max_iter=10_000, tol=1e-14).fit(x, y)
    u, v = theirs.transform(x, y)
    assert float(found.correlation[0]) == pytest.approx(np.corrcoef(u[:, 0], v[:, 0])[0, 1], abs=1e-6)
    for ours, other in ((found.x, theirs.x_rotations_), (found.y, theirs.y_rotations_)):
        assert subspace_angles(ours[:-1].numpy(), other)[0] < 1e-5


def test_every_pair_equals_the_generalized_eigenvalue_problem() -> None:
    x, y = two(1)
    cross, within_x, within_y = products(x, y)
    amount = 0.3
    regularization = Regularization("shrinkage", amount)
    found = canonical_pairs(
        cross, projection(within_x, 1, regularization), projection(within_y, 1, regularization), 1, 5
    )
    sxx, syy, sxy = np.cov(x.T, bias=True), np.cov(y.T, bias=True), np.cov(x.T, y.T, bias=True)[:6, 6:]
    sxx += amount * np.trace(sxx) / 6 * np.eye(6)
    syy += amount * np.trace(syy) / 5 * np.eye(5)
    values = eigh(sxy @ np.linalg.solve(syy, sxy.T), sxx, eigvals_only=True)[::-1]
    np.testing.assert_allclose(found.correlation.numpy() ** 2, values[:5], atol=1e-10)


def test_pca_keeps_the_share_of_variance_and_leaves_out_what_does_not_vary() -> None:
    variance = torch.tensor([6.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    covariance = axes @ torch.diag(variance) @ axes.mT
    for amount, rank in ((0.5, 1), (0.89, 2), (0.91, 3), (1.0, 3)):
        white = whitening(covariance, Regularization("pca", amount))
        gram = white.mT @ covariance @ white
        assert int((gram.diagonal() > 0.5).sum()) == rank
        torch.testing.assert_close(gram, torch.diag((gram.diagonal() > 0.5).double()), rtol=1e-9, atol=1e-9)


def test_correlation_of_held_out_data_is_that_of_its_variates() -> None:
    x, y = two(2)
    train = np.arange(len(x)) % 3 != 0
    none = Regularization()
    cross, within_x, within_y = products(x[train], y[train])
    pairs = canonical_pairs(cross, projection(within_x, 1, none), projection(within_y, 1, none), 1, 3)
    between, of_x, of_y = (m[None] for m in products(x[~train], y[~train]))
    found = pooled(held_out(Pairs(*(leaf[None] for leaf in pairs)), between, of_x, of_y, 1))
    u, v = x[~train] @ pairs.x[:-1].numpy(), y[~train] @ pairs.y[:-1].numpy()
    expected = [np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(3)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def lag_world(
    drift: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = regions_world.coupled(0, 4, trials=40, bins=24, units=(5, 4), ragged=True)
    valid, activity = batch.valid.clone(), batch.activity
    valid[3, 7] = False
    columns = drift_basis((torch.arange(40, dtype=torch.float64) + 0.5) / 40, 2 if drift else 0)
    columns = columns[:, None].expand(40, 24, -1)
    x, y = activity[..., :5], activity[..., 5:]
    return x, y, valid, columns, fold_of_trials(40, 4), torch.arange(-5, 6)


@pytest.mark.parametrize("drift", [False, True])
def test_lag_map_equals_loops_over_folds_and_lags(drift: bool) -> None:
    x, y, valid, columns, fold, lags = lag_world(drift)
    nuisance = columns.shape[-1]
    wide = [widened(part, valid, columns) for part in (x, y)]
    lagged = LaggedProducts(wide[1], fold, 4, 5)
    sums = Sums(lagged.cross(wide[0]), lagged.within(wide[0]), lagged.within(wide[1]))
    found = correlations(sums, nuisance, Regularization("shrinkage", 0.05), 1)
    expected = np.zeros((3, len(lags), 4))
    for k in range(4):
        train = (fold != k).numpy()
        weights, parts = [], []
        for part in (x, y):
            keep = valid.numpy() & train[:, None]
            slope = np.linalg.lstsq(columns.numpy()[keep], part.numpy()[keep], rcond=None)[0]
            residual = part.numpy() - columns.numpy() @ slope
            covariance = residual[keep].T @ residual[keep] / keep.sum()
            covariance += 0.05 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
            values, axes = np.linalg.eigh(covariance)
            weights.append(axes / np.sqrt(values))
            parts.append(residual)
        for place, lag in enumerate(lags.tolist()):
            a, b = slice(max(0, -lag), 24 - max(0, lag)), slice(max(0, lag), 24 - max(0, -lag))
            both = (valid[:, a] & valid[:, b]).numpy()
            one = [part[:, when][both & train[:, None]] for part, when in zip(parts, (a, b), strict=True)]
            centered = [part - part.mean(0) for part in one]
            white = weights[0].T @ centered[0].T @ centered[1] @ weights[1] / len(one[0])
            u, _, vh = np.linalg.svd(white)
            directions = weights[0] @ u[:, 0], weights[1] @ vh[0]
            test = both & ~train[:, None]
            left, right = parts[0][:, a][test] @ directions[0], parts[1][:, b][test] @ directions[1]
            everything = valid.numpy() & ~train[:, None]
            expected[0, place, k] = np.cov(left, right, bias=True)[0, 1] * test.sum()
            expected[1, place, k] = (parts[0][everything] @ directions[0]).var() * test.sum()
            expected[2, place, k] = (parts[1][everything] @ directions[1]).var() * test.sum()
    total = expected.sum(2)
    np.testing.assert_allclose(found.correlation[:, 0].numpy(), total[0] / np.sqrt(total[1] * total[2]), atol=1e-8)
    assert int(lags[found.correlation[:, 0].argmax()]) == 4


def test_products_of_long_sessions_take_another_way_to_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, valid, columns, fold, _ = lag_world()
    wide = [widened(part, valid, columns) for part in (x, y)]
    weight = torch.arange(40, dtype=torch.float64) % 3
    expected = LaggedProducts(wide[1], fold, 4, 5).cross(wide[0], weight)
    monkeypatch.setattr("lvmzoo.inference.lag_map.STACK_ENTRIES", 0)
    torch.testing.assert_close(LaggedProducts(wide[1], fold, 4, 5).cross(wide[0], weight), expected)


def test_weights_count_trials_as_copies_in_the_same_fold() -> None:
    x, y, valid, columns, fold, _ = lag_world()
    wide = [widened(part, valid, columns) for part in (x, y)]
    drawn = torch.randint(40, (40,), generator=torch.Generator().manual_seed(0))
    copies = LaggedProducts(wide[1][drawn], fold[drawn], 4, 5)
    weight = torch.bincount(drawn, minlength=40).double()
    found = LaggedProducts(wide[1], fold, 4, 5)
    torch.testing.assert_close(found.cross(wide[0], weight), copies.cross(wide[0][drawn]))
    torch.testing.assert_close(found.within(wide[0], weight), copies.within(wide[0][drawn]))


def test_the_amount_of_regularization_does_not_look_at_its_fold() -> None:
    x, y, valid, columns, fold, _ = lag_world()
    wide = [widened(part, valid, columns) for part in (x, y)]
    lagged = LaggedProducts(wide[1], fold, 4, 3)
    sums = Sums(lagged.cross(wide[0]), lagged.within(wide[0]), lagged.within(wide[1]))
    amounts = [0.0, 0.1, 10.0]
    chosen = choose(sums, 1, "shrinkage", amounts)
    changed = Sums(*(leaf.clone() for leaf in sums))
    changed.cross[2] = 0
    assert float(choose(changed, 1, "shrinkage", amounts)[2]) == float(chosen[2])


def binned(delay: float, timescale: float, shape: str, lags: int) -> torch.Tensor:
    """Return the cross-covariance by lag of two binned series, of which the second follows after ``delay`` bins.

    Binning weighs the covariance at a lag with a triangle, one bin to either side.
    """
    fine = (np.arange(-1000, 1000) + 0.5) / 1000
    triangle = (1 - np.abs(fine)) / 1000
    apart = np.abs(np.arange(-lags, lags + 1)[:, None] - delay + fine) / timescale
    return torch.from_numpy((np.exp(-apart) if shape == "exponential" else np.exp(-0.5 * apart**2)) @ triangle)


@pytest.mark.parametrize("timescale", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("shape", ["exponential", "gaussian"])
def test_delays_between_bins_are_located(shape: str, timescale: float) -> None:
    """A parabola through the highest sample is up to a sixth of a bin off: covariance is not one after binning."""
    for delay in (0.0, 1.0, 1.25, 1.5, 1.75, -2.35):
        profile = binned(delay, timescale, shape, 8)
        found = located(profile, int(profile.argmax()))
        assert found == pytest.approx(delay, abs=0.025)
        assert located(profile.flip(0), 16 - int(profile.argmax())) == pytest.approx(-found, abs=1e-6)


def test_delays_of_whole_bins_are_located_at_them() -> None:
    lags = torch.arange(-6, 7, dtype=torch.float64)
    assert located(torch.exp(-(lags - 1).abs() / 2), 7) == pytest.approx(1.0, abs=0.02)
    assert located(torch.ones(1, dtype=torch.float64), 0) == pytest.approx(0.0, abs=1e-6)
    assert located(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), 1) == pytest.approx(0.0, abs=1e-6)


def test_the_covariance_of_one_canonical_pair_by_lag() -> None:
    """Against canonical variates formed bin by bin."""
    batch = regions_world.coupled(0, 2, trials=12, bins=14, units=(4, 3))
    fold, folds, lags = fold_of_trials(12, 3), 3, 4
    everywhere = torch.ones(12, 14, dtype=torch.bool)
    one = torch.ones(12, 14, 1, dtype=torch.float64)
    x, y = (widened(part, everywhere, one) for part in (batch.activity[..., :4], batch.activity[..., 4:]))
    products = LaggedProducts(y, fold, folds, lags)
    sums = Sums(products.cross(x), products.within(x), products.within(y))
    found = correlations(sums, 1, Regularization("shrinkage", 0.1), 2)
    profile = of_one_lag(found, 6, sums, 1)
    for place, lag in enumerate(range(-lags, lags + 1)):
        total = np.zeros(3)
        for k in range(folds):
            a, b = (
                (part[fold == k] @ weights[k, 6, :, 0]).numpy()
                for part, weights in ((x, found.pairs.x), (y, found.pairs.y))
            )
            left, right = a[:, max(0, -lag) : 14 - max(0, lag)], b[:, max(0, lag) : 14 - max(0, -lag)]
            total += np.array([np.cov(left.ravel(), right.ravel(), bias=True)[0, 1], a.var(), b.var()]) * left.size
        assert float(profile[place]) == pytest.approx(total[0] / math.sqrt(total[1] * total[2]), abs=1e-9)
    assert float(profile[6]) == pytest.approx(float(found.correlation[6, 0]), abs=1e-12)


def test_asymmetry_compares_the_best_lags_of_both_sides() -> None:
    lags = torch.arange(-6, 7, dtype=torch.float64)
    profile = torch.stack([1 - 0.01 * (lags - 2.3) ** 2, 1 - 0.01 * (lags + 4.0) ** 2])
    # On the side of the peak the sample next to it, on the other that at lag one.
    torch.testing.assert_close(asymmetry(profile)[0], profile[0, 8] - profile[0, 5])
    torch.testing.assert_close(asymmetry(profile.flip(1)), -asymmetry(profile))


def test_draws_rearrange_regions_against_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(24, dtype=torch.float64).reshape(12, 2, 1)
    permuted = TrialPermutations(None, 12, 1)
    first, second, last = permuted.draw(3, generator)
    assert torch.equal(last, torch.arange(12))
    # Trial second[i] of y meets trial first[i] of x.
    found = permuted.against(first, second, x)
    assert torch.equal(found[second], x[first])
    shifts = CircularShifts((14, 9), (7, 5), 3)
    for _ in range(50):
        a, b = shifts.draw(2, generator)
        moved = shifts.against(a, b, x)
        one = moved[:7].flatten()
        step = int(one.argmin())
        assert torch.equal(one, x[:7].flatten().roll(step))
        assert 3 <= step <= 14 - 3
        assert torch.equal(moved[7:].flatten()[:9], x[7:].flatten()[:9].roll(round(float(a - b) * 9)))
        assert float(moved[-1, 1]) == 0  # padding


def test_correlation_time_of_an_autoregressive_process() -> None:
    random = np.random.default_rng(0)
    for rho in (0.5, 0.9):
        latent = regions_world.autoregressive(random, 1, 40_000, 1, rho)[0]
        values = torch.from_numpy(latent @ np.ones((1, 4)) + 0.01 * random.normal(size=(40_000, 4)))
        usable = torch.from_numpy(random.uniform(size=40_000) > 0.1)
        values[~usable] = torch.nan
        assert correlation_time(values, usable) == pytest.approx((1 + rho) / (1 - rho), rel=0.2)
    assert math.isinf(correlation_time(torch.zeros(5, 2, dtype=torch.float64), torch.zeros(5, dtype=torch.bool)))
    assert correlation_time(torch.zeros(5, 2, dtype=torch.float64), torch.ones(5, dtype=torch.bool)) == 1.0
