r"""Factor analysis: activity is a few latents, read out linearly, and private noise of each unit.

.. math:: y = \mu + L x + \epsilon, \quad x \sim N(0, I), \quad \epsilon \sim N(0, \Psi), \ \Psi \text{ diagonal}

EM (Rubin, Thayer 1982, doi:10.1007/BF02293851) fills in what was not observed; given that, the loadings have a closed
form for each :math:`\Psi`, over which the likelihood is maximized directly (Joreskog 1967, doi:10.1007/BF02289658).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "Factors",
    "Moments",
    "expected_moments",
    "maximize",
    "maximum_likelihood",
    "ordered",
    "positive",
    "posterior",
]

CHUNK_ENTRIES = 2**22
TINY = 1e-30
POLISHED = 1e-10  # tolerance from which on the gradient itself is brought to zero


class Factors(NamedTuple):
    """Parameters of factor analysis."""

    mean: Float[Tensor, " unit"]
    loadings: Float[Tensor, "unit latent"]
    noise: Float[Tensor, " unit"]  # private variances


class Moments(NamedTuple):
    """Expected moments of the complete activity given what was observed, around a shift, and its log-likelihood."""

    bins: Float[Tensor, ""]
    activity: Float[Tensor, " unit"]
    products: Float[Tensor, "unit unit"]
    log_likelihood: Float[Tensor, ""]  # of what was observed, nats


def posterior(
    factors: Factors, activity: Float[Tensor, "bin unit"], seen: Bool[Tensor, "bin unit"]
) -> tuple[Float[Tensor, "bin latent"], Float[Tensor, "bin latent latent"], Float[Tensor, " bin"]]:
    """Return mean and covariance of the latents given what was seen, and the log-likelihood of that in nats.

    The covariance is a broadcast view where all bins have the same units.
    """
    residual = torch.where(seen, activity - factors.mean, 0.0)
    weights = factors.loadings / factors.noise[:, None]
    alike = len(seen) > 0 and bool((seen == seen[0]).all())
    shown = seen[:1].to(residual.dtype) if alike else seen.to(residual.dtype)
    latents = factors.loadings.shape[1]
    outer = (factors.loadings[:, :, None] * weights[:, None, :]).flatten(1)
    identity = torch.eye(latents, dtype=residual.dtype, device=residual.device)
    root = torch.linalg.cholesky(identity + (shown @ outer).view(-1, latents, latents))
    covariance = torch.cholesky_inverse(root).expand(len(seen), latents, latents)
    drive = residual @ weights
    mean = (covariance @ drive[..., None])[..., 0] if not alike else drive @ covariance[0]
    log_determinant = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1) + shown @ factors.noise.log()
    squared = (residual.square() / factors.noise).sum(1) - (drive * mean).sum(1)
    nats = -0.5 * (seen.sum(1).to(residual) * math.log(2 * math.pi) + log_determinant + squared)
    return mean, covariance, nats


def expected_moments(
    factors: Factors,
    activity: Float[Tensor, "bin unit"],
    seen: Bool[Tensor, "bin unit"],
    shift: Float[Tensor, " unit"],
) -> Moments:
    """Return the E-step: exact moments of complete bins, expected ones of the others; bins without any are left out."""
    units = len(shift)
    total = Moments(shift.new_zeros(()), torch.zeros_like(shift), shift.new_zeros(units, units), shift.new_zeros(()))
    for y, shown in _chunks(activity, seen):
        mean, covariance, nats = posterior(factors, y, shown)
        complete = shown.all(1)
        filled = torch.where(shown, y, factors.mean + mean @ factors.loadings.T) - shift
        products = filled.T @ filled
        if not bool(complete.all()):
            hidden = (~shown[~complete]).to(y.dtype)
            products.diagonal().add_(hidden.sum(0) * factors.noise)
            spread = covariance[~complete]
            step = max(1, CHUNK_ENTRIES // units**2)
            for first in range(0, len(hidden), step):
                here = slice(first, first + step)
                uncertain = factors.loadings @ spread[here] @ factors.loadings.T
                products += (hidden[here, :, None] * uncertain * hidden[here, None, :]).sum(0)
        part = Moments(shift.new_tensor(float(len(y))), filled.sum(0), products, nats.sum())
        total = Moments(*(a + b for a, b in zip(total, part, strict=True)))
    return total


def maximize(
    moments: Moments, shift: Float[Tensor, " unit"], before: Factors, floor: Float[Tensor, " unit"]
) -> Factors:
    """Return the M-step: the factor analysis of the expected moments, not worse than the one before."""
    bins = moments.bins.clamp(min=1)
    above = moments.activity / bins
    covariance = moments.products / bins - torch.outer(above, above)
    loadings, noise = maximum_likelihood(covariance, before.loadings.shape[1], floor, before.noise)
    return Factors(shift + above, loadings, noise)


def maximum_likelihood(
    covariance: Float[Tensor, "unit unit"],
    latents: int,
    floor: Float[Tensor, " unit"],
    start: Float[Tensor, " unit"] | None = None,
    iterations: int = 500,
    tolerance: float = 1e-12,
) -> tuple[Float[Tensor, "unit latent"], Float[Tensor, " unit"]]:
    """Return loadings, largest first, and private variances that maximize the likelihood of a covariance.

    Parameters
    ----------
    covariance : of the activity.
    latents : number of columns; those that the data do not need are zero.
    floor : smallest private variances.
    start : private variances to begin with; the result is not worse.
    iterations, tolerance : limits of the search (L-BFGS), the second on the relative gain.
    """
    from scipy.optimize import minimize

    variance = torch.maximum(covariance.diagonal(), floor).clamp(min=TINY).cpu().numpy()
    scale = np.sqrt(variance)
    correlation = covariance.cpu().numpy() / np.outer(scale, scale)
    np.fill_diagonal(correlation, 1.0)
    low = np.log((floor.cpu().numpy() / variance).clip(TINY, 1.0))
    first = np.full(len(scale), np.log(0.5)) if start is None else np.log(start.cpu().numpy() / variance)
    first = first.clip(low, 0.0)
    found = minimize(
        _profile,
        first,
        args=(correlation, latents),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, np.zeros(len(low)), strict=True)),
        options={"maxiter": iterations, "ftol": tolerance, "gtol": 1e-9, "maxcor": 20},
    )
    log_noise = found.x if found.fun <= _profile(first, correlation, latents)[0] else first
    if tolerance <= POLISHED:
        log_noise = _polish(log_noise, correlation, latents, low)
    noise = np.exp(log_noise)
    values, vectors = _largest(correlation, noise, latents)
    loadings = np.zeros((len(scale), latents))
    loadings[:, : len(values)] = np.sqrt(noise)[:, None] * vectors * np.sqrt((values - 1).clip(min=0.0))
    unscaled = torch.from_numpy(loadings * scale[:, None]).to(covariance)
    return ordered(unscaled), torch.from_numpy(noise * variance).to(covariance)


def ordered(loadings: Float[Tensor, "unit latent"]) -> Float[Tensor, "unit latent"]:
    """Return equivalent loadings with orthogonal columns, largest first, each one's largest loading positive."""
    _, rotation = torch.linalg.eigh(loadings.T @ loadings)
    return positive(loadings @ rotation.flip(1))


def positive(columns: Float[Tensor, "unit latent"]) -> Float[Tensor, "unit latent"]:
    """Return the columns with signs that make the largest entry of each positive."""
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))[0]
    return columns * torch.where(largest < 0, -1.0, 1.0).to(columns)


def _profile(log_noise: np.ndarray, correlation: np.ndarray, latents: int) -> tuple[float, np.ndarray]:
    """Return minus the log-likelihood per bin at the best loadings, less constants, and its gradient."""
    noise = np.exp(log_noise)
    values, vectors = _largest(correlation, noise, latents)
    useful = values > 1
    values, vectors = values[useful], vectors[:, useful]
    diagonal = correlation.diagonal() / noise
    shared = np.square(vectors)
    rest = diagonal - shared @ values  # what the factors leave of the whitened variance of each unit
    objective = 0.5 * float(log_noise.sum() + (np.log(values) + 1).sum() + diagonal.sum() - values.sum())
    return objective, 0.5 * (1 - shared.sum(1) - rest)


def _polish(log_noise: np.ndarray, correlation: np.ndarray, latents: int, low: np.ndarray) -> np.ndarray:
    """Return the maximum to rounding: Fisher scoring on the gradient, where values no longer tell points apart."""
    gradient = _profile(log_noise, correlation, latents)[1]
    for _ in range(50):
        free = ~(((log_noise <= low) & (gradient > 0)) | ((log_noise >= 0) & (gradient < 0)))
        size = np.abs(gradient[free]).max(initial=0.0)
        if size < 1e-12:
            break
        values, vectors = _largest(correlation, np.exp(log_noise), latents)
        vectors = vectors[:, values > 1]
        left = np.square(np.eye(len(log_noise)) - vectors @ vectors.T)[np.ix_(free, free)]
        step = np.linalg.lstsq(0.5 * left, gradient[free], rcond=1e-8)[0]
        tried = log_noise.copy()
        tried[free] = (log_noise[free] - step).clip(low[free], 0.0)
        new = _profile(tried, correlation, latents)[1]
        if not np.abs(new[free]).max(initial=0.0) < size:
            break
        log_noise, gradient = tried, new
    return log_noise


def _largest(correlation: np.ndarray, noise: np.ndarray, latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues, and their vectors, of the correlation whitened by the private noise."""
    from scipy.linalg import eigh

    root = np.sqrt(noise)
    units = len(root)
    rank = min(latents, units)
    values, vectors = eigh(correlation / np.outer(root, root), subset_by_index=(units - rank, units - 1))
    return values[::-1], vectors[:, ::-1]


def _chunks(
    activity: Float[Tensor, "bin unit"], seen: Bool[Tensor, "bin unit"]
) -> Iterator[tuple[Float[Tensor, "_ unit"], Bool[Tensor, "_ unit"]]]:
    """Give bins in which something was seen, complete ones first, a cache-sized block at a time."""
    complete = seen.all(1)
    step = max(1, 2**17 // max(1, activity.shape[1]))
    for rows in (complete, ~complete & seen.any(1)):
        if bool(rows.any()):
            everything = bool(rows.all())
            y, shown = (activity, seen) if everything else (activity[rows], seen[rows])
            yield from zip(y.split(step), shown.split(step), strict=True)
