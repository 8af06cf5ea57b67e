"""Gaussian priors of network latents, with their divergence from a posterior.

The prior of a time series is the first-order autoregressive process of Sussillo et al. (2016),
doi:10.48550/arXiv.1608.06315.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["AutoregressivePrior", "NormalPrior", "normal_divergence"]


def normal_divergence(
    mean: Float[Tensor, "*shape"],
    log_variance: Float[Tensor, "*shape"],
    prior_mean: Float[Tensor, "*#shape"],
    prior_log_variance: Float[Tensor, "*#shape"],
) -> Float[Tensor, "*shape"]:
    """Return the Kullback-Leibler divergence of one normal distribution from another, in nats."""
    ratio = log_variance - prior_log_variance
    return 0.5 * (ratio.exp() + (mean - prior_mean).square() * torch.exp(-prior_log_variance) - 1 - ratio)


class NormalPrior(nn.Module):
    """Independent normal distributions whose mean and variance are learned, from 0 and 1."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimensions))
        self.log_variance = nn.Parameter(torch.zeros(dimensions))

    def divergence(
        self, mean: Float[Tensor, "trial dimension"], log_variance: Float[Tensor, "trial dimension"]
    ) -> Float[Tensor, " trial"]:
        """Return the divergence of each trial's posterior, in nats."""
        return normal_divergence(mean, log_variance, self.mean[None], self.log_variance[None]).sum(-1)

    def sample(self, trials: int, generator: torch.Generator) -> Float[Tensor, "trial dimension"]:
        """Draw on the CPU."""
        noise = torch.randn(trials, len(self.mean), generator=generator)
        return self.mean.cpu() + noise.to(self.mean.dtype) * torch.exp(0.5 * self.log_variance).cpu()


class AutoregressivePrior(nn.Module):
    """Stationary processes u_t = a u_{t-1} + noise with a = exp(-1 / timescale); timescale and variance are learned."""

    def __init__(self, dimensions: int, timescale_bins: float = 10.0, variance: float = 0.1) -> None:
        super().__init__()
        self.log_timescale_bins = nn.Parameter(torch.full((dimensions,), math.log(timescale_bins)))
        self.log_variance = nn.Parameter(torch.full((dimensions,), math.log(variance)))

    def _step(self) -> tuple[Tensor, Tensor]:
        """Return a, and the log variance of the noise: v (1 - a^2)."""
        rate = torch.exp(-self.log_timescale_bins)
        return torch.exp(-rate), self.log_variance + torch.log(-torch.expm1(-2 * rate))

    def divergence(
        self,
        mean: Float[Tensor, "bin trial dimension"],
        log_variance: Float[Tensor, "bin trial dimension"],
        drawn: Float[Tensor, "bin trial dimension"],
    ) -> Float[Tensor, "bin trial"]:
        """Return an unbiased estimate of what each bin adds to the divergence of the posterior, in nats.

        The posterior of a bin is normal given the bins before it, of which ``drawn`` is a sample. Given these, the
        divergence of a bin is known exactly: only the past is sampled, so that it varies less than log q - log p.
        """
        persistence, noise = self._step()
        before = torch.cat([torch.zeros_like(drawn[:1]), drawn[:-1]])
        spread = torch.cat([self.log_variance[None], noise.expand(max(len(drawn) - 1, 0), -1)])[: len(drawn)]
        return normal_divergence(mean, log_variance, persistence * before, spread.unsqueeze(1)).sum(-1)

    def sample(self, bins: int, trials: int, generator: torch.Generator) -> Float[Tensor, "bin trial dimension"]:
        """Draw on the CPU."""
        persistence, log_noise = (value.cpu() for value in self._step())
        drawn = torch.randn(bins, trials, len(persistence), generator=generator).to(persistence.dtype)
        if bins:
            drawn[0] *= torch.exp(0.5 * self.log_variance).cpu()
        drawn[1:] *= torch.exp(0.5 * log_noise)
        for t in range(1, bins):
            drawn[t] += persistence * drawn[t - 1]
        return drawn
