"""Processes with delays seen through linear readouts: likelihood, posterior, and the sums that a fit needs.

Trials of any length; units, bins and single samples that were not observed are handled exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.delayed_posterior import Posterior, residuals
from lvmzoo.inference.delayed_processes import DelayedProcesses, Features
from lvmzoo.inference.delayed_slopes import Slopes
from lvmzoo.inference.gaussian_process_posterior import groups

__all__ = [
    "Sums",
    "activity_of",
    "draw",
    "expectations",
    "log_likelihood",
    "posterior_means",
    "posterior_moments",
    "zero_sums",
]

SIMILAR = 0.75  # of the length for which features were made: shorter trials need fewer


class Sums(NamedTuple):
    """What an update needs: sums over trials and bins, additive over batches, sessions and ranks.

    Activity enters as its difference from the offsets d of the parameters, so that nothing cancels. A *shape* is a log
    timescale or a delay: timescales in the order of the processes, then delays in bins, region by region.
    """

    log_likelihood: Float[Tensor, ""]
    bins: Float[Tensor, ""]  # valid ones
    squares: Float[Tensor, " unit"]  # (y - d)^2
    activity: Float[Tensor, "unit column_and_one"]  # (y - d) E [x, 1]'
    readout: Float[Tensor, "unit column_and_one column_and_one"]  # E [x, 1] [x, 1]' of the bins that show the unit
    slope: Float[Tensor, " shape"]  # derivative of the log-likelihood
    information: Float[Tensor, "shape shape"]  # Fisher information; zeros where it was not asked for


def zero_sums(model: DelayedProcesses) -> Sums:
    """Return the sums over no data."""
    zeros, (units, columns) = model.offset.new_zeros, model.readout.shape
    shapes = len(model.timescales) + model.delays.numel()
    return Sums(
        log_likelihood=zeros(()),
        bins=zeros(()),
        squares=zeros(units),
        activity=zeros(units, columns + 1),
        readout=zeros(units, columns + 1, columns + 1),
        slope=zeros(shapes),
        information=zeros(shapes, shapes),
    )


class _ByLength:
    """Features of trials by their length; trials come by length, longest first."""

    def __init__(self, model: DelayedProcesses) -> None:
        self._model = model
        self._kept: Features | None = None

    def __call__(self, bins: int) -> Features:
        """Return the first rows of longer trials' features, where these are not much longer, or new ones."""
        if self._kept is None or not SIMILAR * self._kept.bins <= bins <= self._kept.bins:
            self._kept = Features(self._model, bins)
        return self._kept if self._kept.bins == bins else self._kept.cut(bins)


def expectations(
    model: DelayedProcesses,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    information: bool = True,
    rough: bool = False,
) -> Sums:
    """Return the posterior expectations of the sufficient statistics, and the log-likelihood with its derivatives.

    Parameters
    ----------
    model, activity, valid, observed : of one session.
    information : whether to compute the Fisher information.
    rough : trials of similar length share features, and complete ones what a bin tells: will do for steps of a search.
    """
    total = zero_sums(model)
    total.bins.add_(valid.sum())
    # Exact sums must not depend on which trials come together: their features are those of their own length.
    features: Callable[[int], Features] = _ByLength(model) if rough else partial(Features, model)
    known: Tensor | None = None  # Fisher information of a bin of the longest complete trials
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features(pattern.bins))
        trials = len(pattern.lengths)
        total.log_likelihood.add_(trials * posterior.constant())
        inverse = posterior.inverse()
        slopes = Slopes(posterior)
        moment = torch.zeros_like(total.readout[0]).expand(len(model.regions), -1, -1).clone()
        covariances = None if posterior.complete else posterior.covariances(inverse)
        for _, block in residuals(model, activity, pattern):
            solution = posterior.solve(block)
            total.log_likelihood.add_(0.5 * solution.quadratic.sum())
            slopes.add(solution)
            x = torch.cat([solution.x, torch.ones_like(solution.x[..., :1])], -1)
            for region, units in enumerate(model.regions):
                rows = x[:, :, region].flatten(0, 1)
                total.activity[units].addmm_(block[..., units].flatten(0, 1).T, rows)
                if covariances is None:
                    moment[region].addmm_(rows.T, rows)
                else:
                    products = x[:, :, region, :, None] * x[:, :, region, None, :]
                    products[..., :-1, :-1] += covariances[:, region]
                    shown = posterior.shown[:, units].to(products)
                    total.readout[units] += (shown.T @ products.sum(0).flatten(1)).unflatten(1, moment.shape[1:])
            total.squares.add_(block.flatten(0, 1).square_().sum(0))
        if covariances is None:
            moment[:, :-1, :-1] += trials * posterior.covariance_sums(inverse)
            for region, units in enumerate(model.regions):
                total.readout[units] += moment[region] * posterior.shown[units, None, None]
        total.slope.add_(slopes.total(inverse, trials))
        if information:
            if not rough or not posterior.complete or known is None:
                known = slopes.information(inverse) / pattern.bins
            total.information.add_(known, alpha=trials * pattern.bins)
    total.log_likelihood.sub_(0.5 * (total.squares / model.noise).sum())
    return total


def log_likelihood(
    model: DelayedProcesses,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, " trial"]:
    """Return the log-likelihood of what is observed in each trial, in nats; 0 for trials without a valid bin."""
    result = model.offset.new_zeros(len(valid))
    features = _ByLength(model)
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features(pattern.bins))
        constant = posterior.constant()
        for rows, block in residuals(model, activity, pattern):
            explained = posterior.solve(block).quadratic
            result[rows] = constant + 0.5 * (explained - block.square_().sum(1) @ (1 / model.noise))
    return result


def posterior_means(
    model: DelayedProcesses,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin region column"]:
    """Return the expected processes as each region sees them, given all bins; zero after a trial's last valid bin."""
    columns = model.readout.shape[1]
    result = model.offset.new_zeros((*valid.shape, len(model.delays), columns))
    features = _ByLength(model)
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features(pattern.bins))
        for rows, block in residuals(model, activity, pattern):
            result[rows, : pattern.bins] = posterior.solve(block).x
    return result


def posterior_moments(
    model: DelayedProcesses,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    places: list[tuple[int, int]],
) -> tuple[Float[Tensor, "trial bin place"], Float[Tensor, "trial bin place place"]]:
    """Return mean and covariance of processes as seen at (region, column) places, in each bin given all bins."""
    means = model.offset.new_zeros((*valid.shape, len(places)))
    covariances = model.offset.new_zeros((*valid.shape, len(places), len(places)))
    features = _ByLength(model)
    regions, columns = ([place[k] for place in places] for k in (0, 1))
    for pattern in groups(valid, observed):
        posterior = Posterior(model, pattern, features(pattern.bins))
        covariances[pattern.rows, : pattern.bins] = posterior.joint_covariances(posterior.inverse(), places)
        for rows, block in residuals(model, activity, pattern):
            means[rows, : pattern.bins] = posterior.solve(block).x[:, :, regions, columns]
    return means, covariances


def draw(
    model: DelayedProcesses, trials: int, bins: int, seed: int
) -> tuple[Float[Tensor, "trial bin region column"], Float[Tensor, "trial bin unit"]]:
    """Draw processes as each region sees them, and activity, of new trials."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(model.offset.device)

    x = normal(trials, bins, len(model.delays), model.readout.shape[1]) * model.nugget**0.5
    noise = normal(trials, bins, len(model.offset)) * model.noise.sqrt()
    if bins:
        features = Features(model, bins)
        weights = normal(features.count, trials)
        for region, seen in enumerate(features.seen):
            for column, s in enumerate(seen.slices):
                x[:, :, region, column] += (seen.values[:, s] @ weights[seen.place[s]]).T
    return x, activity_of(model, x) + noise


def activity_of(
    model: DelayedProcesses, x: Float[Tensor, "trial bin region column"]
) -> Float[Tensor, "trial bin unit"]:
    """Return the activity that is expected of processes as each region sees them."""
    activity = model.offset.expand(*x.shape[:2], -1).clone()
    for region, units in enumerate(model.regions):
        activity[..., units] += x[:, :, region] @ model.readout[units].T
    return activity
