"""Random draws for the trials of a batch, the same however many processes share the trials of a step.

Every process seeds torch from (seed, step) before a loss. What is drawn for each trial is drawn for all trials of the
step, in the same order everywhere; a process keeps the part of its own trials.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch

__all__ = ["across", "dropout"]


def across(batch: Batch, draw: Callable[[int], Tensor], dim: int = 0) -> Tensor:
    """Return what ``draw`` gives for the trials of the batch, along ``dim``; zeros for fillers.

    ``draw`` takes the number of trials, and draws from torch's random state.
    """
    if batch.share is None:
        return draw(batch.n_trials)
    trials, first = batch.share
    own = draw(trials).narrow(dim, min(first, trials), max(0, min(batch.n_trials, trials - first)))
    shape = list(own.shape)
    shape[dim] = batch.n_trials - shape[dim]
    return torch.cat([own, own.new_zeros(shape)], dim) if shape[dim] else own


def dropout(batch: Batch, values: Float[Tensor, "*shape"], probability: float, dim: int = 0) -> Float[Tensor, "*shape"]:
    """Return values of which a fraction is zero and the others are scaled up; trials lie along ``dim``."""
    if not probability:
        return values

    def scale(trials: int) -> Tensor:
        shape = list(values.shape)
        shape[dim] = trials
        return values.new_empty(shape).bernoulli_(1 - probability).div_(1 - probability)

    return values * across(batch, scale, dim)
