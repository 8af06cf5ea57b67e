"""Likelihoods against SciPy's densities and their own samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from lvmzoo.batch import Observation
from lvmzoo.errors import UserError
from lvmzoo.parts.likelihoods import (
    Gaussian,
    Likelihood,
    Poisson,
    UnitMoments,
    ZeroInflatedGamma,
    choose_likelihood,
)

ALL = [Poisson(), Gaussian(), ZeroInflatedGamma()]


def named(likelihood: Likelihood) -> str:
    return likelihood.name


def draws(likelihood: Likelihood) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(likelihood.n_parameters, 5, 7, generator=generator, dtype=torch.float64)
    return parameters, likelihood.sample(parameters, generator)


def test_poisson_is_scipys() -> None:
    parameters, counts = draws(Poisson())
    expected = scipy.stats.poisson(np.exp(parameters[0].numpy())).logpmf(counts.numpy())
    np.testing.assert_allclose(Poisson().log_prob(parameters, counts), expected, rtol=1e-12)


def test_gaussian_is_scipys() -> None:
    parameters, values = draws(Gaussian())
    mean, log_variance = parameters.numpy()
    expected = scipy.stats.norm(mean, np.exp(log_variance / 2)).logpdf(values.numpy())
    np.testing.assert_allclose(Gaussian().log_prob(parameters, values), expected, rtol=1e-12)


def test_zero_inflated_gamma_is_scipys() -> None:
    parameters, values = draws(ZeroInflatedGamma())
    size, odds, shape = parameters.exp().numpy()
    event = values.numpy() > 0
    assert 0.2 < event.mean() < 0.8
    density = scipy.stats.gamma(shape, scale=size / shape).logpdf(np.where(event, values.numpy(), 1.0))
    probability = odds / (1 + odds)
    expected = np.where(event, np.log(probability) + density, np.log1p(-probability))
    np.testing.assert_allclose(ZeroInflatedGamma().log_prob(parameters, values), expected, rtol=1e-10)


@pytest.mark.parametrize("likelihood", ALL, ids=named)
def test_mean_is_that_of_samples(likelihood: Likelihood) -> None:
    parameters = torch.tensor([0.3, -0.4, 0.5], dtype=torch.float64)[: likelihood.n_parameters]
    n = 200_000
    values = likelihood.sample(parameters[:, None].repeat(1, n), torch.Generator().manual_seed(1))
    error = values.std() / n**0.5
    assert abs(float(values.mean() - likelihood.mean(parameters))) < 4 * error


@pytest.mark.parametrize("likelihood", ALL, ids=named)
def test_the_loss_has_the_gradient_of_the_log_density(likelihood: Likelihood) -> None:
    parameters, values = draws(likelihood)
    parameters.requires_grad_()
    (one,) = torch.autograd.grad(likelihood.loss(parameters, values).sum(), parameters)
    (other,) = torch.autograd.grad(-likelihood.log_prob(parameters, values).sum(), parameters)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("likelihood", ALL, ids=named)
@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_extreme_parameters_stay_finite(likelihood: Likelihood, value: float) -> None:
    parameters = torch.full((likelihood.n_parameters, 3), value, requires_grad=True)
    loss = likelihood.loss(parameters, torch.tensor([0.0, 1.0, 3.0])).sum()
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert parameters.grad is not None
    assert bool(torch.isfinite(parameters.grad).all())


@pytest.mark.parametrize("likelihood", ALL, ids=named)
def test_starting_values_have_the_mean_of_the_data(likelihood: Likelihood) -> None:
    generator = torch.Generator().manual_seed(2)
    parameters = torch.tensor([0.3, -0.4, 0.5])[: likelihood.n_parameters]
    values = likelihood.sample(parameters[:, None, None].repeat(1, 4000, 3), generator)
    seen = torch.rand(values.shape, generator=generator) < 0.7
    values[~seen] = torch.nan
    moments = UnitMoments.of(values, seen)
    shift, scale = likelihood.scaling(moments)
    found = likelihood.mean(likelihood.start(moments)) * scale + shift
    expected = values.double().nanmean(0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("likelihood", ALL, ids=named)
def test_silent_and_unseen_units_start_finite(likelihood: Likelihood) -> None:
    moments = UnitMoments.of(torch.zeros(10, 2), torch.tensor([True, False]).expand(10, 2))
    for values in (*likelihood.scaling(moments), likelihood.start(moments)):
        assert bool(torch.isfinite(values).all())
    assert bool((likelihood.scaling(moments)[1] > 0).all())


def test_the_observation_decides_unless_a_name_does() -> None:
    assert isinstance(choose_likelihood(None, Observation.COUNTS), Poisson)
    assert isinstance(choose_likelihood(None, Observation.CONTINUOUS), Gaussian)
    assert isinstance(choose_likelihood("zero_inflated_gamma", Observation.CONTINUOUS), ZeroInflatedGamma)
    with pytest.raises(UserError, match="Did you mean 'gaussian'"):
        choose_likelihood("gausian", Observation.COUNTS)
