"""Means over the test trials of each condition, bin by bin, and what single trials leave of them.

Trials are aligned at their beginnings. Means are of five trials or more; what fewer trials share is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Observation
from lvmzoo.inference.kernel_smoothing import smooth
from lvmzoo.metrics.base import BLOCKS, Evaluation
from lvmzoo.metrics.gathered import Gathered

__all__ = ["SMOOTHING_S", "Averages", "ByCondition", "by_condition", "predicted", "raw", "smoothed"]

SMOOTHING_S = 0.07  # standard deviation of the Gaussian over counts, as for MC_Maze in nlb_tools
FEWEST = 5  # trials behind a mean


Recorded = tuple[Float[np.ndarray, "bin unit"], Bool[np.ndarray, "bin unit"]]  # values, and which of them exist


@dataclass(frozen=True)
class Averages:
    """Sums of a quantity over the trials of each condition, by the group that trials belong to."""

    cell: Int[np.ndarray, " pair"]  # a bin of a condition; never decreases
    group: Int[np.ndarray, " pair"]  # of trials
    sums: Float[np.ndarray, "pair unit"]
    counts: Float[np.ndarray, "pair unit"]

    @property
    def totals(self) -> tuple[Float[np.ndarray, "cell unit"], Float[np.ndarray, "cell unit"]]:
        """Sum and number of each cell."""
        first = np.flatnonzero(np.diff(self.cell, prepend=-1))
        return np.add.reduceat(self.sums, first, axis=0), np.add.reduceat(self.counts, first, axis=0)

    @property
    def means(self) -> Float[np.ndarray, "cell unit"]:
        """Mean of each cell; NaN where fewer than five trials were recorded."""
        sums, counts = self.totals
        return np.where(counts >= FEWEST, sums / np.maximum(counts, 1), np.nan)

    def without_groups(self) -> Iterator[Float[np.ndarray, "cell unit"]]:
        """Give the means without each group of trials in turn; NaN where ``means`` are."""
        sums, counts = self.totals
        for number in range(int(self.group.max(initial=-1)) + 1):
            left, left_counts, own = sums.copy(), counts.copy(), self.group == number
            left[self.cell[own]] -= self.sums[own]
            left_counts[self.cell[own]] -= self.counts[own]
            there = (counts >= FEWEST) & (left_counts > 0)
            yield np.where(there, left / np.maximum(left_counts, 1), np.nan)


@dataclass(frozen=True)
class ByCondition:
    """Which cell, a bin of a condition, and which group of trials each valid test bin belongs to."""

    pieces: tuple[slice, ...]  # of the valid test bins
    pair: Int[np.ndarray, " bin"]  # row of ``cell`` and ``group``; -1: of a condition with too few trials
    cell: Int[np.ndarray, " pair"]  # never decreases
    group: Int[np.ndarray, " pair"]  # of trials, each in one of about ``BLOCKS``
    conditions: int
    trials: tuple[int, int]  # the fewest and the most of a condition

    @property
    def groups(self) -> int:
        """Number of groups of trials."""
        return int(self.group.max(initial=-1)) + 1

    def averages(self, values: Callable[[slice], Recorded]) -> Averages:
        """Return the averages of values, given a stretch of test bins at a time."""
        sums: np.ndarray | None = None
        for rows in self.pieces:
            pair, (found, recorded) = self.pair[rows], values(rows)
            order = np.argsort(pair, kind="stable")
            order = order[np.searchsorted(pair[order], 0) :]
            if not len(order):
                continue
            both = np.concatenate([np.where(recorded, found, 0.0), recorded], 1, dtype=np.float64)[order]
            first = np.flatnonzero(np.diff(pair[order], prepend=-1))
            sums = np.zeros((len(self.cell), both.shape[1])) if sums is None else sums
            sums[pair[order[first]]] += np.add.reduceat(both, first, axis=0)
        assert sums is not None  # some condition has trials
        return Averages(self.cell, self.group, *np.split(sums, 2, axis=1))

    def residuals(
        self, means: Float[np.ndarray, "cell unit"], values: Recorded, rows: slice
    ) -> Float[np.ndarray, "bin unit"]:
        """Return values of a stretch of test bins without the means of their cells; NaN where there is none."""
        pair, (found, recorded) = self.pair[rows], values
        there = recorded & (pair >= 0)[:, None]
        return np.where(there, found - means[self.cell[pair]], np.nan)

    def noise(
        self, means: Float[np.ndarray, "cell unit"], values: Callable[[slice], Recorded]
    ) -> Float[np.ndarray, "cell unit"]:
        """Return the variance of each mean over draws of the trials: that of the trials over their number.

        A quarter of the squared difference of two halves of the trials, averaged over all ways of halving them.
        """

        def squares(rows: slice) -> Recorded:
            left = self.residuals(means, values(rows), rows)
            return np.nan_to_num(left) ** 2, np.isfinite(left)

        sums, counts = self.averages(squares).totals
        return np.where(counts >= FEWEST, sums / np.maximum(counts - 1, 1) / np.maximum(counts, 1), np.nan)


def by_condition(evaluation: Evaluation) -> ByCondition | None:
    """Sort the valid test bins; None without conditions, or where none has five test trials."""

    def compute() -> ByCondition | None:
        trials = evaluation.trials("test")
        if trials.condition is None:
            return None
        condition = trials.condition
        count = np.bincount(condition[condition >= 0], minlength=1)
        kept = np.flatnonzero(count >= FEWEST)
        if not len(kept):
            return None
        rank = np.zeros(len(trials), dtype=np.int64)  # among the trials of its condition
        for level in kept:
            rank[condition == level] = np.arange(count[level])
        groups = min(BLOCKS, int(count.max()))
        number = np.repeat(np.arange(len(trials)), trials.lengths)[trials.valid.numpy()[trials.flat]]
        longest = int(trials.lengths.max())
        cell = condition[number] * longest + evaluation.since_start("test")
        group = rank[number] % groups
        kept_bins = np.isin(condition[number], kept)
        if not kept_bins.any():
            return None
        both, pair = np.full(len(cell), -1), np.full(len(cell), -1)
        both[kept_bins] = cell[kept_bins] * groups + group[kept_bins]
        found, pair[kept_bins] = np.unique(both[kept_bins], return_inverse=True)
        _, dense = np.unique(found // groups, return_inverse=True)
        few, many = int(count[kept].min()), int(count[kept].max())
        return ByCondition(tuple(evaluation.pieces("test")), pair, dense, found % groups, len(kept), (few, many))

    return evaluation.kept("by_condition", compute)


def smoothed(evaluation: Evaluation, units: tuple[int, ...]) -> Callable[[slice], Recorded]:
    """Return test counts smoothed over time within each trial by a Gaussian; a continuous signal as it is."""
    if evaluation.layout.observation is not Observation.COUNTS:
        return raw(evaluation, units)
    trials, width, gathered = evaluation.trials("test"), SMOOTHING_S / evaluation.layout.bin_width_s, Gathered()
    for row in range(len(trials)):
        batch = trials.batch([row])
        values = smooth(batch.activity[..., list(units)].double(), batch.observed[..., list(units)], width)[0]
        gathered.add(values[batch.valid].numpy())
    found = gathered.array
    return lambda rows: (found[rows], there(evaluation, units, rows))


def raw(evaluation: Evaluation, units: tuple[int, ...]) -> Callable[[slice], Recorded]:
    """Return test activity as it is."""
    return lambda rows: (evaluation.activity("test", units, rows).double().numpy(), there(evaluation, units, rows))


def predicted(
    evaluation: Evaluation, units: tuple[int, ...], rates: Callable[[slice], Float[np.ndarray, "bin every_unit"]]
) -> Callable[[slice], Recorded]:
    """Return rates of some units where their activity was recorded."""
    columns = list(units)
    return lambda rows: (rates(rows)[:, columns].astype(np.float64), there(evaluation, units, rows))


def there(evaluation: Evaluation, units: tuple[int, ...], rows: slice) -> Bool[np.ndarray, "bin unit"]:
    """Return which samples of test bins were recorded."""
    recorded = evaluation.recorded("test", units, rows)
    return (
        np.ones((len(evaluation.bins("test")[rows]), len(units)), dtype=bool) if recorded is None else recorded.numpy()
    )
