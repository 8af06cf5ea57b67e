"""Factor analysis reaches scikit-learn's likelihood, is exact for hidden units, and tells planted dimensions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import FactorAnalysis as Reference

from lvmzoo import Estimator, from_arrays
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.errors import UserError
from lvmzoo.inference.factor_analysis import Factors, maximum_likelihood, posterior
from lvmzoo.metrics import evaluate
from lvmzoo.models.single_region.factor_analysis import FactorAnalysis, FactorAnalysisConfig
from lvmzoo.train import train


def planted(bins=3000, units=15, latents=4, seed=0):
    random = np.random.default_rng(seed)
    loadings = random.normal(size=(units, latents)) * np.linspace(1.5, 0.7, latents)
    noise = random.uniform(0.5, 2.0, units)
    x = random.normal(size=(bins, latents))
    return x @ loadings.T + random.normal(size=(bins, units)) * np.sqrt(noise) + 3.0, loadings, noise


def fitted(activity, missing=None, **settings):
    trials = activity.reshape(-1, 50, activity.shape[-1]).astype(np.float32)
    if missing is not None:
        trials = np.where(missing.reshape(trials.shape), np.nan, trials)
    made = train(
        Experiment(
            FactorAnalysisConfig(**{"latents": 4, **settings}),
            DataConfig(bin_width_s=0.05, split=SplitConfig(validation=0.0, test=0.2, gap_s=0.0)),
            TrainerConfig(progress=False, tolerance=1e-12, max_epochs=60),
        ),
        [from_arrays(trials, bin_width_s=0.05)],
        write=False,
    )
    assert isinstance(made.model, FactorAnalysis)
    return made


@pytest.mark.parametrize("latents", [1, 3, 4])
def test_the_likelihood_is_that_of_scikit_learn(latents):
    activity, _, _ = planted()
    made = fitted(activity, latents=latents)
    batch = made.sessions[0].train.batch()
    used = batch.activity[batch.valid].double().numpy()
    reference = Reference(latents, tol=1e-9, max_iter=20000, svd_method="lapack").fit(used)
    ours = float(made.model.log_likelihood(batch).sum()) / len(used)
    assert ours == pytest.approx(reference.score(used), rel=1e-6)
    assert ours >= reference.score(used) - 1e-9


def test_posterior_is_dense_conditioning_for_any_pattern():
    random = np.random.default_rng(1)
    _, loadings, noise = planted(units=6, latents=2)
    seen = torch.from_numpy(random.random((9, 6)) > 0.4)
    seen[0] = True
    seen[1] = False
    y = random.normal(size=(9, 6))
    factors = Factors(*map(torch.from_numpy, (np.full(6, 0.3), loadings, noise)))
    mean, covariance, nats = posterior(factors, torch.from_numpy(np.where(seen, y, 0.0)), seen)
    for row, shown in enumerate(seen.numpy()):
        seen_loadings = loadings[shown]
        dense = seen_loadings @ seen_loadings.T + np.diag(noise[shown])
        gain = np.linalg.solve(dense, seen_loadings).T if shown.any() else np.zeros((2, 0))
        np.testing.assert_allclose(mean[row], gain @ (y[row, shown] - 0.3), atol=1e-12)
        np.testing.assert_allclose(covariance[row], np.eye(2) - gain @ seen_loadings, atol=1e-12)
        expected = multivariate_normal(np.full(shown.sum(), 0.3), dense).logpdf(y[row, shown]) if shown.any() else 0.0
        assert float(nats[row]) == pytest.approx(expected, abs=1e-11)


def test_the_gradient_vanishes_at_the_maximum():
    """Of the likelihood over loadings and noise, by finite differences: a wrong profile would stop elsewhere."""
    activity, _, _ = planted(bins=400, units=7, latents=2)
    covariance = np.cov(activity.T, bias=True)
    floor = torch.full((7,), 1e-6, dtype=torch.float64)
    loadings, noise = (v.numpy() for v in maximum_likelihood(torch.from_numpy(covariance), 2, floor))

    def nats(loadings, noise):
        model = loadings @ loadings.T + np.diag(noise)
        return -0.5 * (np.linalg.slogdet(model)[1] + np.trace(np.linalg.solve(model, covariance)))

    for index in np.ndindex(7, 2):
        step = np.zeros((7, 2))
        step[index] = 1e-5
        assert abs(nats(loadings + step, noise) - nats(loadings - step, noise)) / 2e-5 < 1e-6
    for unit in range(7):
        step = np.eye(7)[unit] * 1e-5
        assert abs(nats(loadings, noise + step) - nats(loadings, noise - step)) / 2e-5 < 1e-6


def test_missing_samples_cost_little_and_the_likelihood_rises():
    activity, loadings, noise = planted(bins=4000)
    missing = np.random.default_rng(2).random(activity.shape) < 0.3
    made = fitted(activity, missing)
    objective = made.history["train/log_likelihood_per_bin"].to_numpy()
    assert (np.diff(objective) >= -1e-9 * abs(objective[0])).all()
    assert len(objective) > 3
    model = made.model.loadings @ made.model.loadings.T + torch.diag(made.model.noise)
    truth = loadings @ loadings.T + np.diag(noise)
    assert np.abs(model.numpy() - truth).max() < 0.12 * np.abs(truth).max()


def test_the_number_of_latents_and_the_shared_variance_are_those_planted():
    activity, loadings, noise = planted(bins=5000)
    made = fitted(activity, latents=None)
    assert int(made.model.chosen) == 4
    assert made.model.latents(made.sessions[0].test.batch()).shape[-1] == 4
    rows = {row.metric: row for row in evaluate(made.model, made.sessions)}
    shared = np.square(loadings).sum(1)
    assert rows["shared_variance"].value == pytest.approx((shared / (shared + noise)).mean(), abs=0.02)
    powers = np.sort(np.linalg.eigvalsh(loadings.T @ loadings))[::-1]
    expected = int(np.argmax(np.cumsum(powers) >= 0.95 * powers.sum())) + 1
    assert rows["dimensionality"].value == pytest.approx(expected, abs=0.5)


def test_noise_alone_shares_nothing():
    activity = np.random.default_rng(3).normal(size=(3000, 12))
    share = fitted(activity, latents=None).model.shared_variance
    assert float(share.share.mean()) < 0.05
    assert float(share.predicted.mean()) < 0.01


def test_roots_of_counts_give_positive_rates_with_the_right_mean():
    counts = np.random.default_rng(4).poisson(np.exp(planted(units=8, latents=2)[0] * 0.15), (3000, 8))
    trials = counts.reshape(-1, 50, 8)
    estimator = Estimator("factor_analysis", latents=2, square_root=True, trainer={"progress": False}).fit(trials)
    model = estimator.run_.model
    batch = estimator.run_.sessions[0].train.batch()
    rates = model.rates(batch)
    assert float(rates.min()) > 0
    np.testing.assert_allclose(rates.mean((0, 1)), batch.activity.double().mean((0, 1)), rtol=0.02)
    drawn = model.sample(batch.layout.session, 20, 200, seed=0)[1]
    np.testing.assert_allclose(drawn.mean((0, 1)), batch.activity.double().mean((0, 1)), rtol=0.1)


@pytest.mark.parametrize("settings", [{"latents": 0}, {"folds": 1}])
def test_impossible_settings_are_refused(settings):
    activity, _, _ = planted(bins=500)
    with pytest.raises(UserError):
        fitted(activity, **settings)


def test_several_sessions_are_refused():
    layout = fitted(planted(bins=500)[0]).sessions[0].layout
    with pytest.raises(UserError, match="one session at a time"):
        FactorAnalysis(FactorAnalysisConfig(), [layout, dataclasses.replace(layout, session="other")])
