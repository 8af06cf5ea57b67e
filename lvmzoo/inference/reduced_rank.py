"""Reduced-rank regression from second moments: every rank, ridge and fold from one decomposition a fold.

The coefficients ``B = (Sxx + ridge I)^-1 Sxy`` are projected on the eigenvectors ``V`` of ``Sxy' B``; the held-out
error of rank ``r`` is a cumulative sum over the columns of ``B V``, so that no prediction is formed.
Izenman (1975), doi:10.1016/0047-259X(75)90042-1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Moments", "around_training", "explained_by_rank", "fold_moments", "solve", "spectrum_of"]


class Moments(NamedTuple):
    """Sums over the bins of each fold of source ``x`` and target ``y``, both shifted by the training mean."""

    bins: Float[Tensor, " fold"]
    x: Float[Tensor, "fold source"]
    y: Float[Tensor, "fold target"]
    xx: Float[Tensor, "fold source source"]
    xy: Float[Tensor, "fold source target"]
    yy: Float[Tensor, " fold"]  # trace


def fold_moments(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the sums of one fold, in the order of the leaves of :class:`Moments` after the first."""
    return x.sum(0), y.sum(0), x.mT @ x, x.mT @ y, (y * y).sum()


class Spectrum(NamedTuple):
    """Eigenvectors of the source's covariance, and the covariance with the target in their coordinates."""

    variance: Float[Tensor, "fold source"]
    axes: Float[Tensor, "fold source source"]
    rotated: Float[Tensor, "fold source target"]


def spectrum_of(moments: Moments) -> Spectrum:
    """Return what the solutions of all ridges share."""
    xx = moments.xx - moments.x[:, :, None] * moments.x[:, None] / moments.bins[:, None, None]
    xy = moments.xy - moments.x[:, :, None] * moments.y[:, None] / moments.bins[:, None, None]
    variance, axes = torch.linalg.eigh(xx)
    return Spectrum(variance, axes, axes.mT @ xy)


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
    """Return the moments of the held-out folds around the training means."""
    mean_x, mean_y = training.x / training.bins[:, None], training.y / training.bins[:, None]
    off_x, off_y = held_out.x - held_out.bins[:, None] * mean_x, held_out.y - held_out.bins[:, None] * mean_y
    xx = held_out.xx - mean_x[:, :, None] * held_out.x[:, None] - off_x[:, :, None] * mean_x[:, None]
    xy = held_out.xy - mean_x[:, :, None] * held_out.y[:, None] - off_x[:, :, None] * mean_y[:, None]
    yy = held_out.yy - (mean_y * (held_out.y + off_y)).sum(1)
    return HeldOut(xx, xy, yy)


def explained_by_rank(spectrum: Spectrum, held_out: HeldOut, ridge: float) -> Float[Tensor, "fold rank"]:
    """Return 1 - NSE of each held-out fold by rank, from 0, around the training mean; no prediction is formed."""
    encode, readout = solve(spectrum, ridge)
    gain = (encode * (2 * held_out.xy @ readout.mT - held_out.xx @ encode)).sum(1)
    gain = torch.cat([torch.zeros_like(gain[:, :1]), gain.cumsum(1)], 1)
    return gain / held_out.yy.clamp(min=torch.finfo(gain.dtype).tiny)[:, None]
