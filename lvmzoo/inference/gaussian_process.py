r"""Gaussian processes seen through a linear readout: likelihood, posterior, and the sums that EM needs.

    y_t = C x_t + d + v_t,   v_t ~ N(0, diag(r)),   x_i = s_i + n_i,   s_i ~ GP(0, (1 - e) k_i),   n_it ~ N(0, e)

Each trial is on its own. Trials of any length, units, bins and single samples that were not observed are handled
exactly. The posterior covariance does not depend on the activity: trials that show the same samples share it.

Yu et al. (2009) J. Neurophysiol. 102, 614, doi:10.1152/jn.90941.2008.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.gaussian_process_kernels import Part
from lvmzoo.inference.gaussian_process_posterior import (
    Features,
    GaussianProcess,
    Posterior,
    by_latent,
    groups,
    residuals,
)

__all__ = [
    "GaussianProcess",
    "Sums",
    "cavity_means",
    "draw",
    "expectations",
    "log_likelihood",
    "posterior_means",
    "posterior_moments",
    "zero_sums",
]


class Sums(NamedTuple):
    """What the M-step needs: sums over trials and bins, additive over batches, sessions and ranks.

    Activity enters as its difference from the offsets d of the parameters, so that nothing cancels; latents carry a one
    as their last component where the shape says ``latent_and_one``.
    """

    log_likelihood: Float[Tensor, ""]
    bins: Float[Tensor, ""]  # valid ones
    squares: Float[Tensor, " unit"]  # (y - d)^2
    activity: Float[Tensor, "unit latent_and_one"]  # (y - d) E [x, 1]'
    readout: Float[Tensor, "unit latent_and_one latent_and_one"]  # E [x, 1] [x, 1]' of the bins that show the unit
    slope: Float[Tensor, " latent"]  # derivative of the log-likelihood by the log timescales
    information: Float[Tensor, "latent latent"]  # Fisher information of the log timescales


def zero_sums(units: int, like: Float[Tensor, " latent"]) -> Sums:
    """Return the sums over no data."""
    zeros, latents = like.new_zeros, len(like)
    return Sums(
        log_likelihood=zeros(()),
        bins=zeros(()),
        squares=zeros(units),
        activity=zeros(units, latents + 1),
        readout=zeros(units, latents + 1, latents + 1),
        slope=zeros(latents),
        information=zeros(latents, latents),
    )


def expectations(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Sums:
    """Return the posterior expectations of the sufficient statistics, and the log-likelihood (the E-step)."""
    total = zero_sums(len(model.offset), model.timescales)
    total.bins.add_(valid.sum())
    weights = model.readout / model.noise[:, None]
    features = Features(model)
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features)
        trials = len(pattern.lengths)
        total.log_likelihood.add_(trials * _constant_terms(model, posterior))
        second = [torch.zeros_like(part.slope) for part in posterior.parts]  # sum over trials of squared mean weights
        moment = torch.zeros_like(total.readout[0])
        inverses = posterior.inverses()
        covariances = None if posterior.complete else posterior.covariances(inverses)
        for _, block in residuals(model, activity, pattern):
            solution = posterior.solve(block @ weights)
            total.log_likelihood.add_(0.5 * solution.quadratic.sum())
            for square, w in zip(second, solution.weights, strict=True):
                square += w.square().sum(1)
            flat = block.flatten(0, 1)
            regressors = torch.cat([solution.x, torch.ones_like(solution.x[..., :1])], -1)
            rows = regressors.flatten(0, 1)
            total.activity.addmm_(flat.T, rows)
            if covariances is None:
                moment.addmm_(rows.T, rows)
            else:
                products = regressors[..., :, None] * regressors[..., None, :]
                products[..., :-1, :-1] += covariances
                shown = posterior.shown.to(products)
                total.readout.add_((shown.T @ products.sum(0).flatten(1)).view_as(total.readout))
            total.squares.add_(flat.square_().sum(0))
        if covariances is None:
            moment[:-1, :-1] += trials * posterior.covariance_sum(inverses)
            total.readout[pattern.units] += moment
        for part, inverse, square in zip(posterior.parts, inverses, second, strict=True):
            _add_timescales(part, inverse, square, trials, total)
    total.log_likelihood.sub_(0.5 * (total.squares / model.noise).sum())
    return total


def _add_timescales(part: Part, inverse: Tensor, second: Tensor, trials: int, total: Sums) -> None:
    """Add the derivative of the log-likelihood by the log timescales (Fisher's identity), and their information.

    Overwrites ``inverse``.
    """
    learned = inverse.neg_()
    learned.diagonal().add_(1.0)
    total.slope.index_add_(0, part.owner, 0.5 * part.slope * (second - trials * learned.diagonal()))
    learned.square_().mul_(part.slope).mul_(part.slope[:, None])
    total.information.add_(by_latent(learned, part, len(total.slope)), alpha=0.5 * trials)


def _constant_terms(model: GaussianProcess, posterior: Posterior) -> Float[Tensor, ""]:
    """Return the terms of a trial's log-likelihood that the activity does not enter."""
    per_sample = math.log(2 * math.pi) + model.noise.log()
    shown = posterior.shown.to(per_sample) @ per_sample
    samples = shown * posterior.bins if posterior.complete else shown.sum()
    return -0.5 * (samples + posterior.log_determinant)


def log_likelihood(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, " trial"]:
    """Return the log-likelihood of what is observed in each trial, in nats; 0 for trials without a valid bin."""
    result = model.offset.new_zeros(len(valid))
    weights = model.readout / model.noise[:, None]
    features = Features(model)
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features)
        constant = _constant_terms(model, posterior)
        for rows, block in residuals(model, activity, pattern):
            explained = posterior.solve(block @ weights).quadratic
            result[rows] = constant + 0.5 * (explained - block.square_().sum(1) @ (1 / model.noise))
    return result


def posterior_means(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin latent"]:
    """Return E(x_t | all bins); zero after a trial's last valid bin."""
    result = model.offset.new_zeros((*valid.shape, len(model.timescales)))
    weights = model.readout / model.noise[:, None]
    features = Features(model)
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features)
        for rows, block in residuals(model, activity, pattern):
            result[rows, : pattern.bins] = posterior.solve(block @ weights).x
    return result


def posterior_moments(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
    """Return E(x_t | all bins) and Cov(x_t | all bins); zero after a trial's last valid bin."""
    latents = len(model.timescales)
    means = model.offset.new_zeros((*valid.shape, latents))
    covariances = model.offset.new_zeros((*valid.shape, latents, latents))
    weights = model.readout / model.noise[:, None]
    features = Features(model)
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features)
        covariances[pattern.rows, : pattern.bins] = posterior.covariances(posterior.inverses())
        for rows, block in residuals(model, activity, pattern):
            means[rows, : pattern.bins] = posterior.solve(block @ weights).x
    return means, covariances


def cavity_means(
    model: GaussianProcess,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin unit"]:
    """Return E(y_n | all units but n) of each unit: of the square root of counts, where that is modeled.

    From the posterior mean m and covariance S of C_n x over the bins, given all units, the unit's own samples are taken
    out again: (I - S / r)^-1 (m - S (y - d) / r).
    """
    result = model.offset.new_zeros((*valid.shape, len(model.offset)))
    weights, latents = model.readout / model.noise[:, None], len(model.timescales)
    features = Features(model)
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features)
        roots = [
            torch.linalg.solve_triangular(root, _spread(part, latents), upper=False).unflatten(1, (latents, -1))
            for part, root in zip(posterior.parts, posterior.roots, strict=True)
        ]
        for rows, block in residuals(model, activity, pattern):
            x = posterior.solve(block @ weights).x
            for unit in range(len(model.offset)):
                c = model.readout[unit]
                loading = (posterior.shrink @ c).expand(posterior.bins, -1)
                white = (c @ posterior.white @ c).expand(posterior.bins)
                shown = posterior.shown[..., unit].expand(posterior.bins)
                means = posterior.split((x @ c)[..., None])
                own = posterior.split(block[..., unit, None])
                found = []
                for root, mean, y in zip(roots, means, own, strict=True):
                    tail = slice(posterior.bins - root.shape[2], None)  # any rows where all bins are alike
                    share = shown[tail] / model.noise[unit]
                    half = torch.einsum("kit,ti->kt", root, loading[tail])
                    S = half.T @ half
                    S.diagonal().add_(white[tail])
                    S *= share
                    left = mean[..., 0] - y[..., 0] @ S.T
                    S.neg_().diagonal().add_(1.0)
                    found.append(torch.linalg.solve(S, left.T).T[..., None])
                result[rows, : pattern.bins, unit] = posterior.join(found)[..., 0] + model.offset[unit]
    return result


def draw(
    model: GaussianProcess, trials: int, bins: int, seed: int
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
    """Draw latents and activity of new trials: of its square root, where that is modeled."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(model.offset.device)

    x = normal(trials, bins, len(model.timescales)) * model.nugget**0.5
    if bins:
        (part,) = Features(model)(bins, False)
        weights = normal(trials, len(part.owner))
        for latent, features in part.slices:
            x[..., latent] += weights[:, features] @ part.values[:, features].T
    noise = normal(trials, bins, len(model.offset)) * model.noise.sqrt()
    return x, x @ model.readout.T + model.offset + noise


def _spread(part: Part, latents: int) -> Float[Tensor, "feature latent_row"]:
    """Return the features of one latent after the other, zero for the features of the others."""
    V = part.values.T[:, None, :] * torch.nn.functional.one_hot(part.owner, latents).to(part.values)[..., None]
    return V.flatten(1)
