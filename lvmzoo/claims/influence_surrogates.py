"""The trials of a session, or stretches of a long one, and how chance rearranges its regions against each other."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lvmzoo.claims.influence_channels import Channels
from lvmzoo.claims.nulls import drift_basis, without_drift
from lvmzoo.claims.surrogates import (
    FEWEST_TIMES,
    FEWEST_TRIALS,
    CircularShifts,
    TrialPermutations,
    blocks_of,
    correlation_time,
    exchangeable,
)

__all__ = ["Chance", "chance_of", "rearranged", "stretched"]

DRIFT = 4  # cosines of slow drift over a long session
STRETCH_TIMES = 5.0  # correlation times in a stretch of a long session, at least
STRETCHES = (20, 200)  # fewest and most


class Chance(NamedTuple):
    """Channels without slow drift, how chance rearranges them, and why it cannot."""

    channels: Channels
    surrogates: TrialPermutations | CircularShifts | None
    why: str


def chance_of(channels: Channels, condition: Int[Tensor, " trial"] | None, max_lag: int) -> Chance:
    """Return the channels as they are fitted, with the null that suits them.

    Trials are permuted where enough of them can be exchanged for others. Few long ones are shifted circularly and cut
    into stretches.

    Parameters
    ----------
    channels : all trials of a session, in the order of recording.
    condition : of each trial; None: one condition.
    max_lag : longest communication between regions, in bins.
    """
    trials = len(channels.valid)
    clean = without_drift(channels.activity, channels.observed, condition=condition)
    by_trials = channels._replace(activity=clean)
    if int((channels.valid.sum(1) > 1).sum()) == 0:
        return Chance(by_trials, None, "too short to tell: no trial has two bins")
    blocks = blocks_of(condition, trials)
    enough = exchangeable(condition, trials, blocks)
    if enough >= FEWEST_TRIALS:
        return Chance(by_trials, TrialPermutations(condition, trials, blocks), "")
    times = math.inf
    if trials < FEWEST_TRIALS:
        whole = _without_slow(channels)
        seen = whole.observed.any(-1) & whole.valid
        parts = [whole.activity[..., own].flatten(0, 1) for own in whole.regions.values()]
        # A region that tells nothing has no channels.
        time = max((correlation_time(part, seen.flatten()) for part in parts if part.shape[1]), default=1.0)
        times = int(seen.sum()) / time
        if times >= FEWEST_TIMES:
            cut, shifts = _stretches(whole, time, max_lag)
            if shifts.possible(len(channels.regions)):
                return Chance(cut, shifts, "")
    told = "" if math.isinf(times) else f", and the session is {times:.0f} times as long as activity is correlated"
    return Chance(
        by_trials,
        None,
        f"too short to tell: {enough} trials have another of their condition near them to be exchanged with "
        f"({FEWEST_TRIALS} are needed){told}{f' ({FEWEST_TIMES} are needed)' if told else ''}",
    )


def rearranged(
    channels: Channels, surrogates: TrialPermutations | CircularShifts, generator: torch.Generator
) -> Channels:
    """Return the channels with the regions as chance puts them against each other."""
    drawn = surrogates.draw(len(channels.regions), generator)
    if isinstance(surrogates, TrialPermutations):
        mixed = channels.recombined(dict(zip(channels.regions, drawn, strict=True)))
        # Regions without drift have that in common: it must hold in the new order of their trials, too.
        clean = without_drift(mixed.activity, mixed.observed, condition=surrogates.condition)
        return mixed._replace(activity=clean)
    activity, observed = torch.empty_like(channels.activity), torch.empty_like(channels.observed)
    for shift, own in zip(drawn, channels.regions.values(), strict=True):
        activity[..., own] = surrogates.against(shift, drawn[-1], channels.activity[..., own])
        observed[..., own] = surrogates.against(shift, drawn[-1], channels.observed[..., own].double()) > 0
    return channels._replace(activity=activity, observed=observed)


def _without_slow(channels: Channels) -> Channels:
    """Return the channels less slow cosines over the bins of the session, trials one after the other."""
    trials, bins, width = channels.activity.shape
    weight = channels.observed.flatten(0, 1).double()
    place = (channels.valid.flatten().cumsum(0).double() - 0.5) / channels.valid.sum().clamp(min=1)
    basis = drift_basis(place, DRIFT).to(weight)
    flat = channels.activity.flatten(0, 1) * weight
    normal = torch.einsum("nc,nk,nl->ckl", weight, basis, basis)
    normal = normal + 1e-9 * weight.sum(0).clamp(min=1)[:, None, None] * torch.eye(DRIFT + 1).to(normal)
    slope = torch.linalg.solve(normal, (basis.T @ flat).T[..., None])[..., 0]
    clean = (flat - basis @ slope.T) * weight
    return channels._replace(activity=clean.view(trials, bins, width))


def _stretches(channels: Channels, time: float, max_lag: int) -> tuple[Channels, CircularShifts]:
    """Return stretches of long trials, and how those are shifted."""
    sizes = tuple(length for _, length in _lengths(channels))
    fewest, most = STRETCHES
    size = max(math.ceil(STRETCH_TIMES * time), 10 * max_lag, sum(sizes) // most)
    size = max(2, min(size, sum(sizes) // fewest))
    counts = tuple(math.ceil(length / size) for length in sizes)
    return stretched(channels, size), CircularShifts(sizes, counts, max_lag + math.ceil(2 * time))


def _lengths(channels: Channels) -> list[tuple[int, int]]:
    """Return place and number of bins of all trials that have any."""
    lengths = (channels.valid * (torch.arange(channels.valid.shape[1]) + 1)).amax(1)
    return [(row, length) for row, length in enumerate(lengths.tolist()) if length]


def stretched(channels: Channels, size: int) -> Channels:
    """Cut long trials into stretches of so many bins, the last of each trial filled up with bins that are not valid."""

    def cut(values: Tensor) -> Tensor:
        parts = []
        for row, length in _lengths(channels):
            count = math.ceil(length / size)
            whole = values.new_zeros(count * size, *values.shape[2:])
            whole[:length] = values[row, :length]
            parts.append(whole.view(count, size, *values.shape[2:]))
        return torch.cat(parts)

    return channels._replace(
        activity=cut(channels.activity), valid=cut(channels.valid), observed=cut(channels.observed)
    )
