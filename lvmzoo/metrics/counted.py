"""Sums over bins by which a recording and samples of a model are compared; those of trials add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["Counted", "Limits", "correlations", "counted", "ks", "less", "means", "total"]


class Limits(NamedTuple):
    """Largest values that histograms tell apart; beyond them all are one."""

    spikes: int  # spikes of a unit in a bin
    population: int  # spikes of all units in a bin
    interval: int  # bins


class Counted(NamedTuple):
    """Sums over bins; of pairs (i, j) those over bins in which both units were recorded."""

    bins: Float[np.ndarray, "pair_unit pair_unit"]
    sums: Float[np.ndarray, "pair_unit pair_unit"]  # of i where j was recorded
    squares: Float[np.ndarray, "pair_unit pair_unit"]  # of i^2 where j was recorded
    products: Float[np.ndarray, "pair_unit pair_unit"]
    total: Float[np.ndarray, " unit"]
    recorded: Float[np.ndarray, " unit"]  # bins
    counts: Float[np.ndarray, "unit value"] | None  # histogram of spikes in a bin; None of continuous activity
    population: Float[np.ndarray, "one value"] | None  # of spikes of all units in a bin
    intervals: Float[np.ndarray, "unit value"] | None  # of bins from a spike to the next of the unit and trial


def counted(
    activity: Float[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"],
    trial: Int[np.ndarray, " bin"],
    inside: Int[np.ndarray, " bin"],
    pairs: Sequence[int] | np.ndarray,
    limits: Limits | None,
) -> Counted:
    """Return the sums of some whole trials.

    Parameters
    ----------
    activity : zero where it was not recorded.
    recorded : which samples exist.
    trial, inside : trial of each bin, and its place therein; bins are in order.
    pairs : units whose pairwise products are wanted.
    limits : of the histograms; None: the activity is continuous, and has none. What is not whole is rounded for them,
        and what is negative counts as none.
    """
    x, seen = activity[:, pairs], recorded[:, pairs].astype(np.float64)
    sums = (seen.T @ seen, x.T @ seen, (x * x).T @ seen, x.T @ x, activity.sum(0), recorded.sum(0).astype(np.float64))
    if limits is None:
        return Counted(*sums, None, None, None)
    spikes, population = (_whole(values) for values in (activity, activity.sum(1, keepdims=True)))
    everything = np.ones((len(spikes), 1), dtype=bool)
    return Counted(
        *sums,
        _histogram(spikes, recorded, limits.spikes),
        _histogram(population, everything, limits.population),
        _intervals(spikes, trial, inside, limits.interval),
    )


def total(parts: Sequence[Counted]) -> Counted:
    """Return the sums of all parts."""
    whole: list[Any] = [None if leaves[0] is None else np.sum(leaves, 0) for leaves in zip(*parts, strict=True)]
    return Counted(*whole)


def less(whole: Counted, part: Counted) -> Counted:
    """Return the sums of the rest."""
    rest: list[Any] = [None if a is None else a - b for a, b in zip(whole, part, strict=True)]
    return Counted(*rest)


def means(of: Counted) -> Float[np.ndarray, " unit"]:
    """Return the mean activity of each unit per bin; NaN where it was never recorded."""
    return np.divide(of.total, of.recorded, out=np.full_like(of.total, np.nan), where=of.recorded > 0)


def correlations(of: Counted) -> Float[np.ndarray, " pair"]:
    """Return the correlation over bins of each pair of units; NaN where one of them does not vary."""
    bins = np.maximum(of.bins, 1)
    mean = of.sums / bins
    variance = of.squares / bins - mean**2
    size = np.sqrt(np.maximum(variance * variance.T, 0))
    there = np.minimum(variance, variance.T) > 1e-12 * np.maximum(of.squares, of.squares.T) / bins
    covariance = of.products / bins - mean * mean.T
    found = np.divide(covariance, size, out=np.full_like(size, np.nan), where=there & (of.bins > 1))
    return found[np.triu_indices(len(found), 1)]


def ks(
    found: Float[np.ndarray, "row value"] | None,
    wanted: Float[np.ndarray, "row value"] | None,
    weights: Float[np.ndarray, " row"],
) -> float:
    """Return the Kolmogorov-Smirnov distance of two histograms, the mean over those rows that ``wanted`` has; else NaN.

    Of a row that ``found`` lacks it is 1.
    """
    assert found is not None
    assert wanted is not None
    shares = [np.cumsum(rows, 1) / np.maximum(rows.sum(1, keepdims=True), 1) for rows in (found, wanted)]
    there = wanted.sum(1) > 0
    if not there.any():
        return float("nan")
    return float(np.average(np.abs(shares[0] - shares[1]).max(1)[there], weights=weights[there]))


def _whole(values: Float[np.ndarray, "bin row"]) -> Int[np.ndarray, "bin row"]:
    return np.maximum(np.rint(values), 0).astype(np.int64)


def _histogram(
    values: Int[np.ndarray, "bin row"], known: Bool[np.ndarray, "bin row"], largest: int
) -> Float[np.ndarray, "row value"]:
    rows = values.shape[1]
    place = np.minimum(values, largest) + (largest + 1) * np.arange(rows)
    return np.bincount(place[known], minlength=rows * (largest + 1)).reshape(rows, -1).astype(np.float64)


def _intervals(
    spikes: Int[np.ndarray, "bin unit"], trial: Int[np.ndarray, " bin"], inside: Int[np.ndarray, " bin"], largest: int
) -> Float[np.ndarray, "unit value"]:
    """Spikes of one bin follow each other after 0 bins."""
    units = spikes.shape[1]
    unit, bin_ = np.nonzero(spikes.T)
    here = np.diff(unit, prepend=-1) == 0
    here[1:] &= trial[bin_[1:]] == trial[bin_[:-1]]
    apart = np.minimum(np.diff(inside[bin_], prepend=0), largest)[here]
    found = np.bincount(unit[here] * (largest + 1) + apart, minlength=units * (largest + 1)).reshape(units, -1)
    found[:, 0] += np.maximum(spikes - 1, 0).sum(0)
    return found.astype(np.float64)
