"""The regions of one session, ready for lag maps: trials, or stretches of a long one, and what chance does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.claims.lag_sums import Wide, less_course
from lvmzoo.claims.nulls import drift_basis
from lvmzoo.claims.surrogates import (
    FEWEST_TIMES,
    FEWEST_TRIALS,
    CircularShifts,
    Surrogates,
    TrialPermutations,
    blocks_of,
    correlation_time,
    exchangeable,
)
from lvmzoo.inference.lag_map import fold_of_trials, widened

__all__ = ["Activity", "Prepared", "prepared"]

TRIALS_FOR_DRIFT = 10  # training trials for each cosine of drift
TIMES_FOR_DRIFT = 20  # correlation times of a continuous session for each


class Activity(NamedTuple):
    """What was recorded of each region, all training trials of a session in order."""

    values: Mapping[str, Float[Tensor, "trial bin unit"]]
    usable: Mapping[str, Bool[Tensor, "trial bin"]]  # every unit of the region is there
    condition: Int[Tensor, " trial"] | None
    place: Int[Tensor, " trial"]  # among all trials of the session
    courses: bool = False  # whether the mean course of each condition is to be taken off


class Prepared(NamedTuple):
    """Regions with their nuisance columns, the null that suits them, and why there is none."""

    wide: Wide
    surrogates: Surrogates | None
    unknown: str
    clock: bool  # trials share a clock


def prepared(activity: Activity, lags: int, folds: int, terms: int) -> Prepared:
    """Return the regions cut into trials, or, of few long ones, into stretches.

    Parameters
    ----------
    activity : of the regions.
    lags : largest lag, in bins.
    folds : of cross-validation; no more than there are trials.
    terms : cosines of slow drift; fewer in short sessions.
    """
    trials = len(activity.place)
    blocks = blocks_of(activity.condition, trials)
    enough = exchangeable(activity.condition, trials, blocks)
    if enough >= FEWEST_TRIALS:
        return _by_trials(activity, folds, terms, TrialPermutations(activity.condition, trials, blocks), "")
    if activity.courses:
        activity = activity._replace(values={name: _without_course(activity, name) for name in activity.values})
    times = [_correlation_time(activity, name, terms) for name in activity.values]
    bins = min(int(usable.sum()) for usable in activity.usable.values())
    if trials < FEWEST_TRIALS and bins / max(times) >= FEWEST_TIMES:
        found = _by_stretches(activity, lags, folds, terms, max(times))
        if found is not None:
            return found
    why = (
        f"too short to tell: {enough} trials have another of their condition near them to be exchanged with "
        f"({FEWEST_TRIALS} are needed), and the {bins} bins are {bins / max(times):.0f} times as long as activity is "
        f"correlated ({FEWEST_TIMES} are needed for circular shifts)"
    )
    if trials >= folds:
        return _by_trials(activity, folds, terms, None, why)
    return _by_stretches(activity, lags, folds, terms, 1.0, why) or _by_trials(activity, folds, terms, None, why)


def _by_trials(activity: Activity, folds: int, terms: int, surrogates: Surrogates | None, why: str) -> Prepared:
    trials, bins = next(iter(activity.usable.values())).shape
    folds = max(1, min(folds, trials))
    levels = _levels(activity.condition, trials)
    # A drift is fitted to what conditions leave of trials; else it is their noise, which goes on through all regions.
    free = trials * (folds - 1) // folds - levels.shape[1]
    terms = min(terms, max(0, free) // TRIALS_FOR_DRIFT)
    position = (activity.place.to(torch.float64) + 0.5) / (int(activity.place.max()) + 1)
    columns = torch.cat([drift_basis(position, terms).cpu(), levels.cpu()], 1)[:, None].expand(trials, bins, -1)
    regions = {
        name: widened(values, activity.usable[name], columns.to(values)) for name, values in activity.values.items()
    }
    course = None
    if activity.courses:
        course = torch.full((trials,), -1) if activity.condition is None else activity.condition
    wide = Wide(regions, terms + 1, levels.shape[1], fold_of_trials(trials, folds), folds, course)
    return Prepared(wide, surrogates, why, clock=True)


def _levels(condition: Int[Tensor, " trial"] | None, trials: int) -> Float[Tensor, "trial level"]:
    """Return a column for each condition but the first that occurs: one in its trials, else zero."""
    if condition is None:
        return torch.zeros(trials, 0, dtype=torch.float64)
    return (condition[:, None] == condition.unique()[1:]).to(torch.float64)


def _by_stretches(activity: Activity, lags: int, folds: int, terms: int, time: float, why: str = "") -> Prepared | None:
    """Cut long trials into stretches much longer than the lags; None where they cannot be shifted far enough."""
    usable = torch.stack(list(activity.usable.values())).any(0)
    bins = usable.shape[1]
    lengths = (usable * (torch.arange(bins) + 1)).amax(1)
    rows = (lengths > 0).nonzero()[:, 0].tolist()
    sizes = tuple(int(lengths[row]) for row in rows)
    shifts = CircularShifts(sizes, (), lags + math.ceil(2 * time))
    if not why and not shifts.possible(len(activity.values)):
        return None
    total = sum(sizes)
    size = max(1, min(max(5 * lags, math.ceil(5 * time), total // (20 * folds)), total // (2 * folds)))
    counts = tuple(math.ceil(length / size) for length in sizes)
    terms = min(terms, int(total / time) // TIMES_FOR_DRIFT)
    start = [sum(sizes[:index]) for index in range(len(sizes))]
    regions = {}
    for name, values in activity.values.items():
        parts = []
        for row, length, count, first in zip(rows, sizes, counts, start, strict=True):
            position = (first + torch.arange(length, dtype=torch.float64) + 0.5) / total
            here = slice(None, length)
            one = widened(
                values[row : row + 1, here],
                activity.usable[name][row : row + 1, here],
                drift_basis(position, terms)[None].to(values),
            )[0]
            parts.append(torch.nn.functional.pad(one, (0, 0, 0, count * size - length)).view(count, size, -1))
        regions[name] = torch.cat(parts)
    stretches = sum(counts)
    folds = max(1, min(folds, stretches))
    wide = Wide(regions, terms + 1, 0, fold_of_trials(stretches, folds), folds)
    surrogates = None if why else CircularShifts(sizes, counts, shifts.least)
    return Prepared(wide, surrogates, why, clock=False)


def _without_course(activity: Activity, name: str) -> Float[Tensor, "trial bin unit"]:
    """Return a region less the mean course of each condition over all trials: stretches of all are in each fold."""
    values, usable = activity.values[name], activity.usable[name]
    trials = len(values)
    course = torch.full((trials,), -1) if activity.condition is None else activity.condition
    z = widened(values, usable, torch.ones_like(values[..., :1]))
    return less_course(z, 1, course, torch.ones(trials, dtype=torch.bool))[..., :-1]


def _correlation_time(activity: Activity, name: str, terms: int) -> float:
    """Return the correlation time of a region, slow drift removed, trials one after the other."""
    usable = activity.usable[name]
    values = torch.where(usable[..., None], activity.values[name], 0.0)
    flat, there = values.flatten(0, 1), usable.flatten()
    terms = min(terms, int(there.sum()) // 100)
    basis = drift_basis((torch.arange(len(flat), dtype=torch.float64) + 0.5) / len(flat), terms).to(flat)
    basis = basis * there[:, None]
    slope = torch.linalg.lstsq(basis.mT @ basis + 1e-9 * torch.eye(terms + 1).to(flat), basis.mT @ flat).solution
    return correlation_time(flat - basis @ slope, there)
