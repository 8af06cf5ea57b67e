"""PCA equals scikit-learn's on what it smooths, expects hidden units as a dense computation does, chooses sensibly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from sklearn.decomposition import PCA as Reference

from lvmzoo import from_arrays
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.errors import UserError
from lvmzoo.metrics import evaluate
from lvmzoo.models.single_region.pca import PCA, PCAConfig
from lvmzoo.train import train


def planted(trials=60, bins=60, units=20, latents=3, seed=0, noise=1.0, counts=True):
    """Return smooth latents with a timescale of five bins, and activity driven by them."""
    random = np.random.default_rng(seed)
    x = gaussian_filter1d(random.normal(size=(trials, bins + 40, latents)), 5.0, axis=1)[:, 20:-20]
    x /= x.std()
    drive = x @ random.normal(0, 0.4, (latents, units))
    activity = random.poisson(np.exp(drive)) if counts else drive + noise * random.normal(size=drive.shape)
    return activity, x


def fitted(activity, missing=None, **settings):
    if missing is not None:
        activity = np.where(missing, np.nan, activity)
    made = train(
        Experiment(
            PCAConfig(**{"latents": 3, **settings}),
            DataConfig(bin_width_s=0.02, split=SplitConfig(validation=0.0, test=0.2, gap_s=0.0)),
            TrainerConfig(progress=False),
        ),
        [from_arrays(activity, bin_width_s=0.02)],
        write=False,
    )
    assert isinstance(made.model, PCA)
    return made


@pytest.mark.parametrize(("width", "root"), [(0.0, False), (0.06, True)])
def test_components_are_those_of_scikit_learn(width, root):
    activity, _ = planted()
    made = fitted(activity, smoothing_s=width, square_root=root)
    part = made.sessions[0].train
    values = part.batch().activity.double().numpy()
    values = np.sqrt(values) if root else values
    if width:
        lag = np.arange(-9, 10)
        kernel = np.exp(-0.5 * (lag / 3) ** 2)
        there = np.apply_along_axis(np.convolve, 1, np.ones_like(values), kernel, "same")
        values = np.apply_along_axis(np.convolve, 1, values, kernel, "same") / there
    reference = Reference(3).fit(values.reshape(-1, values.shape[-1]))
    found = made.model.latents(part.batch()).numpy().reshape(-1, 3)
    expected = reference.transform(values.reshape(-1, values.shape[-1]))
    sign = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * sign, expected, atol=1e-9)


def test_hidden_units_are_expected_as_by_dense_conditioning():
    activity, _ = planted(counts=False)
    made = fitted(activity, smoothing_s=0.0)
    model, batch = made.model, made.sessions[0].test.batch()
    hidden, shown = [2, 5, 11], [i for i in range(20) if i not in (2, 5, 11)]
    vectors, rest = model.vectors.numpy(), float(model.rest)
    covariance = vectors @ np.diag(model.variances.numpy() - rest) @ vectors.T + rest * np.eye(20)
    y = batch.activity.double().numpy().reshape(-1, 20) - model.mean.numpy()
    y[:, hidden] = y[:, shown] @ np.linalg.solve(covariance[np.ix_(shown, shown)], covariance[np.ix_(shown, hidden)])
    found = model.latents(batch.hide(hidden)).numpy().reshape(-1, 3)
    np.testing.assert_allclose(found, y @ vectors, atol=1e-9)


def test_missing_samples_leave_the_subspace():
    activity, _ = planted(trials=150, counts=False)
    missing = np.random.default_rng(1).random(activity.shape) < 0.3
    whole, part = fitted(activity, smoothing_s=0.0), fitted(activity, missing, smoothing_s=0.0)
    cosines = torch.linalg.svdvals(whole.model.vectors.T @ part.model.vectors)
    assert float(cosines.min()) > 0.98


def test_the_width_follows_the_timescale():
    random = np.random.default_rng(5)
    slow, _ = planted(trials=100)
    fast = random.poisson(np.exp(random.normal(size=(100, 60, 2)) @ random.normal(0, 0.6, (2, 20))))
    assert 0.03 <= fitted(slow).model.smoothing_s <= 0.15
    assert fitted(fast).model.smoothing_s <= 0.01


def test_the_number_of_components_is_that_planted():
    activity, _ = planted(trials=100, units=30, counts=False)
    made = fitted(activity, latents=None)
    assert int(made.model.chosen) == 3
    rows = {row.metric: row for row in evaluate(made.model, made.sessions)}
    assert rows["dimensionality"].value == pytest.approx(3, abs=0.5)
    assert 0 < rows["shared_variance"].value < 1


def test_rates_of_counts_are_positive_with_the_right_mean():
    activity, _ = planted()
    made = fitted(activity)
    batch = made.sessions[0].train.batch()
    rates = made.model.rates(batch)
    assert float(rates.min()) >= 0
    np.testing.assert_allclose(rates.mean((0, 1)), batch.activity.double().mean((0, 1)), rtol=0.03)


@pytest.mark.parametrize("settings", [{"latents": 0}, {"folds": 1}, {"smoothing_s": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError):
        fitted(planted(trials=10)[0], **settings)
