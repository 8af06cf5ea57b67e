"""Bits per spike agrees with nlb_tools, and the Poisson readout with scikit-learn."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import PoissonRegressor

from lvmzoo.metrics.poisson import bits_per_spike
from lvmzoo.metrics.poisson_readout import _Data, _newton, fit_readout

from .frozen.make_bits_per_spike import cases

FROZEN = json.loads((Path(__file__).parent / "frozen" / "bits_per_spike.json").read_text())


def flat(rates, counts):
    rates, counts = (array.reshape(-1, array.shape[-1]) for array in (rates, counts))
    recorded = np.isfinite(counts)
    return rates, np.where(recorded, counts, 999), recorded


@pytest.mark.parametrize("name", FROZEN)
def test_bits_per_spike_is_that_of_nlb_tools(name):
    rates, counts, recorded = flat(*cases()[name])
    assert bits_per_spike(rates, counts, recorded) == pytest.approx(FROZEN[name], abs=1e-10, rel=1e-10)


@pytest.mark.parametrize("name", ["dense", "sparse", "large", "missing"])
def test_bits_per_spike_is_a_difference_of_poisson_log_likelihoods(name):
    rates, counts, recorded = flat(*cases()[name])
    mean = np.where(recorded, counts, 0).sum(0) / recorded.sum(0)
    model = scipy.stats.poisson.logpmf(counts, rates)[recorded].sum()
    null = scipy.stats.poisson.logpmf(counts, np.broadcast_to(mean, counts.shape))[recorded].sum()
    expected = (model - null) / counts[recorded].sum() / np.log(2)
    assert bits_per_spike(rates, counts, recorded) == pytest.approx(expected, abs=1e-10)


def planted(bins=1500, units=30, latents=4, seed=0, base=-1.0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(bins, latents)) @ random.normal(size=(latents, latents)) + 3.0
    white = (x - x.mean(0)) / x.std(0)
    weights = random.normal(0, 0.3, (latents, units))
    rates = np.exp(white @ weights + base + random.normal(0, 0.5, units))
    return x, rates, torch.from_numpy(random.poisson(rates).astype(np.uint8))


def test_newton_finds_the_optimum_of_scikit_learn():
    x, _, counts = planted()
    design = torch.from_numpy(np.c_[x - x.mean(0), np.ones(len(x))])
    ours = _newton(_Data(design, counts, None), 10.0).numpy()
    for unit in range(0, 30, 7):
        # scikit-learn divides the loss by the number of bins; the pseudo-observation is one more bin at x = 0.
        pooled = counts.double().mean().item()
        other = PoissonRegressor(
            alpha=10.0 / (len(x) + 0.5 / pooled), tol=1e-12, max_iter=5000, solver="newton-cholesky"
        )
        other.fit(
            np.r_[design[:, :-1].numpy(), np.zeros((1, 4))],
            np.r_[counts[:, unit].numpy(), pooled],
            sample_weight=np.r_[np.ones(len(x)), 0.5 / pooled],
        )
        np.testing.assert_allclose(ours[:-1, unit], other.coef_, atol=1e-5)
        assert ours[-1, unit] == pytest.approx(other.intercept_, abs=1e-5)


def test_readout_recovers_planted_rates():
    x, rates, counts = planted(bins=6000)
    predicted = fit_readout(x[:4000], counts[:4000]).rates(x[4000:])
    assert np.corrcoef(np.log(predicted).ravel(), np.log(rates[4000:]).ravel())[0, 1] > 0.99
    truth = bits_per_spike(rates[4000:], counts[4000:].numpy())
    assert bits_per_spike(predicted, counts[4000:].numpy()) > 0.95 * truth


def test_readout_does_not_depend_on_the_gauge():
    x, _, counts = planted()
    mixing = np.random.default_rng(1).normal(size=(4, 4)) @ np.diag([1e-3, 1, 10, 1e3])
    other = x @ mixing - 7
    np.testing.assert_allclose(fit_readout(x, counts).rates(x), fit_readout(other, counts).rates(other), rtol=1e-5)


def test_readout_of_noise_is_worth_nothing_rather_than_harmful():
    random = np.random.default_rng(0)
    counts = torch.from_numpy(random.poisson(0.05, (1300, 60)).astype(np.uint8))
    x = random.normal(size=(1300, 20))
    readout = fit_readout(x[:1000], counts[:1000])
    assert bits_per_spike(readout.rates(x[1000:]), counts[1000:].numpy()) > -0.15


def test_readout_survives_silent_and_collinear_input():
    x, _, counts = planted()
    counts[:, 0] = 0
    counts[:, 1] = 0
    counts[700, 1] = 1
    counts[3, 2] = 255
    x = np.c_[x, x[:, :1] * 2, np.full(len(x), 4.0)]
    rates = fit_readout(x, counts).rates(x)
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert rates[:, 0].max() < 0.01
    constant = fit_readout(np.full((200, 2), 3.3), counts[:200]).rates(np.full((5, 2), 3.3))
    np.testing.assert_allclose(constant[0, 5], counts[:200, 5].double().mean(), rtol=0.05)


def test_readout_ignores_what_was_not_recorded():
    x, _, counts = planted()
    recorded = torch.from_numpy(np.random.default_rng(2).random(tuple(counts.shape)) > 0.2)
    garbage = torch.where(recorded, counts, 200)
    clean = torch.where(recorded, counts, 0)
    np.testing.assert_array_equal(fit_readout(x, garbage, recorded).rates(x), fit_readout(x, clean, recorded).rates(x))


@pytest.mark.parametrize("latents", [10, 60])
def test_readout_is_fast(latents):
    x, _, counts = planted(bins=1300, units=174, latents=latents, base=-3.0)
    fit_readout(x, counts)
    start = time.process_time()
    fit_readout(x, counts)
    assert time.process_time() - start < 3.0


def test_many_latents_that_carry_their_noise_in_small_directions_are_read_out_in_their_own_scale():
    """Eighty smoothed units whose signal has five dimensions: whitening would make the noise as large as that."""
    random = np.random.default_rng(0)
    signal = random.normal(size=(900, 5))
    x = signal @ random.normal(size=(5, 80)) + 0.3 * random.normal(size=(900, 80))
    rates = np.exp(0.3 * signal @ random.normal(size=(5, 40)) - 1.5)
    counts = torch.from_numpy(random.poisson(rates).astype(np.uint8))
    readout = fit_readout(x[:600], counts[:600])
    assert not readout.whitened
    found = bits_per_spike(readout.rates(x[600:]), counts[600:].numpy())
    assert found > 0.7 * bits_per_spike(rates[600:], counts[600:].numpy())


def test_without_latents_the_readout_is_the_mean_rate():
    counts = torch.from_numpy(np.random.default_rng(0).poisson(0.5, (400, 3)))
    rates = fit_readout(np.zeros((400, 0)), counts).rates(np.zeros((2, 0)))
    np.testing.assert_allclose(rates, np.tile(counts.double().mean(0).numpy(), (2, 1)), rtol=0.01)
