"""How many processes regions share, and how many each has for itself: in two stages, by cross-validation over trials.

The dimension of each region is that of a factor analysis of its bins. What of it is shared is then decided by the
likelihood of trials left out: more processes across regions leave fewer for each region alone.

Gokcen et al. (2022), doi:10.1038/s43588-022-00282-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.delayed_beginning import fit_anew
from lvmzoo.inference.delayed_expectations import log_likelihood
from lvmzoo.inference.delayed_fit import Recordings
from lvmzoo.inference.gaussian_process_dimension import fewest_within_one_error
from lvmzoo.inference.maximization import noise_floor
from lvmzoo.inference.shared_variance import FoldMoments, cross_validate

__all__ = ["RegionalData", "Sizes", "choose_sizes", "fold_of_trials"]

PASSES = 60  # of each fit at most
GAIN = 1.0  # nats over five steps below which a fit is over
MOST = 12  # dimensions of a region
FALLS = 2  # numbers in a row that predict worse, after which no larger ones are tried


class RegionalData(NamedTuple):
    """Training trials of one session, and the units of each region."""

    data: Recordings
    regions: tuple[slice, ...]
    counts: bool


class Sizes(NamedTuple):
    """What was chosen, and the log-likelihood of the trials left out for each number of processes across regions."""

    across: int
    within: int
    candidates: tuple[int, ...]
    scores: Float[np.ndarray, "fold candidate"]  # nats per bin


def fold_of_trials(trials: int, folds: int) -> Int[Tensor, " trial"]:
    """Return the fold of each trial: contiguous, as many as there are trials for."""
    return torch.arange(trials) * min(folds, trials) // max(trials, 1)


def choose_sizes(sessions: Sequence[RegionalData], across: int | None, within: int | None, folds: int) -> Sizes:
    """Return the numbers of processes across regions and within each; those given are kept.

    Of the numbers across regions, the smallest one whose likelihood is within one standard error of the best is taken,
    the error being that of the difference, fold by fold.
    """
    whole = max(dimension for session in sessions for dimension in _dimensions(session, folds))
    if across is not None:
        kept = within if within is not None else max(whole - across, 0)
        return Sizes(across, kept, (), np.zeros((0, 0)))
    largest = max(_largest(session) for session in sessions)
    most = min(largest, MOST if within is not None else max(whole, 1))
    scores: list[list[float]] = []
    falls, best = 0, -np.inf
    for number in range(most + 1):
        own = within if within is not None else max(whole - number, 0)
        scores.append(_score(sessions, number, own, folds) if number + own else [-np.inf] * folds)
        value = float(np.mean(scores[-1]))
        best, falls = (value, 0) if value > best else (best, falls + 1)
        if falls == FALLS:
            break
    table = np.array(scores).T
    candidates = tuple(range(len(scores)))
    chosen = max(1, fewest_within_one_error(-table, candidates)) if len(table) > 1 else 1
    return Sizes(chosen, within if within is not None else max(whole - chosen, 0), candidates, table)


def _largest(session: RegionalData) -> int:
    """Return the largest number of processes that two regions can share."""
    units = sorted((region.stop - region.start for region in session.regions), reverse=True)
    return max(1, units[1] - 1)


def _dimensions(session: RegionalData, folds: int) -> list[int]:
    """Return the number of factors of each region that predicts bins of the folds left out best."""
    data, found = session.data, [1]
    shown = data.observed & data.valid[..., None]
    fold = fold_of_trials(len(data.valid), folds)
    counted = shown.sum((0, 1)).clamp(min=1)
    mean = torch.where(shown, data.activity, 0.0).sum((0, 1)) / counted
    values = torch.where(shown, data.activity - mean, 0.0)
    for region in session.regions:
        if region.stop - region.start < 2 or int(fold.max()) < 1:
            continue
        parts = [values[fold == k][data.valid[fold == k]][:, region] for k in range(int(fold.max()) + 1)]
        moments = FoldMoments(
            values.new_tensor([float(len(part)) for part in parts]),
            torch.stack([part.sum(0) for part in parts]),
            torch.stack([part.T @ part for part in parts]),
        )
        variance = moments.products.sum(0).diagonal() / moments.bins.sum().clamp(min=1)
        found.append(min(MOST, int(cross_validate(moments, noise_floor(variance, session.counts)).latents)))
    return found


def _score(sessions: Sequence[RegionalData], across: int, within: int, folds: int) -> list[float]:
    """Return the log-likelihood per bin of each fold left out."""
    found = []
    for k in range(folds):
        nats, bins = 0.0, 0.0
        for data, regions, counts in sessions:
            fold = fold_of_trials(len(data.valid), folds).to(data.valid.device)
            held, kept = data.some(fold == k), data.some(fold != k)
            if len(held.valid) and len(kept.valid):
                model = fit_anew(kept, regions, across, within, counts, PASSES, GAIN)
                nats += float(log_likelihood(model, *held).sum())
                bins += float(held.valid.sum())
        if bins:
            found.append(nats / bins)
    return found
