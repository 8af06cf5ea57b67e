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
from collections.abc import Sequence

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
    "levels_of",
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
    """Return the median and the 95th percentile of what chance gives; NaN without a draw."""
    return _quantiles(null, (0.5, 0.95))


def bootstrap(trials: int, generator: torch.Generator) -> Int[Tensor, " trial"]:
    """Return the trials of one resample with replacement, in order; copies of a trial belong in the same fold."""
    return torch.randint(trials, (trials,), generator=generator).sort().values


def interval(samples: Sequence[float] | Float[Tensor, " resample"]) -> tuple[float, float]:
    """Return the 95 % interval of a statistic over resamples, leaving out NaN; NaN without a resample.

    The k-th of n resamples is the quantile at k / (n + 1), so that one more would lie in the interval that often. Fewer
    than 39 cannot say so much: the interval is all they span.
    """
    draws = torch.as_tensor(samples, dtype=torch.float64)
    count = int((~draws.isnan()).sum())
    low, high = (min(max((level * (count + 1) - 1) / max(count - 1, 1), 0.0), 1.0) for level in (0.025, 0.975))
    return _quantiles(draws, (low, high))


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


def levels_of(condition: Int[Tensor, " trial"] | None, trials: int) -> Float[Tensor, "trial level"]:
    """Return a column for each condition but the first that occurs: one in its trials, else zero."""
    if condition is None:
        return torch.zeros(trials, 0, dtype=torch.float64)
    return (condition[:, None] == condition.unique()[1:]).to(torch.float64)


def without_drift(
    values: Float[Tensor, "trial bin unit"],
    observed: Bool[Tensor, "trial bin unit"],
    terms: int = 4,
    condition: Int[Tensor, " trial"] | None = None,
) -> Float[Tensor, "trial bin unit"]:
    """Return activity less each unit's slow drift over trials and its mean.

    The drift is fitted together with the mean of each condition, which stays: a drift fitted to the order in which
    shared conditions happened to come would be the same in all regions, and no permutation would show it.

    Parameters
    ----------
    values : activity, trials in the order of recording; arbitrary where not ``observed``.
    observed : which samples count.
    terms : cosines of drift; fewer where there are less than ten trials for each.
    condition : of each trial; None: one condition.
    """
    trials = values.shape[0]
    terms = min(terms, trials // 10)
    place = torch.arange(trials, dtype=torch.float64, device=values.device)
    levels = levels_of(condition, trials).to(values.device)
    basis = torch.cat([drift_basis((place + 0.5) / max(trials, 1), terms), levels], 1)
    clean = torch.where(observed, values, 0.0).to(torch.float64)
    weight = observed.to(torch.float64).sum(1)  # trial, unit
    normal = torch.einsum("nu,nk,nl->ukl", weight, basis, basis)
    # A unit that is never observed has no drift to remove, and may be hidden in all trials of a condition.
    seen = weight.sum(0) > 0
    normal = normal + torch.eye(basis.shape[1], dtype=torch.float64, device=values.device) * (
        1e-10 * weight.sum(0).clamp(min=1.0)[:, None, None]
    )
    moment = torch.einsum("nu,nk->uk", clean.sum(1), basis)
    slope = torch.where(seen[:, None], torch.linalg.solve(normal, moment), 0.0)
    return clean - (basis[:, : terms + 1] @ slope[:, : terms + 1].mT)[:, None]


def _quantiles(values: Sequence[float] | Tensor, levels: tuple[float, float]) -> tuple[float, float]:
    draws = torch.as_tensor(values, dtype=torch.float64)
    draws = draws[~draws.isnan()].cpu()
    if not len(draws):
        return math.nan, math.nan
    low, high = torch.quantile(draws, torch.tensor(levels, dtype=torch.float64)).tolist()
    return low, high
