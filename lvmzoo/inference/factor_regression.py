"""Factor regression: a target predicted from the leading latents of a factor analysis of the source.

The latents do not know the target: dimensions that the source shares most come first, whether they predict or not.
Everything follows from second moments. Semedo, Zandvakili, Machens, Yu & Kohn (2019),
doi:10.1016/j.neuron.2019.01.026.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.factor_analysis import maximum_likelihood
from lvmzoo.inference.reduced_rank import Centered, HeldOut
from lvmzoo.inference.shared_variance import number_of_latents

__all__ = ["explained_by_factors", "number_of_factors", "solve_factors"]

FLOOR = 1e-6  # smallest private variance, per the mean variance of the units
SEARCH = (200, 1e-9)  # iterations and tolerance of the maximum of the likelihood


def number_of_factors(
    training: Float[Tensor, "fold p p"],
    bins: Float[Tensor, " fold"],
    held_out: Float[Tensor, "fold p p"],
    held_bins: Float[Tensor, " fold"],
) -> int:
    """Return the number of factors with the highest likelihood of the folds left out, from centered sums of products.

    Parameters
    ----------
    training, bins : of the other folds.
    held_out, held_bins : of each fold, around the training mean.
    """
    if training.shape[1] < 2:
        return 1

    def score(number: int) -> float:
        nats = 0.0
        for fold, (scatter, held) in enumerate(zip(training, held_out, strict=True)):
            covariance = scatter / bins[fold]
            loadings, noise = maximum_likelihood(covariance, number, _floor(covariance), None, *SEARCH)
            root = torch.linalg.cholesky(loadings @ loadings.T + torch.diag(noise))
            determinant = held_bins[fold] * (len(noise) * math.log(2 * math.pi) + 2 * root.diagonal().log().sum())
            nats -= 0.5 * float(determinant + (torch.cholesky_inverse(root) * held).sum())
        return nats

    return number_of_latents(score, training.shape[1])


def solve_factors(
    xx: Float[Tensor, "p p"], xy: Float[Tensor, "p q"], bins: float, factors: int
) -> tuple[Float[Tensor, "p r"], Float[Tensor, "r q"]]:
    """Return the map to uncorrelated latents, those of most shared variance first, and the regression on them.

    The leading ones span the posterior means of as many factors. Factors that the data do not need are left out.

    Parameters
    ----------
    xx, xy : centered sums of products.
    bins : their number.
    factors : number of latents.
    """
    covariance = xx / bins
    loadings, noise = maximum_likelihood(covariance, factors, _floor(covariance), None, *SEARCH)
    powers = loadings.square().sum(0)
    loadings = loadings[:, powers > 1e-12 * float(powers.max().clamp(min=1e-300))]
    weights = loadings / noise[:, None]
    identity = torch.eye(loadings.shape[1], dtype=xx.dtype, device=xx.device)
    project = torch.linalg.solve(identity + loadings.T @ weights, weights.T)
    root, failed = torch.linalg.cholesky_ex(project @ xx @ project.T)
    if int(failed) or not loadings.shape[1]:
        return xx.new_zeros(len(xx), 0), xx.new_zeros(0, xy.shape[1])
    encode = torch.linalg.solve_triangular(root, project, upper=False).T
    return encode, encode.T @ xy


def explained_by_factors(
    training: Centered, bins: Float[Tensor, " fold"], held_out: HeldOut, factors: int
) -> Float[Tensor, "fold rank"]:
    """Return 1 - NSE of each held-out fold by the number of leading latents, from 0 to ``factors``."""
    curves = held_out.yy.new_zeros(len(bins), factors + 1)
    for fold, curve in enumerate(curves):
        encode, readout = solve_factors(training.xx[fold], training.xy[fold], float(bins[fold]), factors)
        cross = ((encode.T @ held_out.xy[fold]) * readout).sum(1).cumsum(0)
        square = (encode.T @ held_out.xx[fold] @ encode) * (readout @ readout.T)
        gain = 2 * cross - square.cumsum(0).cumsum(1).diagonal()
        used = len(gain)  # factors that the data do not need add nothing
        curve[1 : used + 1] = gain
        curve[used + 1 :] = curve[used]
    return curves / held_out.yy.clamp(min=torch.finfo(curves.dtype).tiny)[:, None]


def _floor(covariance: Float[Tensor, "p p"]) -> Float[Tensor, " p"]:
    variance = covariance.diagonal()
    return (FLOOR * variance.mean()).clamp(min=1e-12).expand(len(variance)).contiguous()
