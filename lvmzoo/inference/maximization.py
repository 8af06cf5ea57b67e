"""The M-step of a linear dynamical system: parameters from the moments of :mod:`lvmzoo.inference.linear_gaussian`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.count_expectations import CountMoments
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments

__all__ = [
    "Constraints",
    "floored",
    "least_norm",
    "maximize",
    "noise_floor",
    "noise_floors",
    "solve_dynamics",
    "solve_initial",
    "solve_readout",
]

NOISE_FLOOR = 1e-2  # of a unit's variance: below it a latent would serve that unit alone (Heywood 1931)
COUNT_FLOOR = 5e-2  # of the mean variance of counts: a unit with two spikes in training may have five in a test
SILENT = 1e-14  # of the mean variance of continuous activity, whose units may differ a millionfold in scale
COVARIANCE_FLOOR = 1e-8  # of the mean variance of the latents
COLLINEAR = 1e-11  # known inputs may repeat each other; a share of variance below it is rounding


@dataclass(frozen=True)
class Constraints:
    """What the parameters must keep."""

    diagonal: bool = False  # A and Q are diagonal: each latent decays by itself
    dynamics: bool = False  # A stays as it is
    readout: bool = False  # C stays as it is


def maximize(
    model: LinearGaussian,
    moments: Moments,
    sessions: Iterable[tuple[slice, bool]],
    constraints: Constraints = Constraints(),
) -> LinearGaussian:
    """Return the parameters that maximize the expected log-likelihood; what the data do not tell stays as it was.

    ``sessions`` are the units of each, and whether they are counts, for the smallest private variances.
    """
    A, B, Q = solve_dynamics(model, moments, constraints)
    C, D, d, r = solve_readout(model, moments, sessions, constraints.readout)
    return LinearGaussian(A, Q, *solve_initial(model, moments), C, d, r, B, D)


def solve_dynamics(
    model: LinearGaussian, moments: Moments | CountMoments, constraints: Constraints = Constraints()
) -> tuple[Float[Tensor, "latent latent"], Float[Tensor, "latent channel"] | None, Float[Tensor, "latent latent"]]:
    """Return A, B and Q. The updated A and B enter Q: with the old ones the likelihood could fall."""
    if moments.transitions == 0:  # trials of one bin
        return model.dynamics, model.drive, model.dynamics_noise
    latents, (before, cross) = len(model.dynamics), (moments.before, moments.cross)
    solve = _solver(model)
    if constraints.dynamics:
        known = cross[:, latents:] - model.dynamics @ before[:latents, latents:]
        AB = torch.cat([model.dynamics, solve(before[latents:, latents:], known.T).T], 1)
    elif constraints.diagonal:  # with independent noise each latent is a regression of its own
        channels = torch.arange(latents, len(before), device=before.device).expand(latents, -1)
        own = torch.cat([torch.arange(latents, device=before.device)[:, None], channels], 1)
        solution = solve(before[own[:, :, None], own[:, None, :]], cross.gather(1, own)[..., None])[..., 0]
        AB = torch.zeros_like(cross).scatter(1, own, solution)
    else:
        AB = solve(before, cross.T).T
    explained = cross @ AB.T
    Q = (moments.after - explained - explained.T + AB @ before @ AB.T) / moments.transitions
    if constraints.diagonal:
        Q = torch.diag(Q.diagonal())
    return AB[:, :latents], None if model.drive is None else AB[:, latents:], floored(Q)


def solve_initial(
    model: LinearGaussian, moments: Moments | CountMoments
) -> tuple[Float[Tensor, "*case latent"], Float[Tensor, "*case latent latent"]]:
    """Return mu and V; too few trials cannot tell how trials begin, and their start stays as broad as it was."""
    told = moments.trials >= model.dynamics.shape[-1] + 2
    if not bool(told.any()):
        return model.initial_mean, model.initial_covariance
    trials = moments.trials.clamp(min=1)[..., None]
    mean = moments.initial_sum / trials
    covariance = floored(moments.initial_moment / trials[..., None] - mean[..., :, None] * mean[..., None, :])
    return (
        torch.where(told[..., None], mean, model.initial_mean),
        torch.where(told[..., None, None], covariance, model.initial_covariance),
    )


def solve_readout(
    model: LinearGaussian, moments: Moments, sessions: Iterable[tuple[slice, bool]], fixed: bool = False
) -> tuple[
    Float[Tensor, "unit latent"],
    Float[Tensor, "unit channel"] | None,
    Float[Tensor, " unit"],
    Float[Tensor, " unit"],
]:
    """Return C, D, d and r, each unit by its own normal equations over the bins that show it.

    ``fixed`` keeps C and solves for the rest.
    """
    latents = model.readout.shape[1]
    samples = moments.readout[:, -1, -1]
    known = samples > 0
    C, d, r = model.readout.clone(), model.offset.clone(), model.noise.clone()
    D = None if model.feedthrough is None else model.feedthrough.clone()
    if not bool(known.any()):
        return C, D, d, r
    n, cross, gram = samples[known], moments.activity[known, :, None], moments.readout[known]
    solve = _solver(model)
    if fixed:
        kept = C[known, :, None]
        rest = solve(gram[:, latents:, latents:], cross[:, latents:] - gram[:, latents:, :latents] @ kept)
        solution = torch.cat([kept, rest], 1)
    else:
        solution = solve(gram, cross)
    squares, means = (values / samples.clamp(min=1) for values in (moments.squares, moments.activity[:, -1]))
    floor = noise_floors(squares - means.square(), sessions)
    explained = (solution * (2 * cross - gram @ solution)).sum((1, 2)) if fixed else (solution * cross).sum((1, 2))
    C[known] = solution[:, :latents, 0]
    d[known] += solution[:, -1, 0]  # activity was taken relative to the old offset, and to what the old D says
    if D is not None:
        D[known] += solution[:, latents:-1, 0]
    r[known] = torch.maximum(squares[known] - explained / n, floor[known])
    return C, D, d, r


def _solver(model: LinearGaussian) -> Callable[[Tensor, Tensor], Tensor]:
    """Return how normal equations are solved: known inputs may be collinear, latents never are."""
    return torch.linalg.solve if model.drive is None else least_norm


def least_norm(
    gram: Float[Tensor, "*unit regressor regressor"], right: Float[Tensor, "*unit regressor target"]
) -> Float[Tensor, "*unit regressor target"]:
    """Solve normal equations whose regressors may be collinear: of all solutions, the smallest."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal.clamp(min=1e-300).rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(gram * scale[..., :, None] * scale[..., None, :])
    inverse = torch.where(values > COLLINEAR, 1 / values.clamp(min=COLLINEAR), 0.0)
    return scale[..., None] * (vectors @ (inverse[..., None] * (vectors.mT @ (scale[..., None] * right))))


def noise_floor(variance: Float[Tensor, " unit"], counts: bool) -> Float[Tensor, " unit"]:
    """Return the smallest private variances: a silent, rare or perfectly explained unit must not rule the fit.

    Nothing is known of a unit that is silent or was never observed: its floor is that of a unit like the others.
    """
    mean = variance.mean()
    if counts:
        return torch.maximum(NOISE_FLOOR * variance, COUNT_FLOOR * mean).clamp(min=1e-30)
    return (NOISE_FLOOR * torch.where(variance > SILENT * mean, variance, mean)).clamp(min=1e-30)


def noise_floors(variance: Float[Tensor, " unit"], sessions: Iterable[tuple[slice, bool]]) -> Float[Tensor, " unit"]:
    """Return the smallest private variances of sessions, none of which sees the scale of another.

    ``sessions`` are the units of each, one after the other, and whether they are counts.
    """
    return torch.cat([noise_floor(variance[units], counts) for units, counts in sessions])


def floored(covariance: Float[Tensor, "*case latent latent"]) -> Float[Tensor, "*case latent latent"]:
    """Return the nearest symmetric matrix whose eigenvalues are not below the floor."""
    symmetric = (covariance + covariance.mT) / 2
    values, vectors = torch.linalg.eigh(symmetric)
    floor = COVARIANCE_FLOOR * values.clamp(min=0).mean(-1, keepdim=True).clamp(min=1e-300)
    low = values[..., :1] < floor
    if not bool(low.any()):
        return symmetric
    return torch.where(low[..., None], (vectors * values.maximum(floor)[..., None, :]) @ vectors.mT, symmetric)
