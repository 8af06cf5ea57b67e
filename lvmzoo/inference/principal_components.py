r"""Principal components with units that are not observed, and how much variance units share in them.

Probabilistic PCA (Tipping, Bishop 1999, doi:10.1111/1467-9868.00196) is factor analysis with equal private noise: its
covariance :math:`V \Lambda V' + \sigma^2 (I - V V')` says what to expect of a unit given the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.inference.factor_analysis import positive
from lvmzoo.inference.kernel_smoothing import smooth
from lvmzoo.inference.pieces import Piece, joined, mean_of_seen
from lvmzoo.inference.shared_variance import SharedVariance, nothing_shared, number_of_latents, share_and_dimensions

__all__ = ["Components", "Moments", "components", "moments", "project", "shared_variance"]


class Moments(NamedTuple):
    """Sums around a shift, over the bins in which both units of a pair were observed."""

    pairs: Float[Tensor, "unit unit"]
    activity: Float[Tensor, "unit unit"]  # of the first
    products: Float[Tensor, "unit unit"]
    raw: Float[Tensor, " unit"]  # of the activity as it was recorded, where it was observed
    raw_bins: Float[Tensor, " unit"]


class Components(NamedTuple):
    """Orthonormal directions of largest variance, and the variance in the others."""

    mean: Float[Tensor, " unit"]
    vectors: Float[Tensor, "unit latent"]
    variances: Float[Tensor, " latent"]
    rest: Float[Tensor, ""]  # mean variance of the other directions


def moments(
    values: Float[Tensor, "bin unit"],
    there: Bool[Tensor, "bin unit"],
    shift: Float[Tensor, " unit"],
    raw: Float[Tensor, "bin unit"],
    seen: Bool[Tensor, "bin unit"],
) -> Moments:
    """Return the sums of one batch."""
    centered = torch.where(there, values - shift, 0.0)
    recorded = torch.where(seen, raw, 0.0).sum(0), seen.sum(0).to(values.dtype)
    if bool(there.all()):
        pairs = shift.new_full((len(shift), len(shift)), float(len(values)))
        return Moments(pairs, centered.sum(0)[:, None].expand_as(pairs).clone(), centered.T @ centered, *recorded)
    shown = there.to(values.dtype)
    return Moments(shown.T @ shown, centered.T @ shown, centered.T @ centered, *recorded)


def components(sums: Moments, shift: Float[Tensor, " unit"], latents: int) -> Components:
    """Return the leading eigenvectors of the covariance, largest first, the largest loading of each positive."""
    above = sums.activity.diagonal() / sums.pairs.diagonal().clamp(min=1)
    pairs = sums.pairs.clamp(min=1)
    cross = above[:, None] * sums.activity.mT + sums.activity * above
    covariance = (sums.products - cross) / pairs + torch.outer(above, above) * (sums.pairs > 0)
    return _leading(shift + above, covariance, latents)


def _leading(mean: Tensor, covariance: Tensor, latents: int) -> Components:
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    latents = min(latents, len(values))
    rest = values[latents:].mean() if latents < len(values) else values.new_zeros(())
    rest = rest.clamp(min=max(1e-9 * float(values.mean()), 1e-30))
    return Components(mean, positive(vectors[:, :latents]), values[:latents], rest)


def project(
    found: Components, values: Float[Tensor, "bin unit"], there: Bool[Tensor, "bin unit"]
) -> Float[Tensor, "bin latent"]:
    """Return the expected projection on the components given the units that are there; exact where all are."""
    residual = torch.where(there, values - found.mean, 0.0)
    if bool(there.all()):
        return residual @ found.vectors
    projected = residual @ found.vectors
    loadings = found.vectors * (found.variances - found.rest).clamp(min=0).sqrt()
    patterns, which = torch.unique(there, dim=0, return_inverse=True)
    identity = torch.eye(loadings.shape[1], dtype=values.dtype, device=values.device)
    for index, shown in enumerate(patterns):
        if bool(shown.all()):
            continue
        rows = which == index
        seen, hidden = loadings[shown], loadings[~shown]
        latents = torch.linalg.solve(found.rest * identity + seen.T @ seen, seen.T @ residual[rows][:, shown].T)
        projected[rows] += (hidden @ latents).T @ found.vectors[~shown]
    return projected


def shared_variance(found: Sequence[Piece], fold: Int[Tensor, " piece"], width: float) -> SharedVariance:
    """Return the shared variance of the smoothed activity by components of all folds but one.

    The number of components is the one with which units in the fold left out, not smoothed, are predicted best from
    the smoothed activity of the other units. What was not observed is the unit's mean here.

    Parameters
    ----------
    found : pieces of the training data, transformed as the components will see them.
    fold : that each piece belongs to.
    width : standard deviation of the Gaussian, in bins.
    """
    raw, seen, of_bin = joined(found, fold)
    smoothed = [smooth(piece.activity[None], piece.seen[None], width) for piece in found]
    values = torch.cat([value[0] for value, _ in smoothed])
    there = torch.cat([where[0] for _, where in smoothed])
    numbers = fold.unique()
    if len(numbers) < 2 or raw.shape[1] < 2:
        return nothing_shared(raw)
    folds = [_Fold(raw, seen, values, there, of_bin == number) for number in numbers]
    latents = number_of_latents(partial(_mean, folds), raw.shape[1])
    rows = [(*one.share(latents), one.predicted(latents)) for one in folds]
    return SharedVariance(raw.new_tensor(float(latents)), *(raw.new_tensor(c) for c in zip(*rows, strict=True)))


class _Fold:
    """Components of all bins but some, and how well these predict units from others in the bins left out."""

    def __init__(self, raw: Tensor, seen: Tensor, values: Tensor, there: Tensor, held: Tensor) -> None:
        rest = ~held
        self._raw_mean = mean_of_seen(raw[rest], seen[rest])
        mean = mean_of_seen(values[rest], there[rest])
        centered = torch.where(there, values - mean, 0.0)
        covariance = centered[rest].T @ centered[rest] / max(1, int(rest.sum()))
        self._all = _leading(mean, covariance, len(mean))
        self._values, self._seen = centered[held], seen[held]
        self._truth = torch.where(self._seen, raw[held] - self._raw_mean, 0.0)
        self.bins = int(held.sum())

    def predicted(self, latents: int) -> float:
        """Return the R2 of units from the others, weighted by their variance."""
        loadings, noise = self._split(latents)
        weights = loadings / (loadings.square().sum(0) + noise).sqrt()
        precision_diagonal = 1 - weights.square().sum(1)  # both times the noise
        projected = self._values - (self._values @ weights) @ weights.T
        expected = self._values - projected / precision_diagonal.clamp(min=1e-12)
        error = torch.where(self._seen, self._truth - expected, 0.0).square().sum(0)
        return 1 - float(error.sum() / self._truth.square().sum().clamp(min=1e-30))

    def share(self, latents: int) -> tuple[float, float]:
        """Return the share of the smoothed activity's variance that is shared, and its dimensions."""
        loadings, noise = self._split(latents)
        return share_and_dimensions(loadings, noise.expand(len(loadings)))

    def _split(self, latents: int) -> tuple[Tensor, Tensor]:
        values = self._all.variances
        noise = values[latents:].mean() if latents < len(values) else values.new_zeros(())
        noise = noise.clamp(min=max(1e-9 * float(values.mean()), 1e-30))
        return self._all.vectors[:, :latents] * (values[:latents] - noise).clamp(min=0).sqrt(), noise


def _mean(folds: Sequence[_Fold], latents: int) -> float:
    return sum(one.predicted(latents) * one.bins for one in folds) / sum(one.bins for one in folds)
