"""Reduced-rank regression from second moments: every rank, ridge and fold from one decomposition a fold.

The coefficients ``B = (Sxx + ridge I)^-1 Sxy`` are projected on the eigenvectors ``V`` of ``Sxy' B``; the held-out
error of rank ``r`` is a cumulative sum over the columns of ``B V``, so that no prediction is formed. Bins may belong to
groups (a condition and a place in the trial), each with a mean of its own, which is that of the training folds.
Izenman (1975), doi:10.1016/0047-259X(75)90042-1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "Centered",
    "HeldOut",
    "Moments",
    "around_training",
    "centered",
    "choose_rank",
    "explained_by_rank",
    "fold_moments",
    "held_in",
    "solve",
    "spectrum_of",
]


class Moments(NamedTuple):
    """Sums over the bins of each fold of source ``x`` and target ``y``, both shifted by the training mean."""

    bins: Float[Tensor, "fold group"]
    x: Float[Tensor, "fold group source"]
    y: Float[Tensor, "fold group target"]
    xx: Float[Tensor, "fold source source"]
    xy: Float[Tensor, "fold source target"]
    yy: Float[Tensor, " fold"]  # trace


def fold_moments(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n q"],
    fold: Int[Tensor, " n"],
    folds: int,
    group: Int[Tensor, " n"] | None = None,
    groups: int = 1,
) -> Moments:
    """Return the sums of each fold.

    Parameters
    ----------
    x, y : source and target, shifted so that sums of squares lose no digits.
    fold, folds : of each bin, and their number.
    group, groups : of each bin, and their number; None: one group.
    """
    if bool((fold.diff() < 0).any()):
        order = torch.argsort(fold, stable=True)
        x, y, fold = x[order], y[order], fold[order]
        group = None if group is None else group[order]
    counts = torch.bincount(fold, minlength=folds).tolist()
    parts = list(zip(x.split(counts), y.split(counts), strict=True))
    xx = torch.stack([a.mT @ a for a, _ in parts])
    xy = torch.stack([a.mT @ b for a, b in parts])
    yy = torch.stack([(b * b).sum() for _, b in parts])
    if group is None:
        bins = torch.tensor(counts, dtype=x.dtype, device=x.device)[:, None]
        sums = [torch.stack([values.sum(0) for values in side])[:, None] for side in zip(*parts, strict=True)]
        return Moments(bins, sums[0], sums[1], xx, xy, yy)
    cell = fold * groups + group
    bins = torch.bincount(cell, minlength=folds * groups).to(x).view(folds, groups)
    sums = [
        values.new_zeros(folds * groups, values.shape[1]).index_add_(0, cell, values).view(folds, groups, -1)
        for values in (x, y)
    ]
    return Moments(bins, sums[0], sums[1], xx, xy, yy)


def held_in(moments: Moments) -> Moments:
    """Return for each fold the moments of all others."""
    return Moments(*(leaf.sum(0, keepdim=True) - leaf for leaf in moments))


class Centered(NamedTuple):
    """Moments around the mean of each group."""

    xx: Float[Tensor, "fold source source"]
    xy: Float[Tensor, "fold source target"]


def centered(moments: Moments) -> Centered:
    """Return the moments around the means of their own groups."""
    mean = moments.x / moments.bins.clamp(min=1)[..., None]
    return Centered(moments.xx - mean.mT @ moments.x, moments.xy - mean.mT @ moments.y)


class Spectrum(NamedTuple):
    """Eigenvectors of the source's covariance, and the covariance with the target in their coordinates."""

    variance: Float[Tensor, "fold source"]
    axes: Float[Tensor, "fold source source"]
    rotated: Float[Tensor, "fold source target"]


def spectrum_of(training: Centered) -> Spectrum:
    """Return what the solutions of all ridges share."""
    variance, axes = torch.linalg.eigh(training.xx)
    return Spectrum(variance, axes, axes.mT @ training.xy)


def solve(spectrum: Spectrum, ridge: float) -> tuple[Float[Tensor, "fold p r"], Float[Tensor, "fold r q"]]:
    """Return the factors of the regression of full rank, ordered by what each dimension predicts.

    Directions of the source without variance (silent or duplicated units) get no weight.
    """
    variance, axes, rotated = spectrum
    floor = variance[:, -1:] * variance.shape[1] * torch.finfo(variance.dtype).eps
    inverse = torch.where(variance > floor, 1 / (variance + ridge).clamp(min=floor.clamp(min=1e-300)), 0.0)
    scaled = inverse[..., None] * rotated
    _, directions = torch.linalg.eigh(rotated.mT @ scaled)
    directions = directions.flip(-1)[..., : min(rotated.shape[1:])]
    return axes @ (scaled @ directions), directions.mT


class HeldOut(NamedTuple):
    """Moments of the held-out folds around the means of their training data."""

    xx: Float[Tensor, "fold source source"]
    xy: Float[Tensor, "fold source target"]
    yy: Float[Tensor, " fold"]  # trace


def around_training(training: Moments, held_out: Moments) -> HeldOut:
    """Return the moments of the held-out folds around the training means of each group."""
    bins = training.bins.clamp(min=1)[..., None]
    mean_x, mean_y = training.x / bins, training.y / bins
    off_x, off_y = held_out.x - held_out.bins[..., None] * mean_x, held_out.y - held_out.bins[..., None] * mean_y
    xx = held_out.xx - mean_x.mT @ held_out.x - off_x.mT @ mean_x
    xy = held_out.xy - mean_x.mT @ held_out.y - off_x.mT @ mean_y
    yy = held_out.yy - (mean_y * (held_out.y + off_y)).sum((1, 2))
    return HeldOut(xx, xy, yy)


def explained_by_rank(spectrum: Spectrum, held_out: HeldOut, ridge: float) -> Float[Tensor, "fold rank"]:
    """Return 1 - NSE of each held-out fold by rank, from 0, around the training mean; no prediction is formed."""
    encode, readout = solve(spectrum, ridge)
    return explained_by(encode, readout, held_out)


def explained_by(
    encode: Float[Tensor, "fold p r"], readout: Float[Tensor, "fold r q"], held_out: HeldOut
) -> Float[Tensor, "fold rank"]:
    """Return 1 - NSE of each held-out fold by the number of leading dimensions; their readouts are orthogonal."""
    gain = (encode * (2 * held_out.xy @ readout.mT - held_out.xx @ encode)).sum(1)
    gain = torch.cat([torch.zeros_like(gain[:, :1]), gain.cumsum(1)], 1)
    return gain / held_out.yy.clamp(min=torch.finfo(gain.dtype).tiny)[:, None]


def choose_rank(explained: Float[Tensor, "fold ridge rank"], rule: str) -> tuple[int, int]:
    """Return the column of the ridge and the rank: the best in the mean, or the smallest within its standard error.

    Folds without a finite value are left out; without any the rank is zero.
    """
    explained = explained[explained.isfinite().flatten(1).all(1)]
    if not len(explained):
        return 0, 0
    mean = explained.mean(0)
    column, rank = divmod(int(mean.flatten().argmax()), mean.shape[1])
    if rule == "best" or len(explained) < 2:
        return column, rank
    error = explained[:, column, rank].std() / len(explained) ** 0.5
    within = mean[column] >= mean[column, rank] - error
    return column, int(within.int().argmax())
