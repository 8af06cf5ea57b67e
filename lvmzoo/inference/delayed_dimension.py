"""How many processes regions share, and how many each has for itself: in two stages, by cross-validation over trials.

The dimension of each region is that of a factor analysis of its bins, and a first number of what is shared that of the
covariances between regions; both from moments, which cost little. Fits with numbers around it are compared by the
likelihood of trials left out: more processes across regions leave fewer for each region alone.

Gokcen et al. (2022), doi:10.1038/s43588-022-00282-5.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.delayed_beginning import fit_anew, moments_of
from lvmzoo.inference.delayed_expectations import log_likelihood
from lvmzoo.inference.delayed_refits import Recordings
from lvmzoo.inference.gaussian_process_dimension import fewest_within_one_error
from lvmzoo.inference.maximization import noise_floor
from lvmzoo.inference.shared_variance import FoldMoments, cross_validate

__all__ = ["RegionalData", "Sizes", "choose_sizes", "fold_of_trials"]

logger = logging.getLogger("lvmzoo")

PASSES = 30  # of each fit at most
GAIN = 5.0  # nats over five steps below which a fit is over
COMPARED = 3  # folds that numbers of latents are compared in, at most
MOST = 12  # dimensions of a region
FALLS = 1  # numbers in a row that predict worse, after which none beyond are tried


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

    The numbers across regions that are compared begin with the one that moments tell, and go on up and down until one
    predicts worse than the best. Of them, the smallest one whose likelihood is within one standard error of the
    best is taken, the error being that of the difference, fold by fold; then numbers within regions fall while that
    holds of them.
    """
    whole = max(dimension for session in sessions for dimension in _dimensions(session, folds))
    if across is not None:
        kept = within if within is not None else max(whole - across, 0)
        return Sizes(across, kept, (), np.zeros((0, 0)))
    largest = max(_largest(session) for session in sessions)
    most = min(largest, MOST if within is not None else max(whole, 1))
    used = [k * folds // min(folds, COMPARED) for k in range(min(folds, COMPARED))]
    scores: dict[int, list[float]] = {}

    def score(number: int) -> float:
        own = within if within is not None else max(whole - number, 0)
        if number not in scores:
            logger.info(
                "Comparing numbers of latents, %d of at most %d: %d across regions, %d within each",
                *(len(scores) + 1, most, number, own),
            )
            scores[number] = _score(sessions, number, own, folds, used) if number + own else [-np.inf]
        return float(np.mean(scores[number]))

    first = min(max(1, max(shared_dimensions(session, folds) for session in sessions)), most)
    best = score(first)
    for direction in (-1, 1):
        falls, number = 0, first + direction
        while 0 < number <= most and falls < FALLS:
            value = score(number)
            best, falls = (value, 0) if value > best else (best, falls + 1)
            number += direction
    candidates = tuple(sorted(scores))
    table = np.array([scores[number] for number in candidates]).T
    chosen = fewest_within_one_error(-table, candidates) if len(table) > 1 else first
    own = within if within is not None else max(whole - chosen, 0)
    reached = np.array(scores[chosen])
    while within is None and own and len(reached) > 1:
        logger.info(
            "Comparing numbers of latents: %d across regions, %d within each instead of %d", chosen, own - 1, own
        )
        fewer = np.array(_score(sessions, chosen, own - 1, folds, used))
        lost = reached - fewer
        if lost.mean() > lost.std(ddof=1) / len(lost) ** 0.5:
            break
        own, reached = own - 1, fewer
    logger.info("Numbers of latents: %d across regions, %d within each", chosen, own)
    return Sizes(chosen, own, candidates, table)


def shared_dimensions(session: RegionalData, folds: int) -> int:
    """Return how many directions of a region covary with another one, at any lag, by trials left out.

    A process that two regions see is one direction of each, whatever its delay. Directions are those of the covariances
    at all lags side by side, and the covariances within them predict those of the trials left out.
    """
    data, found = session.data, 0
    fold = fold_of_trials(len(data.valid), folds).to(data.valid.device)
    count = int(fold.max()) + 1 if len(fold) else 0
    if count < 2:
        return 1
    moments = [moments_of(data.some(fold == k)) for k in range(count)]
    lags = min(len(own.covariance) for own in moments)
    pairs = torch.stack([own.pairs[:lags] for own in moments])
    values = torch.stack([own.covariance[:lags] for own in moments])
    for one, other in itertools.combinations(session.regions, 2):
        size = min(one.stop - one.start, other.stop - other.start, MOST)
        if size < 1:
            continue
        errors = values.new_zeros(count, size + 1)
        for k in range(count):
            kept = torch.arange(count) != k
            weight = pairs[kept][:, :, None, None]
            known = (values[kept] * weight).sum(0) / weight.sum(0).clamp(min=1)
            whiten = [_inverse_root(known[0][units, units]) for units in (one, other)]
            train, test = (_across(C, one, other, whiten) for C in (known, values[k]))
            share = (pairs[k] / pairs[k, 0].clamp(min=1)).sqrt()
            share = torch.cat([share, share[1:]])[:, None, None]
            train, test = train * share, test * share
            left = torch.linalg.svd(train.movedim(0, 1).flatten(1), full_matrices=False)[0]
            right = torch.linalg.svd(train.permute(2, 0, 1).flatten(1), full_matrices=False)[0]
            inside, target = left.T @ train @ right, left.T @ test @ right
            errors[k] = torch.stack(
                [_missed(inside[:, :size, :size], target[:, :size, :size], n) for n in range(size + 1)]
            )
        found = max(found, int(errors.sum(0).argmin()))
    return found


def _missed(inside: Float[Tensor, "lag one other"], target: Float[Tensor, "lag one other"], n: int) -> Tensor:
    """Return the change of the squared error by predicting the first ``n`` directions."""
    own, its = inside[:, :n, :n], target[:, :n, :n]
    return own.square().sum() - 2 * (own * its).sum()


def _across(
    C: Float[Tensor, "lag unit unit"], one: slice, other: slice, whiten: Sequence[Tensor]
) -> Float[Tensor, "both_ways one_unit other_unit"]:
    """Return whitened covariances between two regions, the second one first, then at lags the other way round."""
    there, back = C[:, one, other], C[1:, other, one].mT
    return whiten[0] @ torch.cat([there, back]) @ whiten[1]


def _inverse_root(S: Float[Tensor, "own own"]) -> Float[Tensor, "own own"]:
    values, vectors = torch.linalg.eigh(S)
    keep = values > 1e-9 * values[-1].clamp(min=1e-300)
    return (vectors * torch.where(keep, values.clamp(min=1e-300).rsqrt(), 0.0)) @ vectors.T


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


def _score(sessions: Sequence[RegionalData], across: int, within: int, folds: int, used: Sequence[int]) -> list[float]:
    """Return the log-likelihood per bin of each of some folds left out."""
    found = []
    for k in used:
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
