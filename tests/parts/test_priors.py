"""Priors against torch.distributions, closed forms and dense covariances."""

from __future__ import annotations

import math

import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from lvmzoo.parts.priors import AutoregressivePrior, NormalPrior

BINS, TRIALS, INPUTS = 12, 3, 2


def posterior() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (BINS, TRIALS, INPUTS)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64) - 1,
    )


def covariance(prior: AutoregressivePrior, dimension: int) -> torch.Tensor:
    lags = (torch.arange(BINS)[:, None] - torch.arange(BINS)).abs()
    timescale = prior.log_timescale_bins[dimension].exp()
    return prior.log_variance[dimension].exp() * torch.exp(-lags / timescale)


def prior() -> AutoregressivePrior:
    made = AutoregressivePrior(INPUTS, timescale_bins=4.0, variance=0.7).double().requires_grad_(False)
    made.log_timescale_bins[1] = 1.0
    return made


def test_normal_divergence_is_torchs() -> None:
    mean, log_variance = posterior()
    made = NormalPrior(INPUTS).double().requires_grad_(False)
    made.mean[:], made.log_variance[:] = torch.tensor([0.3, -1.0]), torch.tensor([0.5, -0.5])
    expected = kl_divergence(
        Normal(mean[0], (0.5 * log_variance[0]).exp()), Normal(made.mean, (0.5 * made.log_variance).exp())
    ).sum(-1)
    torch.testing.assert_close(made.divergence(mean[0], log_variance[0]), expected)


def test_divergence_from_the_process_is_the_closed_form() -> None:
    """L2: for a factorized posterior, the mean over samples is the dense divergence, within two standard errors."""
    mean, log_variance = posterior()
    made, samples = prior(), 20_000
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(BINS, samples, INPUTS, generator=generator, dtype=torch.float64)
    for trial in range(TRIALS):
        m, v = mean[:, trial], log_variance[:, trial]
        expected = sum(
            kl_divergence(
                MultivariateNormal(m[:, d], torch.diag(v[:, d].exp())),
                MultivariateNormal(torch.zeros(BINS, dtype=torch.float64), covariance(made, d)),
            )
            for d in range(INPUTS)
        )
        many = [x[:, None].expand(-1, samples, -1) for x in (m, v)]
        drawn = many[0] + noise * torch.exp(0.5 * many[1])
        estimates = made.divergence(*many, drawn).sum(0)
        error = float(estimates.std()) / math.sqrt(samples)
        assert abs(float(estimates.mean() - expected)) < 2 * error
        plain = Normal(many[0], (0.5 * many[1]).exp()).log_prob(drawn).sum((0, 2)) - sum(
            MultivariateNormal(torch.zeros(BINS, dtype=torch.float64), covariance(made, d)).log_prob(drawn[..., d].T)
            for d in range(INPUTS)
        )
        assert float(estimates.std()) < float(plain.std())


def test_draws_of_the_process_have_its_covariance() -> None:
    made = prior()
    drawn = made.sample(BINS, 50_000, torch.Generator().manual_seed(2))
    for d in range(INPUTS):
        found = drawn[..., d] @ drawn[..., d].T / drawn.shape[1]
        torch.testing.assert_close(found, covariance(made, d), rtol=0.0, atol=0.02)
