"""Canonical correlations of two regions from second moments, in batches: whiten, decompose, correlate held-out data.

Regions enter with nuisance columns beside their units: a constant, and slow drift. Moments of the widened regions are
additive over trials, and the regression on the nuisance columns follows from those of the training data alone.
Hotelling (1936), Relations between two sets of variates, doi:10.1093/biomet/28.3-4.321; shrinkage: Vinod (1976),
doi:10.1016/0304-4076(76)90010-5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Correlated", "Pairs", "Regularization", "canonical_pairs", "held_out", "pooled", "projection", "whitening"]


ROUNDING = 1e-12  # of a mean square, below which a variance is what subtracting the mean leaves by rounding


class Regularization(NamedTuple):
    """How a region is whitened where its covariance is poorly known."""

    kind: str = "shrinkage"  # or "pca"
    amount: float | Float[Tensor, " fold"] = 0.0  # variance added, in mean variances of a unit; or share of it kept


class Pairs(NamedTuple):
    """Canonical pairs, best first: weights of the widened regions, of unit variance in the training data."""

    x: Float[Tensor, "*set x pair"]
    y: Float[Tensor, "*set y pair"]
    correlation: Float[Tensor, "*set pair"]  # in the training data: too high


class Correlated(NamedTuple):
    """What a set of held-out data says of canonical pairs; sums over sets give the correlation of all of them."""

    covariance: Float[Tensor, "*set pair"]
    variance_x: Float[Tensor, "*set pair"]
    variance_y: Float[Tensor, "*set pair"]


def whitening(
    covariance: Float[Tensor, "*set unit unit"],
    regularization: Regularization,
    power: Float[Tensor, "*#set"] | None = None,
) -> Float[Tensor, "*set unit unit"]:
    """Return in its columns weights whose projections are uncorrelated and of unit variance, where regularized.

    Directions without variance, and those beyond the share of variance that PCA keeps, have no weight.

    Parameters
    ----------
    covariance : of the units.
    regularization : of the whitening.
    power : largest mean square of a unit before its mean was subtracted, which says how much of the covariance may be
        rounding; None: there was no mean.
    """
    variance, axes = torch.linalg.eigh(covariance)
    variance, axes = variance.flip(-1).clamp(min=0), axes.flip(-1)
    floor = variance[..., :1] * variance.shape[-1] * torch.finfo(variance.dtype).eps
    if power is not None:
        floor = torch.maximum(floor, ROUNDING * power[..., None])
    amount = torch.as_tensor(regularization.amount, dtype=variance.dtype, device=variance.device)
    while amount.ndim and amount.ndim < variance.ndim:
        amount = amount[..., None]
    kept = variance > floor
    if regularization.kind == "pca":
        before = variance.cumsum(-1) - variance
        kept &= before < amount * variance.sum(-1, keepdim=True)
    else:
        variance = variance + amount * variance.mean(-1, keepdim=True)
    return axes * torch.where(kept, variance.clamp(min=1e-300).rsqrt(), 0.0)[..., None, :]


def projection(
    moments: Float[Tensor, "*set all all"], nuisance: int, regularization: Regularization, levels: int = 0
) -> Float[Tensor, "*set wide unit"]:
    """Return weights of the widened region that take its nuisance out and whiten the rest.

    Parameters
    ----------
    moments : sums of products over the training data of units and, after them, nuisance columns of which the first is
        the constant, and columns that tell conditions apart.
    nuisance : number of nuisance columns.
    regularization : of the whitening.
    levels : number of columns that tell conditions apart. They take part in the regression, so that drift is not
        fitted to the order in which conditions came, and their means stay.
    """
    units = moments.shape[-1] - nuisance - levels
    inner = moments[..., units:, units:]
    scale = inner.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-300)
    eye = torch.eye(nuisance + levels, dtype=moments.dtype, device=moments.device)
    slope = torch.linalg.solve(inner + 1e-12 * scale[..., None, None] * eye, moments[..., units:, :units])
    unit = torch.eye(units, dtype=moments.dtype, device=moments.device).expand(*moments.shape[:-2], units, units)
    residual = torch.cat([unit, -slope[..., :nuisance, :]], -2)
    wide = moments[..., : units + nuisance, : units + nuisance]
    bins = moments[..., units, units].clamp(min=1)[..., None, None]
    mean = residual.mT @ wide[..., units, None] / bins  # of conditions beside the first
    covariance = residual.mT @ wide @ residual / bins - mean @ mean.mT
    power = moments.diagonal(dim1=-2, dim2=-1)[..., :units].amax(-1) / bins[..., 0, 0]
    return residual @ whitening(covariance, regularization, power)


def canonical_pairs(
    cross: Float[Tensor, "*set x y"],
    x: Float[Tensor, "*#set x unit_x"],
    y: Float[Tensor, "*#set y unit_y"],
    nuisance: int,
    pairs: int,
) -> Pairs:
    """Return the leading canonical pairs from one decomposition of each whitened covariance between regions.

    Parameters
    ----------
    cross : sums of products of two widened regions.
    x, y : their projections.
    nuisance : number of nuisance columns, of which the first is the constant.
    pairs : number of pairs wanted; fewer where a region has fewer units.
    """
    one_x, one_y = x.shape[-2] - nuisance, y.shape[-2] - nuisance
    bins = cross[..., one_x, one_y].clamp(min=1)[..., None, None]
    mean_x, mean_y = x.mT @ cross[..., :, one_y, None] / bins, y.mT @ cross[..., one_x, :, None] / bins
    white = x.mT @ cross @ y / bins - mean_x @ mean_y.mT
    u, correlation, vh = torch.linalg.svd(white, full_matrices=False)
    pairs = min(pairs, correlation.shape[-1])
    return Pairs(x @ u[..., :pairs], y @ vh.mT[..., :pairs], correlation[..., :pairs])


def held_out(
    pairs: Pairs,
    cross: Float[Tensor, "*set x y"],
    within_x: Float[Tensor, "*#set all_x all_x"],
    within_y: Float[Tensor, "*#set all_y all_y"],
    nuisance: int,
) -> Correlated:
    """Return covariance and variances of canonical variates in data that their weights have not seen.

    Parameters
    ----------
    pairs : weights from the training data.
    cross, within_x, within_y : sums of products over the held-out data; further columns do not matter.
    nuisance : number of nuisance columns, of which the first is the constant.
    """
    a, b = pairs.x, pairs.y
    one_x, one_y = a.shape[-2] - nuisance, b.shape[-2] - nuisance
    bins = cross[..., one_x, one_y].clamp(min=1)[..., None]
    sum_x = (a * cross[..., :, one_y, None]).sum(-2)
    sum_y = (b * cross[..., one_x, :, None]).sum(-2)
    within_x, within_y = (m[..., : w.shape[-2], : w.shape[-2]] for m, w in ((within_x, a), (within_y, b)))
    covariance = ((a.mT @ cross) * b.mT).sum(-1) / bins - sum_x * sum_y / bins**2
    present = cross[..., one_x, one_y, None]  # weighs what sets say by their bins
    return Correlated(
        covariance * present, _variance(a, within_x, one_x) * present, _variance(b, within_y, one_y) * present
    )


def pooled(correlated: Correlated, dim: int = 0) -> Float[Tensor, ...]:
    """Return the correlation over all held-out sets; zero where a variate does not vary."""
    covariance, x, y = (part.sum(dim) for part in correlated)
    scale = (x * y).clamp(min=0).sqrt()
    found = torch.where(scale > 0, covariance / scale.clamp(min=1e-300), 0.0)
    return found.clamp(-1.0, 1.0)


def _variance(
    weights: Float[Tensor, "*set wide pair"], moments: Float[Tensor, "*#set wide wide"], one: int
) -> Float[Tensor, "*set pair"]:
    bins = moments[..., one, one].clamp(min=1)[..., None]
    mean = (weights * moments[..., :, one, None]).sum(-2) / bins
    return (((weights.mT @ moments) * weights.mT).sum(-1) / bins - mean**2).clamp(min=0)
