"""Second moments of activity within a bin and between bins, additive over trials, in two passes over the data.

What known inputs do to the activity is taken out before, by regression on the inputs of the bin and of some before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.inference.maximization import least_norm
from lvmzoo.inference.patterns import Known, patterns, residual_blocks

__all__ = ["LaggedMoments", "Recorded", "lagged_moments"]

WINDOW = 256  # bins: pairs of bins are taken within windows of a trial
BUDGET = 5e9  # products of activity to sum; of more data, evenly spread windows are used
RESPONSE_BINS = 8  # bins over which the activity answers to known inputs


class Recorded(NamedTuple):
    """What starting values need of a batch."""

    activity: Num[Tensor, "trial bin unit"]
    valid: Bool[Tensor, "trial bin"]
    observed: Bool[Tensor, "trial bin unit"]
    trial_index: Int[Tensor, " trial"]
    inputs: Float[Tensor, "trial bin channel"] | None = None


class LaggedMoments(NamedTuple):
    """Moments of one session's activity, without what known inputs add."""

    mean: Float[Tensor, " unit"]
    covariance: Float[Tensor, "lag unit unit"]  # of each bin with the one that many bins before
    pairs: Float[Tensor, " lag"]  # number of pairs of bins
    response: Float[Tensor, "lag unit channel"] | None  # of the activity to the inputs that many bins before


def lagged_moments(batches: Callable[[], Iterable[Recorded]], units: int, lags: int) -> LaggedMoments:
    """Sum the moments of one session in two passes; missing samples count as the unit's mean.

    Parameters
    ----------
    batches : gives the data anew.
    units : number of units.
    lags : largest number of bins between the bins of a pair, plus one.
    """
    mean, samples, bins = _means(batches, units)
    response = None
    if any(batch.inputs is not None for batch in batches()):
        response, change = _response(batches, mean, samples)
        mean = mean + change
    stride = max(1, round(bins * units**2 * lags / BUDGET))
    sums = mean.new_zeros(lags, units, units)
    counted, pairs = torch.zeros_like(mean), mean.new_zeros(lags)
    for batch in batches():
        known = None if response is None else Known(_recent(batch), response.movedim(0, 1).flatten(1))
        for pattern in patterns(batch.valid, batch.observed):
            for start in range(0, pattern.bins, WINDOW):
                stop = min(start + WINDOW, pattern.bins)
                used = (batch.trial_index.to(mean.device)[pattern.rows] + start // WINDOW) % stride == 0
                if not bool(used.any()):
                    continue
                for who, when, block in residual_blocks(batch.activity, mean, pattern, start, stop, known):
                    cube = block.view(who.stop - who.start, -1, units)
                    seen = pattern.seen[who, when]
                    shown = seen[..., None] & (pattern.units if pattern.mask is None else pattern.mask[who, when])
                    if stride > 1:
                        cube, seen, shown = cube[used[who]], seen[used[who]], shown[used[who]]
                    counted += shown.sum((0, 1))
                    for lag in range(min(lags, cube.shape[1])):
                        later, earlier = cube[:, lag:], cube[:, : cube.shape[1] - lag]
                        sums[lag].addmm_(later.flatten(0, 1).T, earlier.flatten(0, 1))
                        pairs[lag] += (seen[:, lag:] & seen[:, : cube.shape[1] - lag]).sum()
    scale = counted.clamp(min=1).sqrt()
    share = (pairs / counted.max().clamp(min=1)).clamp(min=1e-12)
    share[0] = 1.0
    return LaggedMoments(mean, sums / torch.outer(scale, scale) / share[:, None, None], pairs, response)


def _means(batches: Callable[[], Iterable[Recorded]], units: int) -> tuple[Tensor, Tensor, int]:
    """Return mean and number of samples of each unit, and the number of bins."""
    total = torch.zeros(units, dtype=torch.float64)
    samples = torch.zeros(units, dtype=torch.float64)
    bins = 0
    for batch in batches():
        total, samples = total.to(batch.activity.device), samples.to(batch.activity.device)
        zero = torch.zeros_like(total)
        bins += int(batch.valid.sum())
        for pattern in patterns(batch.valid, batch.observed):
            if pattern.mask is None:
                samples += pattern.seen.sum() * pattern.units
            else:
                samples += pattern.mask.sum((0, 1))
            for _, _, block in residual_blocks(batch.activity, zero, pattern, 0, pattern.bins):
                total.addmv_(block.T, block.new_ones(len(block)))
    return total / samples.clamp(min=1), samples, bins


def _recent(batch: Recorded) -> Float[Tensor, "trial bin lag_and_channel"]:
    """Return the known inputs of each bin and of those before it."""
    assert batch.inputs is not None
    inputs = batch.inputs.to(torch.float64)
    shifted = [torch.nn.functional.pad(inputs, (0, 0, lag, 0))[:, : inputs.shape[1]] for lag in range(RESPONSE_BINS)]
    return torch.cat(shifted, -1)


def _response(batches: Callable[[], Iterable[Recorded]], mean: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return the regression of the activity on recent inputs (lag, unit, channel), and what it adds to the mean."""
    gram, cross = mean.new_zeros(()), mean.new_zeros(())
    for batch in batches():
        recent = torch.nn.functional.pad(_recent(batch), (0, 1), value=1.0)
        for pattern in patterns(batch.valid, batch.observed):
            for who, when, block in residual_blocks(batch.activity, mean, pattern, 0, pattern.bins):
                seen = pattern.seen[who, when]
                regressors = recent[pattern.rows][who, when][seen]
                gram = gram + regressors.T @ regressors
                cross = cross + regressors.T @ block.view(*seen.shape, -1)[seen]
    shown = samples / gram[-1, -1].clamp(min=1)  # share of the bins, in which a unit was observed
    ridge = gram.diagonal() * (len(gram) / gram[-1, -1].clamp(min=1))  # many regressors in few bins would fit the noise
    ridge[-1] = 0.0
    solution = least_norm(gram + torch.diag(ridge), cross / shown.clamp(min=1e-12)).T
    return solution[:, :-1].unflatten(1, (RESPONSE_BINS, -1)).movedim(1, 0), solution[:, -1]
