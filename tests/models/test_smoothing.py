"""Smoothing is SciPy's filter within trials, and its width is the one that predicts best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from lvmzoo import from_arrays
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.errors import UserError
from lvmzoo.inference.kernel_smoothing import smooth
from lvmzoo.inference.pieces import Piece
from lvmzoo.inference.width import RIDGES, choose_width
from lvmzoo.models.single_region.smoothing import Smoothing, SmoothingConfig
from lvmzoo.train import train
from tests.models.test_pca import planted


def fitted(activity, held_out=0.0, **settings):
    made = train(
        Experiment(
            SmoothingConfig(**settings),
            DataConfig(
                bin_width_s=0.02, split=SplitConfig(validation=0.0, test=0.2, gap_s=0.0, held_out_units=held_out)
            ),
            TrainerConfig(progress=False),
        ),
        [from_arrays(activity, bin_width_s=0.02)],
        write=False,
    )
    assert isinstance(made.model, Smoothing)
    return made


def by_scipy(values, seen, width, leave_out=False):
    lag = np.arange(-int(np.ceil(3 * width)), int(np.ceil(3 * width)) + 1)
    kernel = np.exp(-0.5 * (lag / width) ** 2)
    kernel[lag == 0] *= not leave_out
    total = correlate1d(np.where(seen, values, 0.0), kernel, axis=1, mode="constant")
    return total / correlate1d(seen.astype(float), kernel, axis=1, mode="constant")


@pytest.mark.parametrize("bins", [70, 700])  # by a matrix, and by Fourier transforms
@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("scattered", [False, True])
def test_it_is_the_filter_of_scipy_over_what_was_seen(bins, leave_out, scattered):
    random = np.random.default_rng(0)
    values = random.normal(size=(3, bins, 4)) + 5
    seen = random.random((3, bins, 4)) > 0.1 if scattered else np.ones((3, bins, 4), dtype=bool)
    seen[1, bins - 20 :] = False
    garbage = torch.from_numpy(np.where(seen, values, np.nan))
    found, there = smooth(garbage, torch.from_numpy(seen), 2.5, leave_out)
    assert bool(there[:, : bins - 20].all())
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = by_scipy(values, seen, 2.5, leave_out)
    np.testing.assert_allclose(found[there], expected[there.numpy()], atol=1e-10)


@pytest.mark.parametrize("bins", [7, 600])
def test_a_width_beyond_the_trial_gives_its_mean(bins):
    values, seen = torch.randn(2, bins, 3, dtype=torch.float64), torch.ones(2, bins, 3, dtype=torch.bool)
    found, there = smooth(values, seen, 1e12)
    assert bool(there.all())
    torch.testing.assert_close(found, values.mean(1, keepdim=True).expand_as(values))


def test_width_zero_leaves_everything_as_it_is():
    values, seen = torch.randn(2, 5, 3, dtype=torch.float64), torch.ones(2, 5, 3, dtype=torch.bool)
    assert torch.equal(smooth(values, seen, 0.0)[0], values)


def test_the_quality_of_a_width_is_that_of_a_ridge_for_each_unit():
    """All units at once from one inverse, against a fit without the unit itself, for each unit and fold."""
    activity, _ = planted(trials=8, bins=40, units=6)
    pieces = [Piece(torch.from_numpy(trial.astype(float)), torch.ones(40, 6, dtype=torch.bool)) for trial in activity]
    fold = torch.arange(8) % 2
    _, quality = choose_width(pieces, fold, [1.5])
    truth = activity - activity.mean((0, 1))
    values = by_scipy(truth, np.ones_like(truth, dtype=bool), 1.5)
    errors = np.zeros(len(RIDGES))
    for held in (0, 1):
        train_values, train_truth = (a[fold.numpy() != held].reshape(-1, 6) for a in (values, truth))
        test_values, test_truth = (a[fold.numpy() == held].reshape(-1, 6) for a in (values, truth))
        scale = np.square(train_values).sum(0).mean()
        for unit in range(6):
            x, z = np.delete(train_values, unit, 1), np.delete(test_values, unit, 1)
            for i, ridge in enumerate(RIDGES):
                weights = np.linalg.solve(x.T @ x + ridge * scale * np.eye(5), x.T @ train_truth[:, unit])
                errors[i] += np.square(test_truth[:, unit] - z @ weights).sum()
    assert float(quality[0]) == pytest.approx(1 - errors.min() / np.square(truth).sum(), abs=1e-10)


def test_the_width_follows_the_timescale_also_of_one_unit():
    activity, _ = planted(trials=100)
    assert 0.03 <= fitted(activity).model.width_s <= 0.15
    assert 0.03 <= fitted(activity[..., :1] * 3).model.width_s <= 0.34


def test_hidden_units_have_their_training_mean_and_latents_are_the_units_held_in():
    activity, _ = planted()
    made = fitted(activity, held_out=[1, 4], width_s=0.06)
    batch = made.sessions[0].test.batch()
    rates = made.model.rates(batch.hide([1, 4]))
    mean = made.sessions[0].train.batch().activity.double().mean((0, 1))
    np.testing.assert_allclose(rates[..., [1, 4]], mean[[1, 4]].expand(*rates.shape[:2], 2), rtol=1e-12)
    kept = [unit for unit in range(20) if unit not in (1, 4)]
    assert torch.equal(made.model.latents(batch), made.model.rates(batch)[..., kept])
    values = batch.activity.double().numpy()
    expected = by_scipy(values, np.ones_like(values, dtype=bool), 3.0)
    np.testing.assert_allclose(made.model.rates(batch), expected, atol=1e-10)


def test_a_negative_width_is_refused():
    with pytest.raises(UserError, match="width_s is -1"):
        fitted(planted(trials=10)[0], width_s=-1.0)
