"""The E-step of linear dynamical systems with Poisson or negative binomial counts, and what else posteriors are for.

    x_1 ~ N(mu, V),   x_{t+1} = A x_t + B u_t + w,  w ~ N(0, Q),   y_t ~ counts of mean exp(C x_t + d + D u_t)

Parameters are those of a :class:`LinearGaussian`, whose ``noise`` holds the overdispersion of each unit; ``poisson``
says that there is none. Trials are worked on in parts that fit the working memory, each trial to its own optimum.

Macke et al. (2011) Empirical models of spiking in neural populations, NeurIPS 24; Khan, Lin (2017),
https://arxiv.org/abs/1703.04265.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.inference.count_emissions import (
    Counts,
    Emission,
    Expected,
    constants,
    emission,
    expected,
    pairs,
    row_blocks,
)
from lvmzoo.inference.count_posterior import best_sites, divergence
from lvmzoo.inference.count_smoother import Chain, Smoothed, smooth
from lvmzoo.inference.sequences import LinearGaussian

__all__ = [
    "RIVALS",
    "CountMoments",
    "Part",
    "count_bounds",
    "count_expectations",
    "count_posterior",
    "parts_of",
    "reach_of",
]

TOGETHER = 2**19  # elements of the matrices, or samples, of the trials that are worked on together: 4 MB an array
POWER = 16  # of the sums that stand for a maximum
RIVALS = (1 / 3, 1 / 1.25, 1.25, 3.0)  # other overdispersions that are tried, relative to the present one


class CountMoments(NamedTuple):
    """What the M-step needs: sums over trials and bins, additive over batches, sessions and ranks.

    A state is [x, u], a regressor [x, u, 1], where u are the known inputs, if there are any. Derivatives are those of
    the expected log-likelihood with respect to [C, D, d] at the parameters of the E-step.
    """

    log_likelihood: Float[Tensor, ""]  # its lower bound
    bins: Float[Tensor, ""]  # valid ones
    trials: Float[Tensor, ""]
    transitions: Float[Tensor, ""]
    initial_sum: Float[Tensor, " latent"]  # E x_1
    initial_moment: Float[Tensor, "latent latent"]  # E x_1 x_1'
    before: Float[Tensor, "state state"]  # E [x_t, u_t] [x_t, u_t]' of the bins that another follows
    after: Float[Tensor, "latent latent"]  # E x_t x_t' of the bins that follow another
    cross: Float[Tensor, "latent state"]  # E x_{t+1} [x_t, u_t]'
    reach: Float[Tensor, " state"]  # |E x|^16, |u|^16: their sum bounds the largest
    spread: Float[Tensor, " latent"]  # (diagonal of Cov x)^8
    samples: Float[Tensor, " unit"]
    gain: Float[Tensor, " unit"]  # E log g - E g of the hidden gains; Poisson: 0
    rivals: Float[Tensor, "unit rival"]  # what the expected log-likelihood would gain by other overdispersions
    gradient: Float[Tensor, "unit regressor"]
    curvature: Float[Tensor, "unit regressor regressor"]  # a bound on minus the second derivatives


class Part(NamedTuple):
    """Trials that are worked on together, longest first."""

    rows: Int[Tensor, " trial"]  # of the batch
    inside: Bool[Tensor, "bin trial"]  # up to each trial's last valid bin
    chain: Chain
    counts: Counts


def parts_of(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Iterator[Part]:
    """Yield the trials of a batch that have a valid bin, part by part."""
    latents = len(model.dynamics)
    number = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    lengths = (valid * number).amax(1) if valid.shape[1] else valid.sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[: int((lengths > 0).sum())]
    most = max(latents**2, activity.shape[-1], 1)
    while len(order):
        bins = int(lengths[order[0]])
        rows, order = order.split([n := min(len(order), max(1, TOGETHER // (bins * most))), len(order) - n])
        inside = number[:bins, None] <= lengths[rows]
        shown = (observed[rows, :bins] & valid[rows, :bins, None]).transpose(0, 1)
        counts = activity[rows, :bins].transpose(0, 1).to(model.dynamics)
        complete = bool(shown.all())
        counts = counts.contiguous() if complete else torch.where(shown, counts, 0.0)
        known, drive = None, None
        if inputs is not None and model.drive is not None:
            known = torch.where(inside[..., None], inputs[rows, :bins].transpose(0, 1).to(counts), 0.0)
            drive = known @ model.drive.T
        chain = Chain(
            model.dynamics,
            model.dynamics_noise,
            model.initial_mean.expand(len(rows), -1),
            model.initial_covariance.expand(len(rows), -1, -1),
            drive,
        )
        yield Part(rows, inside, chain, Counts(counts, None if complete else shown.to(counts), known))


def count_posterior(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
    *,
    poisson: bool,
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
    """Return the mean and covariance of the latents given all bins; zero after a trial's last valid bin."""
    latents = len(model.dynamics)
    emit = emission(model, poisson)
    mean = model.dynamics.new_zeros((*valid.shape, latents))
    covariance = model.dynamics.new_zeros((*valid.shape, latents, latents))
    for part in parts_of(model, activity, valid, observed, inputs):
        posterior = smooth(part.chain, best_sites(part.chain, emit, part.counts))
        bins = len(part.inside)
        outside = ~part.inside[..., None]
        mean[part.rows, :bins] = posterior.mean.masked_fill(outside, 0.0).transpose(0, 1)
        covariance[part.rows, :bins] = posterior.covariance.masked_fill(outside[..., None], 0.0).transpose(0, 1)
    return mean, covariance


def count_bounds(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
    *,
    poisson: bool,
) -> Float[Tensor, " trial"]:
    """Return a lower bound on the log-likelihood of each trial, in nats; 0 for trials without a valid bin."""
    emit = emission(model, poisson)
    result = model.dynamics.new_zeros(len(valid))
    for part in parts_of(model, activity, valid, observed, inputs):
        evidence = best_sites(part.chain, emit, part.counts)
        posterior = smooth(part.chain, evidence)
        y, m = part.counts.counts.flatten(0, 1), posterior.mean.flatten(0, 1)
        pair = pairs(emit, posterior.covariance).flatten(0, 1)
        fit = torch.cat([expected(emit, part.counts, m, pair, block).fit for block in row_blocks(*y.shape)])
        value = fit.view(part.inside.shape).sum(0) + constants(emit, part.counts)
        result[part.rows] = value - divergence(evidence, posterior)
    return result


def count_expectations(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
    *,
    poisson: bool,
) -> CountMoments:
    """Return the bound and the sums for the M-step."""
    emit = emission(model, poisson)
    total = _zero_moments(model)
    total.bins.add_(valid.sum())
    for part in parts_of(model, activity, valid, observed, inputs):
        evidence = best_sites(part.chain, emit, part.counts)
        posterior = smooth(part.chain, evidence)
        total.log_likelihood.add_((constants(emit, part.counts) - divergence(evidence, posterior)).sum())
        _add_dynamics(part, posterior, total)
        _add_emissions(emit, part, posterior, total)
    return total


def reach_of(moments: CountMoments) -> tuple[Float[Tensor, " state"], Float[Tensor, " latent"]]:
    """Return bounds on |E x_i| and |u_k|, and on the standard deviation of x_i, that hold for all bins."""
    return moments.reach ** (1 / POWER), moments.spread ** (1 / POWER)


def _zero_moments(model: LinearGaussian) -> CountMoments:
    zeros = model.dynamics.new_zeros
    units, latents = model.readout.shape
    state = latents + (0 if model.drive is None else model.drive.shape[1])
    return CountMoments(
        log_likelihood=zeros(()),
        bins=zeros(()),
        trials=zeros(()),
        transitions=zeros(()),
        initial_sum=zeros(latents),
        initial_moment=zeros(latents, latents),
        before=zeros(state, state),
        after=zeros(latents, latents),
        cross=zeros(latents, state),
        reach=zeros(state),
        spread=zeros(latents),
        samples=zeros(units),
        gain=zeros(units),
        rivals=zeros(units, len(RIVALS)),
        gradient=zeros(units, state + 1),
        curvature=zeros(units, state + 1, state + 1),
    )


def _add_dynamics(part: Part, posterior: Smoothed, total: CountMoments) -> None:
    """Add the moments of the latents within a bin and one bin apart."""
    latents = posterior.mean.shape[-1]
    inside = part.inside.to(posterior.mean)
    V = posterior.covariance * inside[..., None, None]
    x = posterior.mean * inside[..., None]
    state = x if part.counts.inputs is None else torch.cat([x, part.counts.inputs], -1)
    followed = inside[1:]
    earlier = state[:-1] * followed[..., None]
    total.trials.add_(inside.shape[1])
    total.transitions.add_(followed.sum())
    total.initial_sum.add_(x[0].sum(0))
    total.initial_moment.add_(x[0].T @ x[0] + V[0].sum(0))
    total.after.add_(x[1:].flatten(0, 1).T @ x[1:].flatten(0, 1) + V[1:].sum((0, 1)))
    total.before.add_(earlier.flatten(0, 1).T @ earlier.flatten(0, 1))
    total.before[:latents, :latents] += (V[:-1] * followed[..., None, None]).sum((0, 1))
    total.cross.add_(x[1:].flatten(0, 1).T @ earlier.flatten(0, 1))
    total.cross[:, :latents] += (V[1:].flatten(0, 1).mT @ posterior.gain.flatten(0, 1).mT).sum(0)
    total.reach.add_(state.abs().flatten(0, 1).pow(POWER).sum(0))
    total.spread.add_(V.diagonal(dim1=-2, dim2=-1).flatten(0, 1).pow(POWER // 2).sum(0))


def _add_emissions(emit: Emission, part: Part, posterior: Smoothed, total: CountMoments) -> None:
    """Add the expected log-likelihood and its derivatives with respect to [C, D, d].

    Rates weigh the latents as if these were tilted toward high rates, to the mean z = m + k V c. With the weights
    drawn, the gradient is the sum of y m - drawn z, and minus the second derivative at most that of drawn (z z' + V).
    """
    m, pair = posterior.mean.flatten(0, 1), pairs(emit, posterior.covariance).flatten(0, 1)
    V, y, u = posterior.covariance.flatten(0, 1), part.counts.counts.flatten(0, 1), part.counts.inputs
    latents, units = m.shape[1], y.shape[1]
    ones = m.new_ones(len(m), 1)
    others = ones if u is None else torch.cat([u.flatten(0, 1), ones], 1)
    weighted = emit.products.new_zeros(units, len(emit.rows))
    for block in row_blocks(len(m), units * total.gradient.shape[1]):
        at = expected(emit, part.counts, m, pair, block)
        total.log_likelihood.add_(at.fit.sum())
        z = m.new_empty(at.drawn.shape[0], total.gradient.shape[1], units)
        z[:, :latents] = V[block] @ emit.readout.T
        if at.fall is not None:
            z[:, :latents] *= (at.curvature / at.drawn.clamp(min=1e-300))[:, None]
        z[:, :latents] += m[block][..., None]
        z[:, latents:] = others[block][..., None]
        pulled = z * at.drawn[:, None]
        total.gradient.add_(torch.cat([y[block].T @ m[block], y[block].T @ others[block]], 1) - pulled.sum(0).T)
        total.curvature.add_(pulled.permute(2, 1, 0) @ z.permute(2, 0, 1))
        weighted.addmm_(at.drawn.T, V[block][:, emit.rows, emit.columns])
        _add_gains(emit, part, m, pair, at, block, total)
    total.curvature[:, :latents, :latents] += weighted[:, emit.place].view(units, latents, latents)
    if part.counts.shown is None:
        total.samples.add_(len(y))
    else:
        total.samples.add_(part.counts.shown.sum((0, 1)))


def _add_gains(
    emit: Emission, part: Part, m: Tensor, pair: Tensor, at: Expected, block: slice, total: CountMoments
) -> None:
    """Add E log g - E g, given that a gain is Gamma of shape y + 1 / a and rate 1 / a + exp(eta) given its log rate.

    Add also what other overdispersions would change.
    """
    a = emit.overdispersion
    if a is None or at.fall is None:
        return
    y = part.counts.counts.flatten(0, 1)[block]
    shown = None if part.counts.shown is None else part.counts.shown.flatten(0, 1)[block] > 0

    def summed(values: Tensor) -> Tensor:
        return (values if shown is None else torch.where(shown, values, 0.0)).sum(0)

    total.gain.add_(summed(torch.digamma(y + 1 / a) + a.log() - at.fall - 1 - a * (y - at.drawn)))
    now = _dispersed(y, a, at.fall)
    for k, factor in enumerate(RIVALS):
        other = emit._replace(overdispersion=factor * a)
        fall = expected(other, part.counts, m, pair, block).fall
        if fall is not None:
            total.rivals[:, k] += summed(_dispersed(y, factor * a, fall) - now)


def _dispersed(y: Tensor, a: Tensor, fall: Tensor) -> Tensor:
    """Return the part of the expected log-likelihood that the overdispersion enters."""
    return torch.lgamma(y + 1 / a) - torch.lgamma(1 / a) + y * a.log() - (y + 1 / a) * fall
