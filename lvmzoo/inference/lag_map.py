"""Cross-validated canonical correlations of two regions by lag within trials.

Each fold's training data are whitened once; every lag has its own decomposition, and its canonical variates are
correlated in the held-out trials. A positive lag: the second region follows the first. All follows from lagged sums of
products, one matrix product a fold for all lags. Semedo, Jasper, Zandvakili et al. (2022), Feedforward and feedback
interactions between visual cortical areas use different population activity patterns, doi:10.1038/s41467-022-28552-w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.inference.canonical_correlation import (
    Correlated,
    Pairs,
    Regularization,
    canonical_pairs,
    held_out,
    pooled,
    projection,
)

__all__ = [
    "LagMap",
    "LaggedProducts",
    "Sums",
    "best_amount",
    "choose",
    "correlations",
    "fold_of_trials",
    "lagged_sums",
    "located",
    "of_one_lag",
    "survivors",
    "widened",
    "without_fold",
]

STACK_ENTRIES = 40_000_000  # of one region's activity at all lags, kept for many products
SMOOTHING = 1.5  # bins, of the profile whose peak is the delay
REACH, STEP = 1.5, 0.01  # bins from the highest sample within which that peak is looked for, and how finely


class Sums(NamedTuple):
    """Sums of products of two widened regions for each fold."""

    cross: Float[Tensor, "fold lag x y"]  # lags from below zero to above
    x: Float[Tensor, "fold all_x all_x"]  # with the columns that tell conditions apart
    y: Float[Tensor, "fold all_y all_y"]


def fold_of_trials(trials: int, folds: int) -> Int[Tensor, " trial"]:
    """Return the fold of each trial: short runs of neighbors, so that each fold sees all of the session's drift."""
    run = max(1, trials // (4 * folds))
    return torch.arange(trials) // run % folds


def widened(
    values: Float[Tensor, "trial bin unit"], usable: Bool[Tensor, "trial bin"], nuisance: Float[Tensor, "trial bin k"]
) -> Float[Tensor, "trial bin wide"]:
    """Return a region with its nuisance columns beside it, and zeros in bins that are not used."""
    return torch.where(usable[..., None], torch.cat([values, nuisance], -1), 0.0)


class LaggedProducts:
    """Lagged sums of products of any first region with a fixed second one, by fold of the trials.

    Parameters
    ----------
    y : the second region, widened; zero where it is not used.
    fold : of each trial.
    folds : their number.
    lags : largest lag, in bins.
    copies : number of such objects that are kept at the same time.
    """

    def __init__(
        self, y: Float[Tensor, "trial bin wide"], fold: Int[Tensor, " trial"], folds: int, lags: int, copies: int = 1
    ) -> None:
        self._y, self._lags, self._bins = y, lags, y.shape[1]
        self._rows = [(fold == index).nonzero()[:, 0] for index in range(folds)]
        small = y.numel() * (2 * lags + 1) * copies <= STACK_ENTRIES
        self._stacks = [self._stack(y[rows]) for rows in self._rows] if small else None

    def within(
        self, values: Float[Tensor, "trial bin wide"], weight: Float[Tensor, " trial"] | None = None
    ) -> Float[Tensor, "fold wide wide"]:
        """Return the sums of products of a region with itself, trials counted ``weight`` times."""
        found = []
        for rows in self._rows:
            part = values[rows]
            scaled = part if weight is None else part * weight[rows, None, None]
            found.append(scaled.flatten(0, 1).mT @ part.flatten(0, 1))
        return torch.stack(found)

    def cross(
        self, x: Float[Tensor, "trial bin x"], weight: Float[Tensor, " trial"] | None = None
    ) -> Float[Tensor, "fold lag x y"]:
        """Return the sums of products of x in a bin and y ``lag`` bins later, trials counted ``weight`` times."""
        lags = 2 * self._lags + 1
        found = x.new_zeros(len(self._rows), lags, x.shape[-1], self._y.shape[-1])
        for index, rows in enumerate(self._rows):
            part = x[rows] if weight is None else x[rows] * weight[rows, None, None]
            if self._stacks is not None:
                product = part.flatten(0, 1).mT @ self._stacks[index]
                found[index] = product.unflatten(1, (lags, -1)).movedim(0, 1)
                continue
            for place in range(lags):
                lag = place - self._lags
                first = part[:, max(0, -lag) : self._bins - max(0, lag)]
                second = self._y[rows, max(0, lag) : self._bins - max(0, -lag)]
                found[index, place] = first.flatten(0, 1).mT @ second.flatten(0, 1)
        return found

    def _stack(self, y: Float[Tensor, "trial bin wide"]) -> Float[Tensor, "row lag_and_wide"]:
        padded = torch.nn.functional.pad(y, (0, 0, self._lags, self._lags))
        windows = padded.unfold(1, 2 * self._lags + 1, 1)  # trial, bin, wide, lag
        return windows.transpose(2, 3).flatten(0, 1).flatten(1)


class LagMap(NamedTuple):
    """Cross-validated canonical correlations by lag."""

    correlation: Float[Tensor, "lag pair"]
    folds: Correlated  # the same of each fold
    pairs: Pairs  # of each fold and lag


def correlations(
    sums: Sums, nuisance: int, regularization: Regularization, pairs: int, training: Sums | None = None
) -> LagMap:
    """Return canonical correlations by lag: fitted without a fold, taken in it, pooled over folds.

    Parameters
    ----------
    sums : of each fold.
    nuisance : number of nuisance columns of both regions.
    regularization : its amount may differ between folds.
    pairs : number of canonical pairs.
    training : sums over what each fold is fitted to; None: over all other folds.
    """
    if training is None:
        training = Sums(*(leaf.sum(0) - leaf for leaf in sums))
    levels = sums.x.shape[-1] - sums.cross.shape[-2]
    x = projection(training.x, nuisance, regularization, levels)[:, None]
    y = projection(training.y, nuisance, regularization, levels)[:, None]
    found = canonical_pairs(training.cross, x, y, nuisance, pairs)
    folds = held_out(found, sums.cross, sums.x[:, None], sums.y[:, None], nuisance)
    return LagMap(pooled(folds), folds, found)


def of_one_lag(found: LagMap, lag: int, sums: Sums, nuisance: int) -> Float[Tensor, " lag"]:
    """Return the correlations at all lags of the first canonical pair of one lag, in folds that it has not seen.

    Unlike the map, whose weights differ from lag to lag, this is a cross-covariance of two series. That of any two
    mixtures of latents that the second region sees after one delay is even around the delay.

    Parameters
    ----------
    found : the map that the pair is of.
    lag : its place among the lags.
    sums : of each fold, of these data or of others.
    nuisance : number of nuisance columns of both regions.
    """
    one = Pairs(*(leaf[:, lag : lag + 1, ..., :1] for leaf in found.pairs))
    return pooled(held_out(one, sums.cross, sums.x[:, None], sums.y[:, None], nuisance))[:, 0]


def located(profile: Float[Tensor, " lag"], top: int) -> float:
    """Return where an even peak of a profile of binned activity lies, in bins from lag zero.

    It is the peak of the profile smoothed by a Gaussian, which need not be at a sample. Binning multiplies spectra by
    the square of sinc, which is zero where sampling folds them onto their low frequencies. There the profile has the
    phase of its delay whatever the autocorrelation; an interpolating curve goes by all frequencies, and draws delays
    towards bins or away from them.

    Parameters
    ----------
    profile : by lag; zero beyond the last ones.
    top : place of the highest sample.
    """
    lags = torch.arange(len(profile), dtype=profile.dtype, device=profile.device) - len(profile) // 2
    tried = lags[top] + torch.arange(-REACH, REACH + STEP, STEP, dtype=profile.dtype, device=profile.device)
    smooth = torch.exp(-0.5 * ((lags - tried[:, None]) / SMOOTHING) ** 2) @ profile
    best = int(smooth.argmax().clamp(1, len(tried) - 2))
    before, at, after = smooth[best - 1 : best + 2].tolist()
    bend = before - 2 * at + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(tried[best]) + STEP * min(max(shift, -1.0), 1.0)


def best_amount(sums: Sums, nuisance: int, kind: str, amounts: Sequence[float]) -> float:
    """Return the amount of regularization with the largest mean over lags of the squared positive first correlation."""
    if len(amounts) == 1 or sums.x.shape[0] < 2:
        return float(amounts[0])
    scores = [
        correlations(sums, nuisance, Regularization(kind, amount), 1).correlation.clamp(min=0).square().mean()
        for amount in amounts
    ]
    return float(amounts[int(torch.stack(scores).argmax())])


def choose(sums: Sums, nuisance: int, kind: str, amounts: Sequence[float]) -> Float[Tensor, " fold"]:
    """Return for each fold the amount of regularization that is best within its training data."""
    rests = (without_fold(sums, fold) for fold in range(sums.x.shape[0]))
    chosen = [best_amount(rest, nuisance, kind, amounts) for rest in rests]
    return torch.tensor(chosen, dtype=torch.float64, device=sums.x.device)


def without_fold(sums: Sums, fold: int) -> Sums:
    """Return the sums of all other folds."""
    return Sums(*(torch.cat([leaf[:fold], leaf[fold + 1 :]]) for leaf in sums))


def survivors(found: LagMap, lag: int) -> int:
    """Return how many pairs in a row correlate in held-out folds by more than a standard error; at least one."""
    scale = (found.folds.variance_x * found.folds.variance_y).clamp(min=1e-300).sqrt()
    each = (found.folds.covariance / scale)[:, lag]
    error = each.std(0) / len(each) ** 0.5 if len(each) > 1 else torch.zeros_like(each[0])
    return max(1, int((each.mean(0) > error).to(torch.int64).cumprod(0).sum()))


def lagged_sums(z: Float[Tensor, "trial bin wide"], lags: int) -> Float[Tensor, "lag wide wide"]:
    """Return the sums of products of all regions in a bin and ``lag`` bins later, for lags from zero."""
    bins = z.shape[1]
    found = z.new_zeros(lags + 1, z.shape[-1], z.shape[-1])
    for lag in range(min(lags, bins - 1) + 1):
        found[lag] = z[:, : bins - lag].flatten(0, 1).mT @ z[:, lag:].flatten(0, 1)
    return found
