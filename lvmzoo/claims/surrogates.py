"""Sessions in which regions cannot communicate: trials of one permuted against another, or one shifted circularly.

Few long trials cannot be permuted; they are shifted in time against each other, which tells something only where the
session is many times as long as its activity is correlated: of independent regions .08 are rejected at 5 % with 40
correlation times, .06 with 200.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.claims.nulls import cells, permutations

__all__ = [
    "FEWEST_TIMES",
    "FEWEST_TRIALS",
    "CircularShifts",
    "Surrogates",
    "TrialPermutations",
    "blocks_of",
    "correlation_time",
    "exchangeable",
]

FEWEST_TRIALS = 20  # that can be exchanged with others, for a permutation null
FEWEST_TIMES = 100  # correlation times of a session, for a circular-shift null
GROUP = 10  # trials of one condition in a block of neighbors
MOST_BLOCKS = 5


@dataclass(frozen=True)
class TrialPermutations:
    """Trials of each region permuted within their condition and block of neighbors.

    A draw is of all regions at once, so that the largest of several pairs is drawn, too.
    """

    condition: Int[Tensor, " trial"] | None
    trials: int
    blocks: int
    name: str = "permuted trials"

    def draw(self, regions: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return an order of the trials for each region; the last keeps its own."""
        orders = [permutations(self.condition, self.trials, generator, self.blocks) for _ in range(regions - 1)]
        return [*orders, torch.arange(self.trials)]

    def against(
        self, first: Tensor, second: Tensor, x: Float[Tensor, "trial bin wide"]
    ) -> Float[Tensor, "trial bin wide"]:
        """Return the trials of x, each in the place of the trial that it meets."""
        return x[first[torch.argsort(second)]]

    def apart(self, x: Float[Tensor, "trial bin wide"], others: int) -> Float[Tensor, "trial bin wide"]:
        """Return a region less the mean, in each bin, of the other trials that each can be exchanged with.

        Nothing is left of a trial that is alone.

        Parameters
        ----------
        x : units and then other columns, the first of which is 1 in bins that count, and stays; all are zero in bins
            that do not count.
        others : number of columns beside the units.
        """
        one = x.shape[-1] - others
        _, cell = cells(self.condition, self.trials, self.blocks).unique(return_inverse=True)
        cell = cell.to(x.device)
        rest = x.new_zeros(int(cell.max()) + 1, *x.shape[1:]).index_add_(0, cell, x)[cell] - x
        there, count = x[..., one, None], rest[..., one, None]
        left = torch.where((there > 0) & (count > 0.5), x - rest / count.clamp(min=1), 0.0)
        left[..., one] = x[..., one]
        return left


@dataclass(frozen=True)
class CircularShifts:
    """Each region shifted in time, circularly within each long trial.

    The data are stretches of equal length, several to a trial; ``lengths`` holds the trials' bins.
    """

    lengths: tuple[int, ...]  # of the trials
    stretches: tuple[int, ...]  # of each trial
    least: int  # bins between any two regions after the shift, either way round
    name: str = "circularly shifted activity"

    def draw(self, regions: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return a shift of each region, as a share of a trial; the last stays where it is."""
        least = max(self.least / length for length in self.lengths)
        while True:
            shift = torch.cat([torch.rand(regions - 1, generator=generator, dtype=torch.float64), torch.zeros(1)])
            apart = (shift[:, None] - shift).abs()
            apart = torch.minimum(apart, 1 - apart) + torch.eye(regions)
            if bool((apart >= least).all()):
                return list(shift)

    def against(
        self, first: Tensor, second: Tensor, x: Float[Tensor, "trial bin wide"]
    ) -> Float[Tensor, "trial bin wide"]:
        """Return x shifted by what separates the two draws."""
        found, place, size = torch.zeros_like(x), 0, x.shape[1]
        for length, count in zip(self.lengths, self.stretches, strict=True):
            long = x[place : place + count].reshape(count * size, -1)[:length]
            shifted = long.roll(round(float(first - second) * length), 0)
            found[place : place + count].view(count * size, -1)[:length] = shifted
            place += count
        return found

    def possible(self, regions: int) -> bool:
        """Whether every region can be shifted far enough from every other."""
        return all(length > 2 * regions * self.least for length in self.lengths)


Surrogates = TrialPermutations | CircularShifts


def blocks_of(condition: Int[Tensor, " trial"] | None, trials: int) -> int:
    """Return into how many blocks trials are cut, so that there are enough of a condition in each to exchange."""
    conditions = 1 if condition is None else len(condition.unique())
    return max(1, min(MOST_BLOCKS, trials // (GROUP * conditions)))


def exchangeable(condition: Int[Tensor, " trial"] | None, trials: int, blocks: int) -> int:
    """Return how many trials have another of their condition in their block."""
    _, counts = cells(condition, trials, blocks).unique(return_counts=True)
    return int(counts[counts > 1].sum())


def correlation_time(
    values: Float[Tensor, "bin unit"], usable: Bool[Tensor, " bin"], components: int = 5, longest: int = 5000
) -> float:
    """Return the integrated autocorrelation time, in bins, of the slowest large principal component of a region.

    Parameters
    ----------
    values : activity without slow drift.
    usable : the bins that count.
    components : principal components looked at; those that together hold half of the variance, at most so many.
    longest : lag up to which the autocorrelation is summed, in bins.
    """
    if int(usable.sum()) < 2:
        return math.inf
    centered = torch.where(usable[:, None], values - values[usable].mean(0), 0.0)
    variance, axes = torch.linalg.eigh(centered.mT @ centered)
    variance, axes = variance.flip(0).clamp(min=0), axes.flip(1)
    total = float(variance.sum())
    if total == 0:
        return 1.0
    before = (variance.cumsum(0) - variance) / total
    count = min(components, int((before < 0.5).sum()))
    scores = centered @ axes[:, :count]
    padded = 2 * len(scores)
    power = torch.fft.rfft(scores, padded, dim=0).abs().square()
    covariance = torch.fft.irfft(power, padded, dim=0)[: min(len(scores), longest)]
    there = torch.fft.rfft(usable.to(torch.float64), padded).abs().square()
    pairs = torch.fft.irfft(there, padded)[: len(covariance)].clamp(min=1)[:, None]
    correlation = covariance / pairs
    correlation = correlation / correlation[0]
    positive = (correlation > 0).to(torch.float64).cumprod(0)  # up to the first lag that is not positive
    return float((2 * (correlation * positive).sum(0) - 1).max().clamp(min=1.0))
