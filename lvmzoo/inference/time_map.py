"""Canonical correlations of each time in one region with each time in another, across trials that share a clock.

Each time is whitened once; one matrix product gives the covariances of all pairs of times, and their canonical
correlations are found in batches. Semedo et al. (2022), doi:10.1038/s41467-022-28552-w.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.inference.canonical_correlation import ROUNDING, Regularization, whitening
from lvmzoo.inference.leading import largest_singular_values

__all__ = ["cross_validated_time_map", "less_nuisance", "time_map", "windows"]

SMALLEST_PIVOT = 1e-4  # of a Cholesky factor, as a share of its largest


def time_map(
    x: Float[Tensor, "trial time_x x"], y: Float[Tensor, "trial time_y y"], regularization: Regularization
) -> Float[Tensor, "time_x time_y"]:
    """Return the first canonical correlation of each pair of times in the data it is fitted to, which is too high.

    Parameters
    ----------
    x, y : activity; every sample is used.
    regularization : of the whitening.
    """
    white = [_whitened(part, regularization) for part in (x, y)]
    return largest_singular_values(*white) / len(x)


def cross_validated_time_map(
    x: Float[Tensor, "trial time_x all_x"],
    y: Float[Tensor, "trial time_y all_y"],
    nuisance: int,
    levels: int,
    fold: Int[Tensor, " trial"],
    regularization: Regularization,
) -> Float[Tensor, "time_x time_y"]:
    """Return the first canonical correlation of each pair of times in trials that its weights have not seen.

    Parameters
    ----------
    x, y : widened regions: units, nuisance columns of which the first is one where the sample counts, else zero, and
        columns that tell conditions apart.
    nuisance, levels : their numbers.
    fold : of each trial; correlations are pooled over folds.
    regularization : of the whitening.
    """
    covariance, variance_x, variance_y = (x.new_zeros(()) for _ in range(3))
    for index in fold.unique():
        train = fold != index
        first, second = (less_nuisance(part, nuisance, levels, train) for part in (x, y))
        here = [part[train] for part in (first, second)]
        powers = [_power(part[train][..., : -nuisance - levels]) for part in (x, y)]
        weights = [_weights(part, power, regularization) for part, power in zip(here, powers, strict=True)]
        there = [(part[..., -nuisance - levels] != 0).to(x.dtype) for part in (x, y)]
        common = there[0][train].mT @ there[1][train]
        cross = _products(*(torch.einsum("ntu,tuw->ntw", *pair) for pair in zip(here, weights, strict=True)))
        u, _, vh = torch.linalg.svd(cross / common.clamp(min=1)[..., None, None], full_matrices=False)
        a = torch.einsum("tuw,tsw->tsu", weights[0], u[..., 0])
        b = torch.einsum("suw,tsw->tsu", weights[1], vh[..., 0, :])
        found = _held_out(first[~train], second[~train], there[0][~train], there[1][~train], a, b)
        covariance, variance_x, variance_y = (
            total + part for total, part in zip((covariance, variance_x, variance_y), found, strict=True)
        )
    scale = (variance_x * variance_y).clamp(min=0).sqrt()
    return torch.where(scale > 0, covariance / scale.clamp(min=1e-300), 0.0).clamp(-1.0, 1.0)


def windows(
    z: Float[Tensor, "trial bin all"], others: int, count: int
) -> tuple[Float[Tensor, "trial time all"], Float[Tensor, " time"]]:
    """Return means over windows of the trial that most trials reach, and the middle of each window in bins.

    Parameters
    ----------
    z : a widened region; bins that do not count are zero.
    others : number of columns beside the units, of which the first is the constant.
    count : number of windows wanted; no window is shorter than a bin.
    """
    one = z.shape[-1] - others
    reached = (z[..., one] > 0).to(torch.float64).mean(0) >= 0.5
    bins = int(reached.nonzero().max()) + 1 if bool(reached.any()) else 0
    edges = torch.linspace(0, bins, min(count, bins) + 1, dtype=torch.float64).round().long().tolist()
    parts, middle = [], []
    for start, stop in itertools.pairwise(edges):
        used = z[:, start:stop, one].sum(1, keepdim=True)
        parts.append(z[:, start:stop].sum(1) / used.clamp(min=1))
        middle.append((start + stop - 1) / 2)
    places = torch.tensor(middle, dtype=torch.float64)
    return (torch.stack(parts, 1) if parts else z[:, :0]), places


def less_nuisance(
    z: Float[Tensor, "trial time all"], nuisance: int, levels: int, train: Bool[Tensor, " trial"]
) -> Float[Tensor, "trial time unit"]:
    """Return units less their regression on the nuisance columns over the training trials, at each time.

    Conditions take part in the regression, and their means stay, less the mean of all trials.
    """
    units = z.shape[-1] - nuisance - levels
    values, columns = z[..., :units], z[..., units:]
    used = columns[train].transpose(0, 1)  # time, trial, column
    normal = used.mT @ used
    scale = normal.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-300)
    eye = torch.eye(nuisance + levels, dtype=z.dtype, device=z.device)
    slope = torch.linalg.solve(normal + 1e-12 * scale[:, None, None] * eye, used.mT @ values[train].transpose(0, 1))
    left = values - torch.einsum("ntk,tku->ntu", columns[..., :nuisance], slope[:, :nuisance])
    there = columns[..., :1]
    mean = (left * there)[train].sum(0) / there[train].sum(0).clamp(min=1)
    return (left - mean) * there


def _power(z: Float[Tensor, "trial time unit"]) -> Float[Tensor, " time"]:
    """Return the largest mean square of a unit at each time."""
    return z.square().mean(0).amax(-1)


def _weights(
    z: Float[Tensor, "trial time unit"], power: Float[Tensor, " time"], regularization: Regularization
) -> Float[Tensor, "time unit unit"]:
    """Return the whitening of each time; zero rows do not count."""
    moments = torch.einsum("ntu,ntv->tuv", z, z)
    bins = (z != 0).any(-1).sum(0).clamp(min=1)
    return whitening(moments / bins[:, None, None], regularization, power)


def _whitened(z: Float[Tensor, "trial time unit"], regularization: Regularization) -> Float[Tensor, "time unit trial"]:
    """Return each time, less its mean, whitened: by its Cholesky factor, where that is well conditioned.

    All directions must count, too.
    """
    by_time = z.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    mean = by_time.mean(-1)
    by_time -= mean[..., None]
    covariance = by_time @ by_time.mT / len(z)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    power = (variance + mean.square()).amax(-1)
    if regularization.kind == "shrinkage":
        each = variance.mean(-1)
        amount = torch.as_tensor(regularization.amount, dtype=z.dtype, device=z.device)
        added = covariance + torch.diag_embed((amount * each)[:, None].expand(-1, z.shape[-1]))
        factor, failed = torch.linalg.cholesky_ex(added)
        pivots = factor.diagonal(dim1=-2, dim2=-1)
        sound = (pivots.amin(-1) > SMALLEST_PIVOT * pivots.amax(-1)) & (each > ROUNDING * power)
        if not bool(failed.any()) and bool(sound.all()):
            eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device).expand_as(factor)
            return torch.linalg.solve_triangular(factor, eye, upper=False) @ by_time
    return whitening(covariance, regularization, power).mT @ by_time


def _products(
    x: Float[Tensor, "trial time_x x"], y: Float[Tensor, "trial time_y y"]
) -> Float[Tensor, "time_x time_y x y"]:
    """Return the sums of products of every pair of times, from one matrix product."""
    product = x.flatten(1).mT @ y.flatten(1)
    return product.view(x.shape[1], x.shape[2], y.shape[1], y.shape[2]).transpose(1, 2)


def _held_out(
    x: Float[Tensor, "trial time_x x"],
    y: Float[Tensor, "trial time_y y"],
    there_x: Float[Tensor, "trial time_x"],
    there_y: Float[Tensor, "trial time_y"],
    a: Float[Tensor, "time_x time_y x"],
    b: Float[Tensor, "time_x time_y y"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums over held-out trials that count at both times: covariance and variances of the variates."""
    both = torch.einsum("nt,ns->nts", there_x, there_y)
    left = torch.einsum("ntu,tsu->nts", x, a) * both
    right = torch.einsum("nsu,tsu->nts", y, b) * both
    trials = both.sum(0).clamp(min=1)
    mean_left, mean_right = left.sum(0) / trials, right.sum(0) / trials
    covariance = (left * right).sum(0) - trials * mean_left * mean_right
    variance_left = (left**2).sum(0) - trials * mean_left**2
    variance_right = (right**2).sum(0) - trials * mean_right**2
    return covariance, variance_left, variance_right
