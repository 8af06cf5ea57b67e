"""What chance does: permutations of trials between regions, p-values, resamples of trials, slow drift.

Regions that share a condition, or that drift slowly, resemble each other without communicating. Trials of one region
are therefore permuted against another only within a condition and among neighbors, and slow drift is removed. Bins are
never permuted: activity is autocorrelated, and every test would pass.

Phipson & Smyth (2010), Permutation p-values should never be zero, doi:10.2202/1544-6115.1585; Holm (1979), A simple
sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 65-70; Harrison, Amarasingham &
Truccolo (2015), Spatiotemporal conditional inference and hypothesis tests for neural ensemble spiking precision,
doi:10.1162/NECO_a_00681.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "band",
    "bootstrap",
    "cells",
    "drift_basis",
    "holm",
    "interval",
    "log_exchanges",
    "null_summary",
    "outwards",
    "p_value",
    "permutations",
    "without_drift",
]


def permutations(
    condition: Int[Tensor, " trial"] | None, trials: int, generator: torch.Generator, blocks: int = 1
) -> Int[Tensor, " trial"]:
    """Return one random permutation of trials within each condition and block of neighbors.

    Parameters
    ----------
    condition : of each trial; trials of unknown condition (-1) stay where they are. None: one condition.
    trials : their number, in the order of recording.
    generator : of the draw, on the CPU.
    blocks : number of contiguous blocks of equal length; trials never leave theirs.
    """
    group = cells(condition, trials, blocks)
    order = torch.randperm(trials, generator=generator)
    # Both list the groups in the same order: the first by trial, the second at random within each group.
    found = torch.empty(trials, dtype=torch.int64)
    found[torch.argsort(group, stable=True)] = order[torch.argsort(group[order], stable=True)]
    return found if condition is None else found.to(condition.device)


def cells(condition: Int[Tensor, " trial"] | None, trials: int, blocks: int) -> Int[Tensor, " trial"]:
    """Return a number for each trial that it shares with those that it can be exchanged with, on the CPU.

    Those are the trials of its condition and block. A trial of unknown condition (-1) is alone: exchanged with one of
    another condition, it would lose what all trials of its own share.
    """
    group = torch.arange(trials) * blocks // max(trials, 1)
    if condition is None or not trials:
        return group
    known = condition.cpu()
    return torch.where(known < 0, -1 - torch.arange(trials), group * (int(known.max()) + 1) + known)


def log_exchanges(cells: Int[Tensor, " trial"]) -> float:
    """Return the natural logarithm of the number of ways in which trials can be exchanged within their cells."""
    _, sizes = torch.unique(cells, return_counts=True)
    return sum(math.lgamma(size + 1) for size in sizes.tolist())


def p_value(observed: float, null: Sequence[float] | Float[Tensor, " draw"]) -> float:
    """Return (1 + b) / (1 + B) where b of B draws are at least as large; ties and what is not a number count as such.

    Doi:10.2202/1544-6115.1585.
    """
    draws = torch.as_tensor(null, dtype=torch.float64)
    at_least = int((~(draws < observed)).sum())
    return (1 + at_least) / (1 + len(draws))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down procedure, in the order given."""
    order = sorted(range(len(ps)), key=lambda index: ps[index])
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def null_summary(null: Sequence[float] | Float[Tensor, " draw"]) -> tuple[float, float]:
    """Return the median and the 95th percentile of what chance gives; NaN without a draw.

    The percentile is the k-th smallest of n draws, k = .95 (n + 1) rounded up: exactly what lies above it has a p-value
    of at most .05. Of fewer than 19 draws, which give no such p-value, it is the largest.
    """
    known = torch.as_tensor(null, dtype=torch.float64)
    draws = sorted(known[~known.isnan()].tolist())
    if not draws:
        return math.nan, math.nan
    place = math.ceil(round(0.95 * (len(draws) + 1), 6))
    return statistics.median(draws), draws[min(place, len(draws)) - 1]


def bootstrap(trials: int, generator: torch.Generator) -> Int[Tensor, " trial"]:
    """Return the trials of one resample with replacement, in order; copies of a trial belong in the same fold."""
    return torch.randint(trials, (trials,), generator=generator).sort().values


def interval(samples: Sequence[float] | Float[Tensor, " resample"]) -> tuple[float, float]:
    """Return the 95 % interval of a statistic over resamples, leaving out NaN; NaN without a resample.

    The k-th of n resamples is the quantile at k / (n + 1), so that one more would lie in the interval that often. Fewer
    than 39 cannot say so much: the interval is all they span.
    """
    draws = torch.as_tensor(samples, dtype=torch.float64)
    draws = draws[~draws.isnan()].cpu()
    if not len(draws):
        return math.nan, math.nan
    low, high = np.quantile(draws.numpy(), [0.025, 0.975], method="weibull").tolist()
    return low, high


def band(samples: Float[Tensor, "resample place"]) -> tuple[Float[Tensor, " place"], Float[Tensor, " place"]]:
    """Return both ends of the 95 % interval at each place of a curve; see :func:`interval`."""
    low, high = torch.tensor([interval(column) for column in samples.mT], dtype=torch.float64).mT
    return low, high


def outwards(bounds: tuple[float, float], value: float) -> tuple[float, float]:
    """Return whole numbers beyond the bounds, and beyond the value."""
    return min(float(math.floor(bounds[0])), value), max(float(math.ceil(bounds[1])), value)


def drift_basis(position: Float[Tensor, " place"], terms: int) -> Float[Tensor, "place term"]:
    """Return a constant and ``terms`` cosines of falling period, from twice the session's length.

    Parameters
    ----------
    position : in the session, from 0 to 1.
    terms : of drift; the fastest has ``terms / 2`` periods in the session.
    """
    number = torch.arange(terms + 1, dtype=torch.float64, device=position.device)
    return torch.cos(math.pi * position.to(torch.float64)[:, None] * number)


def without_drift(
    values: Float[Tensor, "trial bin unit"],
    observed: Bool[Tensor, "trial bin unit"],
    terms: int = 4,
    condition: Int[Tensor, " trial"] | None = None,
) -> Float[Tensor, "trial bin unit"]:
    """Return activity less each unit's slow drift over trials and its mean.

    The drift is fitted together with the mean course of each condition, which stays: a drift fitted to the order in
    which shared conditions, or long and short trials of one, happened to come would be the same in all regions, and no
    permutation would show it.

    Parameters
    ----------
    values : activity, trials in the order of recording; arbitrary where not ``observed``.
    observed : which samples count.
    terms : cosines of drift; fewer where there are less than ten trials for each.
    condition : of each trial; None: one condition.
    """
    trials = values.shape[0]
    terms = min(terms, trials // 10)
    clean = torch.where(observed, values, 0.0).to(torch.float64)
    alike = bool((observed == observed[..., :1]).all())  # then sums over samples are those of every unit
    weight = (observed[..., :1] if alike else observed).to(torch.float64)
    if terms:
        place = torch.arange(trials, dtype=torch.float64, device=values.device)
        basis = drift_basis((place + 0.5) / trials, terms)[:, 1:]
        own = _beside_courses(basis, weight, condition)
        # A unit that is never observed has no drift to remove.
        ridge = 1e-10 * weight.sum((0, 1)).clamp(min=1.0)[:, None, None] * torch.eye(terms).to(basis)
        normal = torch.einsum("nbuk,nbul->ukl", own, own) + ridge
        moment = torch.einsum("nbuk,nbu->uk", own.expand(-1, -1, clean.shape[2], -1), clean)
        slope = torch.linalg.solve(normal, moment[..., None])[..., 0]
        clean = clean - (basis @ slope.mT)[:, None] * weight
    return clean - clean.sum((0, 1)) / weight.sum((0, 1)).clamp(min=1.0)


def _beside_courses(
    basis: Float[Tensor, "trial term"], weight: Float[Tensor, "trial bin unit"], condition: Int[Tensor, " trial"] | None
) -> Float[Tensor, "trial bin unit term"]:
    """Return drifts less what a mean course of each condition fits of them; zero in samples that do not count."""
    level = torch.zeros(len(basis), dtype=torch.int64, device=basis.device)
    if condition is not None:
        level = condition.to(basis.device).unique(return_inverse=True)[1]
    drift = weight[..., None] * basis[:, None, None]
    total, count = (
        x.new_zeros(int(level.max()) + 1, *x.shape[1:]).index_add_(0, level, x) for x in (drift, weight[..., None])
    )
    return drift - (total / count.clamp(min=1.0))[level] * weight[..., None]
