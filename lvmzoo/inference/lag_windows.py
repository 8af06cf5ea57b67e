"""Windows of past bins within a trial: which bins have a whole one, and their rows.

Windows never reach across the beginning of a trial, or across a gap. A window lists its lags one after the other, all
units of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

__all__ = ["lagged", "paired_trials", "whole_windows"]


def lagged(values: Shaped[Tensor, "trial bin unit"], lags: Sequence[int]) -> Shaped[Tensor, "trial bin column"]:
    """Return for each bin the values that many bins before it; zero, or False, before the beginning of the trial."""
    if list(lags) == [0]:
        return values
    bins = values.shape[1]
    pad = torch.nn.functional.pad
    return torch.cat([pad(values, (0, 0, lag, 0))[:, :bins] if lag else values for lag in lags], -1)


def whole_windows(observed: Bool[Tensor, "trial bin"], lags: Sequence[int]) -> Bool[Tensor, "trial bin"]:
    """Return the bins that are themselves observed, with every bin of their window."""
    return observed & lagged(observed[..., None], lags).all(-1)


def paired_trials(permutation: Int[Tensor, " trial"], usable: Bool[Tensor, "trial bin"]) -> Int[Tensor, "trial bin"]:
    """Return the trial whose window takes the place of a trial's own in each usable bin, under a permutation of trials.

    Where that trial has no usable bin there, its own successor follows, so that each window that was there is there
    once, and ragged trials or missing bins take nothing away.
    """
    bins = torch.arange(usable.shape[1], device=usable.device)
    found = permutation.to(usable.device)[:, None].expand(usable.shape)
    while True:
        lost = usable & ~usable[found, bins]
        if not bool(lost.any()):
            return found
        found = torch.where(lost, permutation.to(usable.device)[found], found)
