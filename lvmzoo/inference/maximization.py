"""The M-step of a linear dynamical system: parameters from the moments of :mod:`lvmzoo.inference.linear_gaussian`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments

__all__ = ["maximize", "noise_floor", "solve_dynamics", "solve_initial", "solve_readout"]

NOISE_FLOOR = 1e-2  # of a unit's variance: below it a latent would serve that unit alone (Heywood 1931)
COUNT_FLOOR = 5e-2  # of the mean variance of counts: a unit with two spikes in training may have five in a test
SILENT_FLOOR = 1e-6  # of the mean variance of continuous activity, whose units may differ in scale
COVARIANCE_FLOOR = 1e-8  # of the mean variance of the latents


def maximize(model: LinearGaussian, moments: Moments, counts: bool) -> LinearGaussian:
    """Return the parameters that maximize the expected log-likelihood; what the data do not tell stays as it was.

    ``counts`` says that activity is spikes per bin, for the smallest private variance of a unit.
    """
    dynamics = solve_dynamics(model, moments)
    initial = solve_initial(model, moments)
    return LinearGaussian(*dynamics, *initial, *solve_readout(model, moments, counts))


def solve_dynamics(
    model: LinearGaussian, moments: Moments
) -> tuple[Float[Tensor, "latent latent"], Float[Tensor, "latent latent"]]:
    """Return A and Q. The updated A enters Q: with the old one the likelihood could fall."""
    if moments.transitions == 0:  # trials of one bin
        return model.dynamics, model.dynamics_noise
    A = torch.linalg.solve(moments.before, moments.cross, left=False)
    explained = moments.cross @ A.T
    Q = (moments.after - explained - explained.T + A @ moments.before @ A.T) / moments.transitions
    return A, _floored(Q)


def solve_initial(
    model: LinearGaussian, moments: Moments
) -> tuple[Float[Tensor, " latent"], Float[Tensor, "latent latent"]]:
    """Return mu and V; too few trials cannot tell how trials begin, and their start stays as broad as it was."""
    if moments.trials < len(model.dynamics) + 2:
        return model.initial_mean, model.initial_covariance
    mean = moments.initial_sum / moments.trials
    return mean, _floored(moments.initial_moment / moments.trials - torch.outer(mean, mean))


def solve_readout(
    model: LinearGaussian, moments: Moments, counts: bool
) -> tuple[Float[Tensor, "unit latent"], Float[Tensor, " unit"], Float[Tensor, " unit"]]:
    """Return C, d and r, each unit by its own normal equations over the bins that show it."""
    samples = moments.readout[:, -1, -1]
    known = samples > 0
    C, d, r = model.readout.clone(), model.offset.clone(), model.noise.clone()
    if not bool(known.any()):
        return C, d, r
    n, cross = samples[known], moments.activity[known]
    solution = torch.linalg.solve(moments.readout[known], cross)
    squares = moments.squares[known] / n
    variance = squares - (cross[:, -1] / n).square()
    C[known] = solution[:, :-1]
    d[known] += solution[:, -1]  # activity was taken relative to the old offset
    r[known] = torch.maximum(squares - (solution * cross).sum(1) / n, noise_floor(variance, counts))
    return C, d, r


def noise_floor(variance: Float[Tensor, " unit"], counts: bool) -> Float[Tensor, " unit"]:
    """Return the smallest private variances: a silent, rare or perfectly explained unit must not rule the fit."""
    shared = (COUNT_FLOOR if counts else SILENT_FLOOR) * variance.mean()
    return torch.maximum(NOISE_FLOOR * variance, shared).clamp(min=1e-30)


def _floored(covariance: Tensor) -> Tensor:
    """Return the nearest symmetric matrix whose eigenvalues are not below the floor."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    floor = COVARIANCE_FLOOR * values.clamp(min=0).mean().clamp(min=1e-300)
    if values[0] >= floor:
        return (covariance + covariance.T) / 2
    return (vectors * values.clamp(min=floor)) @ vectors.T
