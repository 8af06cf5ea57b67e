"""Means over the test trials of each condition, bin by bin, and what single trials leave of them.

Trials are aligned at their beginnings. Means are of five trials or more; what fewer trials share is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Observation
from lvmzoo.inference.kernel_smoothing import smooth
from lvmzoo.metrics.base import BLOCKS, Evaluation

__all__ = ["SMOOTHING_S", "ByCondition", "by_condition", "smoothed"]

SMOOTHING_S = 0.07  # standard deviation of the Gaussian over counts, as for MC_Maze in nlb_tools
FEWEST = 5  # trials behind a mean


@dataclass(frozen=True)
class ByCondition:
    """Test bins sorted by cell, a bin of a condition, and within it by the group of trials that they belong to."""

    order: Int[np.ndarray, " sample"]  # among the valid test bins; those of conditions with too few trials are missing
    cell: Int[np.ndarray, " sample"]  # never decreases; each has samples
    group: Int[np.ndarray, " sample"]  # of trials, each in one of about ``BLOCKS``
    conditions: int
    trials: tuple[int, int]  # the fewest and the most of a condition

    @property
    def groups(self) -> int:
        """Number of groups of trials."""
        return int(self.group.max(initial=-1)) + 1

    def means(
        self, values: Float[np.ndarray, "bin unit"], recorded: Bool[np.ndarray, "bin unit"]
    ) -> Float[np.ndarray, "cell unit"]:
        """Return the mean of each cell; NaN where fewer than five trials were recorded."""
        sums, counts = self._sums(values[self.order], recorded[self.order])
        return np.where(counts >= FEWEST, sums / np.maximum(counts, 1), np.nan)

    def without_groups(
        self, values: Float[np.ndarray, "bin unit"], recorded: Bool[np.ndarray, "bin unit"]
    ) -> Iterator[Float[np.ndarray, "cell unit"]]:
        """Give the means without each group of trials in turn; NaN where ``means`` are."""
        first = np.flatnonzero((np.diff(self.cell, prepend=-1) != 0) | (np.diff(self.group, prepend=-1) != 0))
        cell, group = self.cell[first], self.group[first]
        parts, part_counts = _sums(values[self.order], recorded[self.order], first)
        sums, counts = self._sums(values[self.order], recorded[self.order])
        for number in range(self.groups):
            left, left_counts, own = sums.copy(), counts.copy(), group == number
            left[cell[own]] -= parts[own]
            left_counts[cell[own]] -= part_counts[own]
            there = (counts >= FEWEST) & (left_counts > 0)
            yield np.where(there, left / np.maximum(left_counts, 1), np.nan)

    def noise(
        self, values: Float[np.ndarray, "bin unit"], recorded: Bool[np.ndarray, "bin unit"]
    ) -> Float[np.ndarray, "cell unit"]:
        """Return the variance of each mean over draws of the trials: that of the trials over their number.

        A quarter of the squared difference of two halves of the trials, averaged over all ways of halving them.
        """
        residuals = self.residuals(values, recorded)
        squares, counts = self._sums(np.nan_to_num(residuals) ** 2, np.isfinite(residuals))
        return np.where(counts >= FEWEST, squares / np.maximum(counts - 1, 1) / np.maximum(counts, 1), np.nan)

    def residuals(
        self, values: Float[np.ndarray, "bin unit"], recorded: Bool[np.ndarray, "bin unit"]
    ) -> Float[np.ndarray, "sample unit"]:
        """Return each sample, in sorted order, without the mean of its cell; NaN where there is none."""
        left = values[self.order] - self.means(values, recorded)[self.cell]
        return np.where(recorded[self.order], left, np.nan)

    def _sums(self, values: np.ndarray, recorded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _sums(values, recorded, np.flatnonzero(np.diff(self.cell, prepend=-1)))


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
        order = np.lexsort((group, cell))
        order = order[np.isin(condition[number[order]], kept)]
        _, dense = np.unique(cell[order], return_inverse=True)
        return ByCondition(order, dense, group[order], len(kept), (int(count[kept].min()), int(count[kept].max())))

    return evaluation.kept("by_condition", compute)


def smoothed(evaluation: Evaluation, units: tuple[int, ...]) -> Float[np.ndarray, "bin unit"]:
    """Return test counts smoothed over time within each trial by a Gaussian; a continuous signal as it is."""
    if evaluation.layout.observation is not Observation.COUNTS:
        return evaluation.activity("test", units).double().numpy()
    trials, width = evaluation.trials("test"), SMOOTHING_S / evaluation.layout.bin_width_s
    found = []
    for row in range(len(trials)):
        batch = trials.batch([row])
        values = smooth(batch.activity[..., list(units)].double(), batch.observed[..., list(units)], width)[0]
        found.append(values[batch.valid])
    return torch.cat(found).numpy()


def _sums(values: np.ndarray, recorded: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum, and the number, of what was recorded in each stretch of samples."""
    sums = np.add.reduceat(np.where(recorded, values, 0.0).astype(np.float64), first, axis=0)
    return sums, np.add.reduceat(recorded.astype(np.float64), first, axis=0)
