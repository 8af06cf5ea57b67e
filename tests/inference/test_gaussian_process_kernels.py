"""Features of stationary kernels: their Gram matrices are the kernels, with any engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.inference.gaussian_process_kernels import (
    KERNELS,
    feature_count,
    fold,
    make_features,
    merge,
    spectral_features,
    spectrum,
    unfold,
)
from tests.inference.test_gaussian_process import KERNELS as TEXTBOOK

TIMESCALES = torch.tensor([0.3, 1.0, 4.0, 25.0], dtype=torch.float64)
CASES = [*((kernel, "dense", 1e-11, 1e-7) for kernel in KERNELS), ("squared_exponential", "spectral", 3e-10, 1e-7)]


@pytest.mark.parametrize("bins", [1, 2, 7, 50, 51])
@pytest.mark.parametrize(("kernel", "engine", "tolerance", "of_slope"), CASES)
def test_gram_matrices(kernel: str, engine: str, tolerance: float, of_slope: float, bins: int) -> None:
    variance = 0.9
    part = merge(make_features(kernel, TIMESCALES, bins, variance, engine), bins)
    lags = torch.arange(bins, dtype=torch.float64)
    lags = (lags[:, None] - lags).abs()
    for latent, tau in enumerate(TIMESCALES):
        columns = part.owner == latent
        own = torch.zeros(len(part.owner), dtype=torch.bool)
        for owner, features in part.slices:
            own[features] = owner == latent
        assert torch.equal(own, columns)
        V, log_tau = part.values[:, columns], tau.log().requires_grad_()
        exact = variance * TEXTBOOK[kernel](lags / log_tau.exp())
        torch.testing.assert_close(V @ V.T, exact.detach(), rtol=0.0, atol=tolerance)
        step = 1e-6
        ahead, behind = (variance * TEXTBOOK[kernel](lags / (tau * np.exp(sign * step))) for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        torch.testing.assert_close((V * part.slope[columns]) @ V.T, slope, rtol=0.0, atol=of_slope)


@pytest.mark.parametrize("bins", [1, 2, 7, 8])
def test_folding_is_orthonormal_and_undone(bins: int) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(2, bins, 3)))
    parts = fold(values)
    torch.testing.assert_close(unfold(parts), values)
    torch.testing.assert_close(sum(part.square().sum() for part in parts), values.square().sum())


def test_long_trials_need_few_features() -> None:
    """Fewer than bins; both parts have a feature count that was foretold, and no latent has another's circle."""
    timescales = torch.tensor([20.0, 200.0], dtype=torch.float64)
    parts = spectral_features(timescales, 1000, 1.0)
    found = sum(len(part.owner) for part in parts)
    assert found == feature_count(timescales.tolist(), 1000)
    assert found < 0.1 * 2 * 1000


def test_spectrum_gives_the_kernel_at_any_lag() -> None:
    """Also between bins, as delays need it."""
    lags = torch.linspace(0, 30, 61, dtype=torch.float64)
    for tau in (1.5, 12.0):
        w, variance, _ = spectrum(tau, 31, 0.7, lags)
        found = (variance * torch.cos(lags[:, None] * w)).sum(1)
        torch.testing.assert_close(found, 0.7 * torch.exp(-0.5 * (lags / tau) ** 2), rtol=0.0, atol=3e-10)
