"""Lagged and several sources, residuals, factor regression and sessions, each against explicit fits and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles as scipy_angles
from sklearn.decomposition import FactorAnalysis
from sklearn.linear_model import LinearRegression

from lvmzoo.claims.regression_recording import RegionRecording
from lvmzoo.claims.regression_sources import contributions
from lvmzoo.errors import UserError
from lvmzoo.inference.communication_subspace import subspace_angles
from lvmzoo.inference.factor_regression import number_of_factors
from lvmzoo.inference.reduced_rank import around_training, centered, fold_moments, held_in
from tests.models.regression_world import batch_of, fit, windows, without_units

LENGTHS = [9, 14, 11, 14, 7, 12] * 8


def world(seed: int, units: tuple[int, ...] = (4, 3, 5), trials: int = 48, bins: int = 14) -> dict[str, np.ndarray]:
    """Return regions of which the last follows the others, two bins later and at once."""
    random = np.random.default_rng(seed)
    *sources, target = (random.normal(size=(trials, bins, n)) for n in units)
    for source in sources:
        source += 0.5 * sources[0][..., :1]
        target += source @ random.normal(size=(source.shape[2], 2)) @ random.normal(size=(2, units[-1])) * 0.4
        target[:, 2:] += source[:, :-2] @ random.normal(size=(source.shape[2], units[-1])) * 0.3
    return dict(zip("ABCDE"[: len(units)], [*sources, target], strict=True))


def brute(x: np.ndarray, y: np.ndarray, fold: np.ndarray, rank: int) -> np.ndarray:
    """1 - NSE of each fold of reduced-rank regression, from explicit fits and predictions."""
    found = []
    for k in np.unique(fold):
        train, test = fold != k, fold == k
        mx, my = x[train].mean(0), y[train].mean(0)
        full = np.linalg.lstsq(x[train] - mx, y[train] - my, rcond=None)[0]
        directions = np.linalg.svd((x[train] - mx) @ full, full_matrices=False)[2][:rank].T
        predicted = (x[test] - mx) @ full @ directions @ directions.T
        found.append(1 - ((y[test] - my - predicted) ** 2).sum() / ((y[test] - my) ** 2).sum())
    return np.array(found)


@pytest.mark.parametrize("lags", [[0], [1, 3], [2, 0]])
def test_windows_of_several_regions_equal_brute_force(lags: list[int]) -> None:
    regions = world(0)
    model = fit(batch_of(regions, LENGTHS), source=["A", "B"], target="C", lags=lags, folds=6)
    both = np.concatenate([regions["A"], regions["B"]], 2)
    x, trial, bins = windows(both, lags, LENGTHS)
    y = regions["C"][trial, bins]
    for rank in (1, 2, 5):
        expected = brute(x, y, trial * 6 // 48, rank)
        np.testing.assert_allclose(model.of().explained[:, 0, rank].numpy(), expected, atol=1e-12)


def test_before_a_trial_the_window_is_expected_from_what_was_seen() -> None:
    regions = world(1)
    batch = batch_of(regions, LENGTHS)
    model = fit(batch, source="A", target="C", lags=[0, 2], rank=2)
    x, trial, bins = windows(regions["A"], [0, 2], LENGTHS)
    covariance, mean = np.cov(x.T, bias=True), x.mean(0)
    first = regions["A"][:, 0] - mean[:4]
    guess = first @ np.linalg.solve(covariance[:4, :4], covariance[:4, 4:])
    expected = np.concatenate([first, guess], 1) @ model.of().subspace.numpy()
    found = model.latents(batch)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=1e-10)
    whole = (x - mean) @ model.of().subspace.numpy()
    np.testing.assert_allclose(found.numpy()[trial, bins], whole, atol=1e-10)


def test_a_missing_sample_takes_the_windows_that_hold_it() -> None:
    regions = world(2)
    hidden = np.zeros((48, 14, 12), dtype=bool)
    hidden[5, 4, 1] = hidden[7, 6, 9] = True  # of A and of C
    model = fit(without_units(batch_of(regions, LENGTHS), hidden), source="A", target="C", lags=[1], rank=4)
    x, trial, bins = windows(regions["A"], [0, 1], LENGTHS)
    keep = ~((trial == 5) & np.isin(bins, (4, 5))) & ~((trial == 7) & (bins == 6))
    x, y = x[keep, 4:], regions["C"][trial, bins][keep]
    expected = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0][:-1]
    found = model.of()
    np.testing.assert_allclose((found.encode[:, :4] @ found.readout[:4]).numpy(), expected, atol=1e-10)


def test_condition_means_are_those_of_the_training_folds() -> None:
    regions = world(3)
    random = np.random.default_rng(0)
    condition = random.integers(0, 2, 48)
    regions = {name: v + 3 * random.normal(size=(2, 14, v.shape[2]))[condition] for name, v in regions.items()}
    model = fit(batch_of(regions, condition=condition), source="A", target="C", residuals=True, folds=4)
    fold = np.arange(48) * 4 // 48
    expected = []
    for k in range(4):
        residual = {}
        for name in "AC":
            values = regions[name].copy()
            for c in range(2):
                values[condition == c] -= regions[name][(condition == c) & (fold != k)].mean(0)
            residual[name] = values
        train = [residual[name][fold != k].reshape(-1, residual[name].shape[2]) for name in "AC"]
        test = [residual[name][fold == k].reshape(-1, residual[name].shape[2]) for name in "AC"]
        weights = np.linalg.lstsq(*train, rcond=None)[0]
        expected.append(1 - ((test[1] - test[0] @ weights) ** 2).sum() / (test[1] ** 2).sum())
    np.testing.assert_allclose(model.of().explained[:, 0, 4].numpy(), expected, atol=1e-12)
    # What is predicted is the activity itself, with its condition's course.
    full = fit(batch_of(regions, condition=condition), source="A", target="C", residuals=True, rank=4)
    left = regions["C"] - full.predict_target(batch_of(regions, condition=condition), "C").numpy()
    assert left.var() < 0.6 * regions["C"].var()
    for c in range(2):
        np.testing.assert_allclose(left[condition == c].mean(0), 0, atol=1e-10)


def test_what_each_source_adds_equals_brute_force() -> None:
    regions = world(4)
    batch = batch_of(regions, LENGTHS)
    model = fit(batch, target="C", lags=[0, 1], folds=5, history=0, permutations=39, resamples=10)
    assert model.sources == ("A", "B")
    session = model.of()
    recording = RegionRecording(batch, batch.activity, session.folds(batch), 5, None, 1)
    made = recording.windows([("A", (0, 1)), ("B", (0, 1)), ("C", (0,))])
    assert made is not None
    best = {}
    for sources in ("AB", "A", "B"):
        x, trial, bins = windows(np.concatenate([regions[name] for name in sources], 2), [0, 1], LENGTHS)
        y, fold = regions["C"][trial, bins], trial * 5 // 48
        best[sources] = max(brute(x, y, fold, rank).mean() for rank in range(1, 1 + min(x.shape[1], 5)))
    found = contributions(made.rows.scatter(), made, session.route)
    for source, without in (("A", "B"), ("B", "A")):
        assert found[source] == pytest.approx(best["AB"] - best[without], abs=1e-12)
    claims = [claim for claim in model.findings(batch, 0).claims if claim.item]
    assert [claim.item for claim in claims] == ["beyond B", "beyond A"]
    assert all(claim.evidence for claim in claims)


def test_factor_regression_equals_that_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    latents = random.normal(size=(60, 10, 3))
    regions = {
        "A": latents @ random.normal(size=(3, 12)) + random.normal(size=(60, 10, 12)) * random.uniform(0.5, 1, 12),
        "C": latents[..., :2] @ random.normal(size=(2, 5)) + random.normal(size=(60, 10, 5)),
    }
    model = fit(batch_of(regions), method="factor", folds=5)
    x, y = (regions[name].reshape(600, -1) for name in "AC")
    fold = np.repeat(np.arange(60) * 5 // 60, 10)
    moments = fold_moments(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(fold), 5)
    training = held_in(moments)
    chosen = number_of_factors(
        centered(training).xx,
        training.bins.sum(1),
        around_training(training, moments).xx,
        moments.bins.sum(1),
    )
    scores = [np.mean([sk_score(x, fold, k, number) for k in range(5)]) for number in range(1, 7)]
    assert chosen == 3 == 1 + int(np.argmax(scores))
    for k in range(5):
        train, test = fold != k, fold == k
        factors = FactorAnalysis(3, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x[train])
        regression = LinearRegression().fit(factors.transform(x[train]), y[train])
        error = ((y[test] - regression.predict(factors.transform(x[test]))) ** 2).sum()
        expected = 1 - error / ((y[test] - y[train].mean(0)) ** 2).sum()
        assert float(model.of().explained[k, 0, 3]) == pytest.approx(expected, abs=1e-6)
    assert int(model.of().rank) in (2, 3)
    factors = FactorAnalysis(3, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x)
    expected = LinearRegression().fit(factors.transform(x), y).predict(factors.transform(x))
    found = fit(batch_of(regions), method="factor", folds=5, rank=3).predict_target(batch_of(regions), "C")
    np.testing.assert_allclose(found.numpy().reshape(600, -1), expected, atol=1e-4)


def sk_score(x: np.ndarray, fold: np.ndarray, k: int, number: int) -> float:
    factors = FactorAnalysis(number, tol=1e-3, max_iter=5000, svd_method="lapack").fit(x[fold != k])
    return float(factors.score(x[fold == k]))


def test_sessions_are_fitted_each_by_itself() -> None:
    one, two = batch_of(world(6), LENGTHS, session="one"), batch_of(world(7, (6, 3, 4)), session="two.nwb")
    both = fit(one, two, target="C", lags=[0, 1])
    for batch in (one, two):
        alone = fit(batch, target="C", lags=[0, 1])
        torch.testing.assert_close(both.predict_target(batch, "C"), alone.predict_target(batch, "C"))
        assert both.of(batch.layout.session).rank == alone.of().rank
    with pytest.raises(UserError, match="no session named 'three'"):
        both.of("three")


def test_angles_between_subspaces_equal_those_of_scipy() -> None:
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn(9, n, generator=random, dtype=torch.float64) for n in (2, 4))
    near = one + 1e-9 * torch.randn(9, 2, generator=random, dtype=torch.float64)
    for a, b in ((one, other), (other, one), (one, near), (one, one @ torch.randn(2, 2, dtype=torch.float64))):
        expected = np.rad2deg(scipy_angles(a.numpy(), b.numpy()))[::-1]
        np.testing.assert_allclose(subspace_angles(a, b).numpy(), expected, atol=1e-12, rtol=1e-6)
    doubled = torch.cat([one, one], 1)
    assert len(subspace_angles(doubled, other)) == 2
    assert len(subspace_angles(torch.zeros(9, 2, dtype=torch.float64), other)) == 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"source": ["A", "A"], "target": "C"}, "each once"),
        ({"source": [], "target": "C"}, "each once|no other"),
        ({"source": ["A", "C"], "target": "C"}, "both 'C'"),
        ({"source": "A", "target": "C", "control": "A"}, "Control and source or target are 'A'"),
        ({"control": "D"}, "no region named 'D'"),
        ({"lags": [-1]}, "model.lags"),
        ({"lags": [1, 1]}, "model.lags"),
        ({"lags": []}, "model.lags"),
        ({"lags": [14]}, "reaches 14 bins into the past"),
        ({"method": "factors"}, "Did you mean 'factor'"),
        ({"method": "factor", "ridge": [1.0]}, "takes no penalty"),
        ({"permutations": -1}, "model.permutations is -1"),
    ],
)
def test_wrong_settings_are_named(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit(batch_of(world(0)), **config)
