"""How much of the variance of activity is shared among units, and in how many dimensions: by cross-validation.

Shares and dimensions after Williamson et al. (2016), PLOS Computational Biology 12, e1005141,
doi:10.1371/journal.pcbi.1005141; prediction of a unit from the others after Yu et al. (2009),
doi:10.1152/jn.90941.2008.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.factor_analysis import maximum_likelihood

__all__ = [
    "CANDIDATES",
    "FoldMoments",
    "SharedVariance",
    "cross_validate",
    "nothing_shared",
    "number_of_latents",
    "share_and_dimensions",
]

CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # numbers of latents
SHARE = 0.95  # of the shared variance that the dimensions explain


class SharedVariance(NamedTuple):
    """What the folds of the training data say; no folds and no latents where nothing can be left out, or shared."""

    latents: Float[Tensor, ""]  # the number that predicts the folds left out best
    share: Float[Tensor, " fold"]  # of the variance of a unit that it shares with others, the mean over units
    dimensions: Float[Tensor, " fold"]  # that explain 95 % of the shared variance
    predicted: Float[Tensor, " fold"]  # R2 of units from the others in the fold left out, weighted by variance


class FoldMoments(NamedTuple):
    """Moments of each fold around the mean of all."""

    bins: Float[Tensor, " fold"]
    activity: Float[Tensor, "fold unit"]
    products: Float[Tensor, "fold unit unit"]


def nothing_shared(like: Float[Tensor, "*any"]) -> SharedVariance:
    """Return what a single unit, or a single fold, says."""
    return SharedVariance(like.new_zeros(()), *(like.new_zeros(0) for _ in range(3)))


def cross_validate(moments: FoldMoments, floor: Float[Tensor, " unit"]) -> SharedVariance:
    """Return the shared variance by factor analysis of the folds but one.

    The number of latents is the one with the highest likelihood of the folds left out.

    Parameters
    ----------
    moments : of the folds.
    floor : smallest private variances.
    """
    used = moments.bins > 1
    if int(used.sum()) < 2 or moments.activity.shape[1] < 2:
        return nothing_shared(moments.bins)
    moments = FoldMoments(*(leaf[used] for leaf in moments))
    whole = FoldMoments(*(leaf.sum(0, keepdim=True) for leaf in moments))
    training = FoldMoments(*(total - leaf for total, leaf in zip(whole, moments, strict=True)))
    mean = training.activity / training.bins[:, None]
    covariance = training.products / training.bins[:, None, None] - mean[:, :, None] * mean[:, None, :]
    held_mean = moments.activity / moments.bins[:, None]
    cross = mean[:, :, None] * held_mean[:, None, :]
    held = moments.products / moments.bins[:, None, None] - cross - cross.mT + mean[:, :, None] * mean[:, None, :]
    starts: list[Tensor | None] = [None] * len(mean)
    results: dict[int, list[tuple[float, float, float, float]]] = {}

    def score(number: int) -> float:
        results[number] = []
        for fold, (train, test) in enumerate(zip(covariance, held, strict=True)):
            loadings, noise = maximum_likelihood(train, number, floor, starts[fold], 30, 1e-7)
            starts[fold] = noise
            results[number].append(_judge(loadings, noise, test))
        weights = (moments.bins / moments.bins.sum()).tolist()
        return sum(w * row[0] for w, row in zip(weights, results[number], strict=True))

    chosen = number_of_latents(score, len(mean[0]))
    _, share, dimensions, predicted = (mean.new_tensor(column) for column in zip(*results[chosen], strict=True))
    return SharedVariance(mean.new_tensor(float(chosen)), share, dimensions, predicted)


def number_of_latents(score: Callable[[int], float], units: int) -> int:
    """Return the number with the highest score; the search ends when it has fallen twice."""
    best, highest, falls = 1, -math.inf, 0
    for number in [number for number in CANDIDATES if number < max(2, units)]:
        value = score(number)
        if value > highest:
            best, highest, falls = number, value, 0
        else:
            falls += 1
        if falls == 2:
            break
    return best


def share_and_dimensions(loadings: Float[Tensor, "unit latent"], noise: Float[Tensor, " unit"]) -> tuple[float, float]:
    """Return the share of a unit's variance that is shared, the mean over units, and the dimensions of 95 % of it."""
    shared = loadings.square().sum(1)
    powers = torch.linalg.eigvalsh(loadings.T @ loadings).flip(0).clamp(min=0)
    if not float(powers.sum()) > 0:
        return 0.0, 0.0
    reached = powers.cumsum(0) >= SHARE * powers.sum() * (1 - 1e-12)
    return float((shared / (shared + noise)).mean()), float(reached.int().argmax() + 1)


def _judge(
    loadings: Float[Tensor, "unit latent"], noise: Float[Tensor, " unit"], held: Float[Tensor, "unit unit"]
) -> tuple[float, float, float, float]:
    """Return the log-likelihood per bin of a fold left out, the shares, and the R2 of each unit from the others."""
    model = loadings @ loadings.T + torch.diag(noise)
    root = torch.linalg.cholesky(model)
    precision = torch.cholesky_inverse(root)
    nats = -0.5 * float(len(noise) * math.log(2 * math.pi) + 2 * root.diagonal().log().sum() + (precision * held).sum())
    error = ((precision @ held) * precision).sum(1) / precision.diagonal().square()
    spread = float(held.diagonal().sum())
    predicted = 1 - float(error.sum()) / spread if spread > 0 else 0.0
    return nats, *share_and_dimensions(loadings, noise), predicted
