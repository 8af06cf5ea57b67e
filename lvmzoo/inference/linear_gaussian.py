"""Linear dynamical systems with Gaussian emissions: likelihood, posterior, and the sums that EM needs.

    x_1 ~ N(mu, V),   x_{t+1} = A x_t + B u_t + w,  w ~ N(0, Q),   y_t = C x_t + d + D u_t + v,  v ~ N(0, diag(r))

The known inputs u of a bin drive the step to the bin after it; those of a trial's last bin act on its activity alone.
Trials of different lengths, units, bins and single samples that were not observed are handled exactly.

Shumway, Stoffer (1982) J. Time Ser. Anal. 3, 253, doi:10.1111/j.1467-9892.1982.tb00349.x; Ghahramani, Hinton (1996),
Parameter estimation for linear dynamical systems, University of Toronto CRG-TR-96-2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.kalman import smoothed_covariances, smoothed_sums
from lvmzoo.inference.means import Means
from lvmzoo.inference.patterns import Pattern
from lvmzoo.inference.sequences import LinearGaussian, Sequences, filters, together

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


class Moments(NamedTuple):
    """What the M-step needs: sums over trials and bins, additive over batches, sessions and ranks.

    Activity enters as its difference from what the offsets d and the feedthrough D of the parameters say, so that
    nothing cancels. A state is [x, u], a regressor [x, u, 1], where u are the known inputs, if there are any.
    """

    log_likelihood: Float[Tensor, ""]
    bins: Float[Tensor, ""]  # valid ones
    trials: Float[Tensor, ""]
    transitions: Float[Tensor, ""]
    initial_sum: Float[Tensor, " latent"]  # E x_1
    initial_moment: Float[Tensor, "latent latent"]  # E x_1 x_1'
    before: Float[Tensor, "state state"]  # E [x_t, u_t] [x_t, u_t]' of the bins that another follows
    after: Float[Tensor, "latent latent"]  # E x_t x_t' of the bins that follow another
    cross: Float[Tensor, "latent state"]  # E x_{t+1} [x_t, u_t]'
    squares: Float[Tensor, " unit"]  # (y - d - D u)^2
    activity: Float[Tensor, "unit regressor"]  # (y - d - D u) E [x, u, 1]'
    readout: Float[Tensor, "unit regressor regressor"]  # E [x, u, 1] [x, u, 1]' of the bins that show the unit


def expectations(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Moments:
    """Return the posterior expectations of the sufficient statistics, and the log-likelihood (the E-step)."""
    total = zero_moments(model)
    total.bins.add_(valid.sum())
    quadratic = torch.zeros_like(total.log_likelihood)
    for pattern, means, parts in together(model, activity, valid, observed, inputs):
        _add_covariances(pattern, means, total)
        for part in parts:
            total.log_likelihood.add_(part.constant_terms().sum())
            _add_means(part, total, quadratic)
    total.log_likelihood.sub_(0.5 * (quadratic + (total.squares / model.noise).sum()))
    return total


def zero_moments(model: LinearGaussian) -> Moments:
    """Return the sums over no data."""
    zeros = model.dynamics.new_zeros
    units, latents = model.readout.shape
    state = latents + (0 if model.drive is None else model.drive.shape[1])
    return Moments(
        log_likelihood=zeros(()),
        bins=zeros(()),
        trials=zeros(()),
        transitions=zeros(()),
        initial_sum=zeros(latents),
        initial_moment=zeros(latents, latents),
        before=zeros(state, state),
        after=zeros(latents, latents),
        cross=zeros(latents, state),
        squares=zeros(units),
        activity=zeros(units, state + 1),
        readout=zeros(units, state + 1, state + 1),
    )


def log_likelihood(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Float[Tensor, " trial"]:
    """Return the log-likelihood of what is observed in each trial, in nats; 0 for trials without a valid bin."""
    result = model.dynamics.new_zeros(len(valid))
    for _, _, parts in together(model, activity, valid, observed, inputs):
        for sequences in parts:
            value = sequences.constant_terms()
            for stretch in sequences.filter(squares=True):
                value -= 0.5 * stretch.squares
                for a, b in sequences.unexplained(stretch):
                    value -= 0.5 * (a * b).sum((0, 2))
            result[sequences.part.rows] = value
    return result


def filtered_means(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Float[Tensor, "trial bin latent"]:
    """Return E(x_t | bins up to t); zero after a trial's last valid bin."""
    result = model.dynamics.new_zeros((*valid.shape, len(model.dynamics)))
    for _, _, parts in together(model, activity, valid, observed, inputs):
        for sequences in parts:
            for stretch in sequences.filter():
                bins = slice(stretch.start, stretch.start + len(stretch.m))
                result[sequences.part.rows, bins] = stretch.m.transpose(0, 1)
    return result


def smoothed_means(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Float[Tensor, "trial bin latent"]:
    """Return E(x_t | all bins); zero after a trial's last valid bin."""
    result = model.dynamics.new_zeros((*valid.shape, len(model.dynamics)))
    for _, _, parts in together(model, activity, valid, observed, inputs):
        for sequences in parts:
            for start, x, _ in sequences.smooth():
                result[sequences.part.rows, start : start + len(x)] = x.transpose(0, 1)
    return result


def smoothed_covariance(
    model: LinearGaussian, valid: Bool[Tensor, "trial bin"], observed: Bool[Tensor, "trial bin unit"]
) -> Float[Tensor, "trial bin latent latent"]:
    """Return Cov(x_t | all bins), which neither activity nor inputs enter; zero after a trial's last valid bin."""
    latents = len(model.dynamics)
    result = model.dynamics.new_zeros((*valid.shape, latents, latents))
    for pattern, means, _ in filters(model, valid, observed):
        if means.shared:  # trials of equal length share their covariances, too
            lengths, row = np.unique(pattern.lengths, return_inverse=True)
        else:
            lengths, row = pattern.lengths, np.arange(len(pattern.lengths))
        values = torch.from_numpy(smoothed_covariances(means.matrices, lengths)).to(result)
        result[pattern.rows, : pattern.bins] = values[torch.from_numpy(row).to(result.device)]
    return result


def _add_means(sequences: Sequences, total: Moments, quadratic: Float[Tensor, ""]) -> None:
    """Add what the smoothed means contribute to the moments, and the moments of the activity and of known inputs."""
    part = sequences.part
    rows = np.arange(len(part.lengths))
    for start, x, following in sequences.smooth(quadratic):
        stop = start + len(x)
        inputs = sequences.inputs(start, stop)
        state = x if inputs is None else torch.cat([x, inputs], -1)
        flat = state.flatten(0, 1)
        ending = (part.lengths > start) & (part.lengths <= stop)
        last = state[part.lengths[ending] - 1 - start, rows[ending]]
        second = flat.T @ flat
        total.before.add_(second - last.T @ last)
        total.after.add_(second[: x.shape[-1], : x.shape[-1]])
        total.cross.add_(following.T @ state[-1] + x[1:].flatten(0, 1).T @ state[:-1].flatten(0, 1))
        if start == 0:
            total.initial_sum.add_(x[0].sum(0))
            total.initial_moment.add_(x[0].T @ x[0])
            total.after.sub_(x[0].T @ x[0])
        seen = part.seen[:, start:stop]
        regressors = x.new_empty(*seen.shape, state.shape[-1] + 1)
        regressors[..., -1] = 1.0
        regressors[..., :-1] = state.transpose(0, 1)
        if not bool(seen.all()):
            regressors[~seen] = 0.0
        if part.mask is None:
            flat = regressors.flatten(0, 1)
            total.readout[part.units] += flat.T @ flat
        for who, when, block in sequences.residuals(start, stop):
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
    latents = slice(0, means.filtered.shape[-1])
    if pattern.mask is None:
        sums = smoothed_sums(means.matrices, pattern.counts, pattern.seen[0].cpu().numpy())
        first, last, everything, cross = sums.first, sums.last, sums.total, sums.cross
        total.readout[pattern.units, latents, latents] += torch.from_numpy(sums.observed).to(total.readout)
    else:
        S = smoothed_covariances(means.matrices, pattern.lengths)
        rows = np.arange(len(S))
        first, last, everything = S[:, 0].sum(0), S[rows, pattern.lengths - 1].sum(0), S.sum((0, 1))
        gains = means.matrices.gain[means.matrices.steps(np.arange(S.shape[1] - 1))].swapaxes(0, 1)
        cross = np.einsum("rtij,rtkj->ik", S[:, 1:], gains)
        flat = torch.from_numpy(S).to(total.readout).flatten(2)
        for mask, values in zip(pattern.mask, flat, strict=True):
            contribution = mask.to(values).T @ values
            total.readout[:, latents, latents] += contribution.view(len(contribution), *first.shape)
    for leaf, value in (
        (total.initial_moment, first),
        (total.before[latents, latents], everything - last),
        (total.after, everything - first),
        (total.cross[:, latents], cross),
    ):
        leaf.add_(torch.from_numpy(value).to(leaf))
