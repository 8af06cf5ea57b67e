"""Latents given counts as a recording goes on, draws, and expected counts.

The filter is an assumed-density filter: of each bin, the best Gaussian posterior given the prediction of the bins
before it, which is then all that is remembered of them.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.count_emissions import Counts, Emission, emission, pairs
from lvmzoo.inference.count_expectations import parts_of
from lvmzoo.inference.count_posterior import best_sites
from lvmzoo.inference.count_smoother import Chain, smooth
from lvmzoo.inference.kalman import square_root
from lvmzoo.inference.online import Prediction
from lvmzoo.inference.sampling import draw_trials
from lvmzoo.inference.sequences import LinearGaussian

__all__ = ["count_draws", "count_filter", "count_observe", "count_trials", "expected_counts"]

MOST = 1e12  # rate at which draws are cut off: what can be drawn is finite


def count_observe(
    model: LinearGaussian,
    coming: Prediction,
    activity: Num[Tensor, "trial unit"],
    observed: Bool[Tensor, "trial unit"],
    inputs: Float[Tensor, "trial channel"] | None = None,
    *,
    poisson: bool,
) -> tuple[Prediction, Float[Tensor, "trial latent"]]:
    """Return the prediction of the bin after this one, and the mean of the latents given the bins up to it."""
    counts = torch.where(observed, activity.to(model.dynamics), 0.0)[None]
    shown = None if bool(observed.all()) else observed.to(counts)[None]
    seen = Counts(counts, shown, None if inputs is None else inputs[None])
    after, mean, _ = _assimilate(model, emission(model, poisson), coming, seen)
    return after, mean


def count_filter(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
    *,
    poisson: bool,
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
    """Return the mean and covariance of each bin given the bins up to it; zero after a trial's last valid bin."""
    latents, emit = len(model.dynamics), emission(model, poisson)
    means = model.dynamics.new_zeros((*valid.shape, latents))
    covariances = model.dynamics.new_zeros((*valid.shape, latents, latents))
    for part in parts_of(model, activity, valid, observed, inputs):
        coming = Prediction(part.chain.initial_mean, part.chain.initial_covariance)
        for t, inside in enumerate(part.inside):
            coming, mean, covariance = _assimilate(model, emit, coming, part.counts.at(t))
            means[part.rows, t] = mean * inside[:, None]
            covariances[part.rows, t] = covariance * inside[:, None, None]
    return means, covariances


def _assimilate(
    model: LinearGaussian, emit: Emission, coming: Prediction, now: Counts
) -> tuple[Prediction, Float[Tensor, "trial latent"], Float[Tensor, "trial latent latent"]]:
    """Return the prediction of the next bin, and the mean and covariance of this one."""
    covariance = coming.covariance.expand(len(coming.mean), -1, -1)
    chain = Chain(model.dynamics, model.dynamics_noise, coming.mean, covariance)
    posterior = smooth(chain, best_sites(chain, emit, now))
    mean, V = posterior.mean[0], posterior.covariance[0]
    after = mean @ model.dynamics.T
    if now.inputs is not None and model.drive is not None:
        after = after + now.inputs[0] @ model.drive.T
    return Prediction(after, model.dynamics @ V @ model.dynamics.T + model.dynamics_noise), mean, V


def expected_counts(
    model: LinearGaussian,
    mean: Float[Tensor, "trial bin latent"],
    covariance: Float[Tensor, "trial bin latent latent"] | None,
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Float[Tensor, "trial bin unit"]:
    """Return the expected counts given Gaussian latents; without a covariance, latents that are known."""
    eta = mean @ model.readout.T + model.offset
    if inputs is not None and model.feedthrough is not None:
        eta += inputs.to(eta) @ model.feedthrough.T
    if covariance is not None:
        emit = emission(model, poisson=True)
        eta += 0.5 * (pairs(emit, covariance) @ emit.products.T)
    return eta.exp_()


def count_trials(
    model: LinearGaussian, trials: int, bins: int, seed: int, *, poisson: bool
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
    """Draw latents and counts of new trials, with known inputs at zero; all on the CPU."""
    noiseless = model._replace(noise=torch.zeros_like(model.noise))
    latents, eta = draw_trials(noiseless, trials, bins, torch.Generator().manual_seed(seed))
    random = np.random.default_rng(seed)
    rate = eta.exp().numpy()
    if not poisson:
        a = model.noise.numpy()
        rate = rate * random.gamma(1 / a, a, size=rate.shape)
    return latents, torch.from_numpy(random.poisson(np.minimum(rate, MOST)).astype(np.float64))


def count_draws(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None,
    normal: Float[Tensor, "draw trial bin latent"],
    *,
    poisson: bool,
) -> Float[Tensor, "draw trial bin latent"]:
    """Return draws of whole trajectories from the posterior, from ``normal`` numbers; zero after the end of a trial."""
    emit = emission(model, poisson)
    result = torch.zeros_like(normal)
    for part in parts_of(model, activity, valid, observed, inputs):
        bins = len(part.inside)
        posterior = smooth(part.chain, best_sites(part.chain, emit, part.counts))
        m, V, G = posterior.mean, posterior.covariance.clone(), posterior.gain
        V[:-1] -= G @ V[1:] @ G.mT
        roots = torch.from_numpy(square_root(V.cpu().numpy())).to(V)
        numbers = normal[:, part.rows, :bins].permute(2, 1, 0, 3)  # (bin, trial, draw, latent)
        drawn = torch.empty_like(numbers)
        change = numbers[-1] @ roots[-1].mT
        drawn[-1] = m[-1][:, None] + change
        for t in range(bins - 2, -1, -1):
            change = numbers[t] @ roots[t].mT + change @ G[t].mT
            drawn[t] = m[t][:, None] + change
        drawn *= part.inside[..., None, None]
        result[:, part.rows, :bins] = drawn.permute(2, 1, 0, 3)
    return result
