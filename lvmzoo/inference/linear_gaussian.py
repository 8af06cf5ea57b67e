"""Linear dynamical systems with Gaussian emissions: likelihood, posterior, and the sums that EM needs.

    x_1 ~ N(mu, V),   x_{t+1} = A x_t + w,  w ~ N(0, Q),   y_t = C x_t + d + v,  v ~ N(0, diag(r))

Trials of different lengths, units, bins and single samples that were not observed are handled exactly. Memory beyond
the data does not grow with their number: activity is converted block by block, and latents are kept for a part of a
long recording at a time.

Shumway, Stoffer (1982) J. Time Ser. Anal. 3, 253, doi:10.1111/j.1467-9892.1982.tb00349.x; Ghahramani, Hinton (1996),
Parameter estimation for linear dynamical systems, University of Toronto CRG-TR-96-2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.kalman import covariances, smoothed_covariances, smoothed_sums
from lvmzoo.inference.means import Means
from lvmzoo.inference.patterns import Pattern, patterns, residual_blocks

__all__ = [
    "LinearGaussian",
    "Moments",
    "expectations",
    "filtered_means",
    "log_likelihood",
    "smoothed_covariance",
    "smoothed_means",
    "zero_moments",
]

KEPT = 2**20  # values of the latents that are kept between the filter and the smoother: 8 MB
TOGETHER = 2**18  # values of the latents of the trials that are filtered together
CHUNK = 2**17  # values of the latents that are worked on at a time: 1 MB, for the cache of the processor


class LinearGaussian(NamedTuple):
    """Parameters of one session, all float64."""

    dynamics: Float[Tensor, "latent latent"]  # A
    dynamics_noise: Float[Tensor, "latent latent"]  # Q
    initial_mean: Float[Tensor, " latent"]  # mu
    initial_covariance: Float[Tensor, "latent latent"]  # V
    readout: Float[Tensor, "unit latent"]  # C
    offset: Float[Tensor, " unit"]  # d
    noise: Float[Tensor, " unit"]  # r, variances


class Moments(NamedTuple):
    """What the M-step needs: sums over trials and bins, additive over batches, sessions and ranks.

    Activity enters as its difference from the offsets d of the parameters, so that nothing cancels; latents carry a one
    as their last component where the shape says ``latent_and_one``.
    """

    log_likelihood: Float[Tensor, ""]
    bins: Float[Tensor, ""]  # valid ones
    trials: Float[Tensor, ""]
    transitions: Float[Tensor, ""]
    initial_sum: Float[Tensor, " latent"]  # E x_1
    initial_moment: Float[Tensor, "latent latent"]  # E x_1 x_1'
    before: Float[Tensor, "latent latent"]  # E x_t x_t' of the bins that another follows
    after: Float[Tensor, "latent latent"]  # E x_t x_t' of the bins that follow another
    cross: Float[Tensor, "latent latent"]  # E x_{t+1} x_t'
    squares: Float[Tensor, " unit"]  # (y - d)^2
    activity: Float[Tensor, "unit latent_and_one"]  # (y - d) E [x, 1]'
    readout: Float[Tensor, "unit latent_and_one latent_and_one"]  # E [x, 1] [x, 1]' of the bins that show the unit


def expectations(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Moments:
    """Return the posterior expectations of the sufficient statistics, and the log-likelihood (the E-step)."""
    total = zero_moments(model)
    total.bins.add_(valid.sum())
    for pattern, means, parts in _filtered_together(model, valid, observed):
        _add_covariances(pattern, means, total)
        for part in parts:
            total.log_likelihood.add_(_constant_terms(model, part, means).sum())
            _add_means(model, activity, part, means, total)
    total.log_likelihood.sub_(0.5 * (total.squares / model.noise).sum())
    return total


def zero_moments(model: LinearGaussian) -> Moments:
    """Return the sums over no data."""
    zeros = model.dynamics.new_zeros
    units, latents = model.readout.shape
    return Moments(
        log_likelihood=zeros(()),
        bins=zeros(()),
        trials=zeros(()),
        transitions=zeros(()),
        initial_sum=zeros(latents),
        initial_moment=zeros(latents, latents),
        before=zeros(latents, latents),
        after=zeros(latents, latents),
        cross=zeros(latents, latents),
        squares=zeros(units),
        activity=zeros(units, latents + 1),
        readout=zeros(units, latents + 1, latents + 1),
    )


def log_likelihood(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, " trial"]:
    """Return the log-likelihood of what is observed in each trial, in nats; 0 for trials without a valid bin."""
    result = model.dynamics.new_zeros(len(valid))
    precision = 1 / model.noise
    for _, means, parts in _filtered_together(model, valid, observed):
        for part in parts:
            value = _constant_terms(model, part, means)
            predicted = model.initial_mean.expand(len(part.lengths), -1)
            for start, stop in _chunks(part, len(model.dynamics)):
                h, squares = _project(model, activity, part, start, stop, precision)
                m = means.filter(h, start, predicted, part.counts)
                for a, b in means.unexplained(h, m, predicted, start, part):
                    squares += (a * b).sum((0, 2))
                value -= 0.5 * squares
                predicted = m[-1] @ model.dynamics.T
            result[part.rows] = value
    return result


def filtered_means(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin latent"]:
    """Return E(x_t | bins up to t); zero after a trial's last valid bin."""
    result = model.dynamics.new_zeros((*valid.shape, len(model.dynamics)))
    for _, means, parts in _filtered_together(model, valid, observed):
        for part in parts:
            predicted = model.initial_mean.expand(len(part.lengths), -1)
            for start, stop in _chunks(part, len(model.dynamics)):
                h, _ = _project(model, activity, part, start, stop)
                m = means.filter(h, start, predicted, part.counts)
                result[part.rows, start:stop] = m.transpose(0, 1)
                predicted = m[-1] @ model.dynamics.T
    return result


def smoothed_means(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin latent"]:
    """Return E(x_t | all bins); zero after a trial's last valid bin."""
    result = model.dynamics.new_zeros((*valid.shape, len(model.dynamics)))
    for _, means, parts in _filtered_together(model, valid, observed):
        for part in parts:
            for start, x, _ in _smooth(model, activity, part, means):
                result[part.rows, start : start + len(x)] = x.transpose(0, 1)
    return result


def smoothed_covariance(
    model: LinearGaussian, valid: Bool[Tensor, "trial bin"], observed: Bool[Tensor, "trial bin unit"]
) -> Float[Tensor, "trial bin latent latent"]:
    """Return Cov(x_t | all bins), which the activity does not enter; zero after a trial's last valid bin."""
    latents = len(model.dynamics)
    result = model.dynamics.new_zeros((*valid.shape, latents, latents))
    for pattern, means, _ in _filtered_together(model, valid, observed):
        if means.shared:  # trials of equal length share their covariances, too
            lengths, row = np.unique(pattern.lengths, return_inverse=True)
        else:
            lengths, row = pattern.lengths, np.arange(len(pattern.lengths))
        values = torch.from_numpy(smoothed_covariances(means.matrices, lengths)).to(result)
        result[pattern.rows, : pattern.bins] = values[torch.from_numpy(row).to(result.device)]
    return result


def _filtered_together(
    model: LinearGaussian, valid: Tensor, observed: Tensor
) -> Iterator[tuple[Pattern, Means, list[Pattern]]]:
    """Yield trials with the matrices of their filter, and the same trials in parts that fit the working memory."""
    latents = len(model.dynamics)
    for pattern in patterns(valid, observed):
        if pattern.mask is None:
            together = max(1, TOGETHER // (pattern.bins * latents))
            yield pattern, _means(model, pattern), pattern.parts(together)
        else:
            for part in pattern.parts(max(1, TOGETHER // (pattern.bins * latents**2))):
                yield part, _means(model, part), [part]


def _means(model: LinearGaussian, pattern: Pattern) -> Means:
    """Run the covariance recursion of trials that are filtered together."""
    C, weights = model.readout, model.readout / model.noise[:, None]
    A, Q, V = (matrix.cpu().numpy() for matrix in (model.dynamics, model.dynamics_noise, model.initial_covariance))
    if pattern.mask is None:
        information = C[pattern.units].T @ weights[pattern.units]
        J = information.cpu().numpy()[None]
        seen = pattern.seen[0].cpu().numpy()
        edges = [0, *(1 + np.flatnonzero(seen[1:] != seen[:-1])).tolist(), len(seen)]
        stretches = [(a, b, J * bool(seen[a])) for a, b in itertools.pairwise(edges)]
    else:
        products = (C[:, :, None] * weights[:, None, :]).flatten(1)
        information = torch.stack([frame.to(products) @ products for frame in pattern.mask.unbind(1)])
        information = information.unflatten(-1, A.shape)
        stretches = [(t, t + 1, J) for t, J in enumerate(information.cpu().numpy())]
    return Means(covariances(A, Q, V, stretches), information, model.dynamics, shared=pattern.mask is None)


def _chunks(part: Pattern, latents: int) -> list[tuple[int, int]]:
    length = max(1, CHUNK // (len(part.lengths) * latents))
    return [(start, min(start + length, part.bins)) for start in range(0, part.bins, length)]


def _project(
    model: LinearGaussian,
    activity: Tensor,
    part: Pattern,
    start: int,
    stop: int,
    precision: Float[Tensor, " unit"] | None = None,
) -> tuple[Float[Tensor, "bin trial latent"], Float[Tensor, " trial"]]:
    """Return C' R^-1 (y - d) of a stretch of bins and, where the precision is given, (y - d)' R^-1 (y - d) by trial."""
    weights = model.readout / model.noise[:, None]
    h = weights.new_empty(stop - start, len(part.lengths), weights.shape[1])
    squares = weights.new_zeros(len(part.lengths))
    for who, when, block in residual_blocks(activity, model.offset, part, start, stop):
        target = h[when.start - start : when.stop - start, who].transpose(0, 1)
        target.copy_((block @ weights).view(target.shape))
        if precision is not None:
            squares[who] += (block.square_() @ precision).view(target.shape[:2]).sum(1)
    return h, squares


def _constant_terms(model: LinearGaussian, part: Pattern, means: Means) -> Float[Tensor, " trial"]:
    """Return the terms of each trial's log-likelihood that the activity does not enter."""
    per_sample = math.log(2 * math.pi) + model.noise.log()
    if part.mask is None:
        samples = part.seen.sum(1) * per_sample[part.units].sum()
    else:
        samples = part.mask.sum(1).to(per_sample) @ per_sample
    return -0.5 * (samples + means.log_determinants(part.lengths))


def _smooth(
    model: LinearGaussian, activity: Tensor, part: Pattern, means: Means, total: Moments | None = None
) -> Iterator[tuple[int, Float[Tensor, "bin trial latent"], Float[Tensor, "trial latent"]]]:
    """Yield (start, smoothed means, smoothed mean of the bin after) of chunks from the last to the first.

    The filter's means of a long recording are not kept but computed once more, from the state before each chunk.
    Adds to the log-likelihood in ``total`` what depends on the latents.
    """
    latents, counts = len(model.dynamics), part.counts
    chunks = _chunks(part, latents)
    kept: list[tuple[Tensor, Tensor | None]] = []
    keep = part.bins * len(part.lengths) * latents <= KEPT
    predicted = model.initial_mean.expand(len(part.lengths), -1)
    for start, stop in chunks:
        h, _ = _project(model, activity, part, start, stop)
        m = means.filter(h, start, predicted, counts)
        if total is not None:
            for a, b in means.unexplained(h, m, predicted, start, part):
                total.log_likelihood.sub_(torch.dot(a.flatten(), b.flatten()), alpha=0.5)
        kept.append((predicted, m if keep or stop == part.bins else None))
        predicted = m[-1] @ model.dynamics.T
    following = torch.zeros_like(predicted)
    for start, stop in reversed(chunks):
        before, past = kept.pop()
        if past is None:
            past = means.filter(_project(model, activity, part, start, stop)[0], start, before, counts)
        x = means.smooth(past, start, following, counts)
        yield start, x, following
        following = x[0]


def _add_means(model: LinearGaussian, activity: Tensor, part: Pattern, means: Means, total: Moments) -> None:
    """Add what the smoothed means contribute to the moments, and the moments of the activity."""
    latents = len(model.dynamics)
    rows = np.arange(len(part.lengths))
    for start, x, following in _smooth(model, activity, part, means, total):
        stop = start + len(x)
        flat = x.flatten(0, 1)
        second = flat.T @ flat
        ending = (part.lengths > start) & (part.lengths <= stop)
        last = x[part.lengths[ending] - 1 - start, rows[ending]]
        total.before.add_(second - last.T @ last)
        total.after.add_(second)
        total.cross.add_(following.T @ x[-1] + x[1:].flatten(0, 1).T @ x[:-1].flatten(0, 1))
        if start == 0:
            total.initial_sum.add_(x[0].sum(0))
            total.initial_moment.add_(x[0].T @ x[0])
            total.after.sub_(x[0].T @ x[0])
        seen = part.seen[:, start:stop]
        regressors = x.new_empty(*seen.shape, latents + 1)
        regressors[..., latents] = 1.0
        regressors[..., :latents] = x.transpose(0, 1)
        if not bool(seen.all()):
            regressors[~seen] = 0.0
        if part.mask is None:
            flat = regressors.flatten(0, 1)
            total.readout[part.units] += flat.T @ flat
        for who, when, block in residual_blocks(activity, model.offset, part, start, stop):
            inside = regressors[who, when.start - start : when.stop - start].flatten(0, 1)
            total.activity.addmm_(block.T, inside)
            total.squares.addmv_(block.square_().T, block.new_ones(len(block)))
            if part.mask is not None:
                products = (inside[:, :, None] * inside[:, None, :]).flatten(1)
                weights = part.mask[who, when].flatten(0, 1).to(products)
                total.readout.add_((weights.T @ products).view_as(total.readout))


def _add_covariances(pattern: Pattern, means: Means, total: Moments) -> None:
    """Add what the smoothed covariances contribute to the moments, and the numbers of trials and transitions."""
    total.trials.add_(len(pattern.lengths))
    total.transitions.add_(int((pattern.lengths - 1).sum()))
    if pattern.mask is None:
        sums = smoothed_sums(means.matrices, pattern.counts, pattern.seen[0].cpu().numpy())
        first, last, everything, cross = sums.first, sums.last, sums.total, sums.cross
        total.readout[pattern.units, :-1, :-1] += torch.from_numpy(sums.observed).to(total.readout)
    else:
        S = smoothed_covariances(means.matrices, pattern.lengths)
        rows = np.arange(len(S))
        first, last, everything = S[:, 0].sum(0), S[rows, pattern.lengths - 1].sum(0), S.sum((0, 1))
        gains = means.matrices.gain[means.matrices.steps(np.arange(S.shape[1] - 1))].swapaxes(0, 1)
        cross = np.einsum("rtij,rtkj->ik", S[:, 1:], gains)
        flat = torch.from_numpy(S).to(total.readout).flatten(2)
        for mask, values in zip(pattern.mask, flat, strict=True):
            contribution = mask.to(values).T @ values
            total.readout[:, :-1, :-1] += contribution.view(len(contribution), *first.shape)
    for leaf, value in (
        (total.initial_moment, first),
        (total.before, everything - last),
        (total.after, everything - first),
        (total.cross, cross),
    ):
        leaf.add_(torch.from_numpy(value).to(leaf))
