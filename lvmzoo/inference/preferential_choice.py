"""Choice of state dimensions and horizon of preferential subspace identification, by cross-validation on moments.

The moments of a fold are subtracted from those of all folds, and the held-out errors of what the identified Kalman
predictor says of the next bins follow from its own moments: the data are not looked at again. The smallest candidate is
taken that is worse than the best by at most one standard error of their differences, fold by fold.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.hankel import HankelMoments, column_means, covariance, steadying_noise
from lvmzoo.inference.preferential import Identified, Subspaces, Window, whiten
from lvmzoo.inference.preferential_system import fading, usable

__all__ = ["Choice", "Curve", "by_dimension", "choose", "one_standard_error"]


class Curve(NamedTuple):
    """Cross-validated share of variance explained, by candidate."""

    candidates: tuple[int, ...]
    explained: Float[Tensor, "fold candidate"]
    chosen: int


class Choice(NamedTuple):
    """What was chosen, and the curves of what was left to choose."""

    horizon: int
    relevant: int
    latents: int
    curves: dict[
        str, Curve
    ]  # "relevant": of future behavior; "latents": of future activity; "horizon": of the next bin


def choose(
    moments: HankelMoments,
    kind: Tensor,
    window: Window,
    horizons: Sequence[int],
    relevant: Sequence[int],
    latents: Sequence[int],
) -> Choice:
    """Return the horizon, and the state dimensions at that horizon; what has one candidate is not compared.

    Parameters
    ----------
    moments : a group a fold; the last group belongs to none of them.
    kind : of each column, see ``covariance``.
    window : what lies where in the windows.
    horizons, relevant, latents : candidates, rising; latents count the relevant ones, too.
    """
    folds = _folds(moments, kind, window)
    found = [_at_horizon(folds, window, horizon, relevant, latents) for horizon in horizons]
    scores = torch.stack([score for _, score in found], 1)
    best = one_standard_error(scores) if len(horizons) > 1 else 0
    choice = found[best][0]
    if len(horizons) > 1:
        choice.curves["horizon"] = Curve(tuple(horizons), scores, horizons[best])
    return choice


def by_dimension(
    moments: HankelMoments, kind: Tensor, window: Window, horizon: int, relevant: int, latents: Sequence[int]
) -> dict[str, Curve]:
    """Return how much of the next bin's behavior is explained by models of several sizes.

    "preferential": as many states for behavior as there are, at most ``relevant``; "plain": none, that is subspace
    identification.

    Parameters
    ----------
    moments, kind, window : as for ``choose``.
    horizon : bins of past and future.
    relevant : most states that behavior chooses.
    latents : numbers of states, rising.
    """
    folds = _folds(moments, kind, window)
    subspaces = [Subspaces(train, window, horizon) for train, _ in folds]
    latents = [n for n in latents if max(n - relevant, 0) <= window.units * (horizon - 1)]
    curves = {}
    for name, most in (("preferential", relevant), ("plain", 0)):
        pairs = [(min(most, n), n) for n in latents]
        curves[name] = Curve(tuple(latents), _scores(subspaces, folds, window, "behavior", pairs, 1), relevant)
    return curves


def _folds(moments: HankelMoments, kind: Tensor, window: Window) -> list[tuple[Tensor, Tensor]]:
    """Return the covariances of the training and of the held-out windows of each fold."""
    folds = []
    everything = torch.ones(len(moments.windows), dtype=torch.bool, device=kind.device)
    everything[-1] = False
    for held_out in (moments.windows[:-1] > 0).nonzero().flatten().tolist():
        test = torch.zeros_like(everything)
        test[held_out] = True
        train = everything & ~test
        mean = column_means(moments, train, kind)
        moment = covariance(moments, train, kind, mean)
        added = steadying_noise(moments, train, kind, moment, window.units)
        moment.diagonal().add_(added.repeat(window.lags))
        folds.append((moment, covariance(moments, test, kind, mean)))
    return folds


def _scores(
    subspaces: Sequence[Subspaces],
    folds: Sequence[tuple[Tensor, Tensor]],
    window: Window,
    part: str,
    pairs: Sequence[tuple[int, int]],
    farthest: int | None = None,
) -> Float[Tensor, "fold candidate"]:
    """Return how much of a part models of (relevant, all) states explain."""
    rows = [
        [_explained(spaces.solve(*pair), window, part, train, test, farthest) for pair in pairs]
        for spaces, (train, test) in zip(subspaces, folds, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def one_standard_error(explained: Float[Tensor, "fold candidate"]) -> int:
    """Return the first candidate that is worse than the best by at most the standard error of the differences."""
    best = int(explained.mean(0).argmax())
    behind = explained[:, best, None] - explained
    error = behind.std(0, correction=1) / len(explained) ** 0.5 if len(explained) > 1 else torch.zeros_like(behind[0])
    return int((behind.mean(0) <= error).int().argmax())


def _at_horizon(
    folds: Sequence[tuple[Tensor, Tensor]],
    window: Window,
    horizon: int,
    relevant: Sequence[int],
    latents: Sequence[int],
) -> tuple[Choice, Float[Tensor, " fold"]]:
    """Return the dimensions at a horizon, and how well the model of these predicts in each fold."""
    curves = {}
    # More states than channels x further bins could not be followed from one bin to the next.
    relevant = [n for n in relevant if n <= window.behavior * (horizon - 1)] or relevant[:1]
    latents = [n for n in latents if n <= window.units * (horizon - 1)] or latents[:1]
    subspaces = [Subspaces(train, window, horizon) for train, _ in folds]

    explained = functools.partial(_scores, subspaces, folds, window)
    n1 = relevant[0]
    if len(relevant) > 1:
        scores = explained("behavior", [(n, n) for n in relevant])
        n1 = relevant[one_standard_error(scores)]
        curves["relevant"] = Curve(tuple(relevant), scores, n1)
    candidates = [n for n in latents if n >= n1] or [n1]
    n = candidates[0]
    if len(candidates) > 1:
        scores = explained("units", [(n1, n) for n in candidates])
        n = candidates[one_standard_error(scores)]
        curves["latents"] = Curve(tuple(candidates), scores, n)
    last = explained("behavior" if window.behavior and n1 else "units", [(n1, n)])
    return Choice(horizon, n1, n, curves), last[:, 0]


def _explained(
    found: Identified, window: Window, part: str, train: Tensor, test: Tensor, farthest: int | None = None
) -> float:
    """Return the share of the held-out variance of the next bins that the Kalman predictor explains.

    Bins 1, 2, 4, 8, … ahead, up to the farthest, count alike, and so does each channel of behavior; units count by
    their variance. The predictor has seen the first half of the window only, and knows the inputs of the bins that it
    predicts. Behavior is read out from its states, by their regression on the training windows.
    """
    middle, n = window.lags // 2, len(found.dynamics)
    units = len(found.readout)
    state = train.new_zeros(n, len(train))
    A, B, C, D = found.dynamics, found.drive, found.readout, found.feedthrough
    if n:
        ones = torch.ones(units, dtype=train.dtype, device=train.device)
        system = usable(found, ones, torch.zeros_like(ones))
        A, P = system.dynamics, system.predicted
        K = torch.linalg.solve(C @ P @ C.T + system.noise, (A @ P @ C.T + system.cross).T).T
        both = torch.cat([K, B - K @ D], 1)
        for t in range(middle - 1, -1, -1):
            state[:, window.places(t, t + 1, "units", "inputs")] = both
            both = (A - K @ C) @ both
    coming = fading(A)
    read, direct = (C, D) if part == "units" else (found.behavior, found.behavior_feedthrough)
    if part == "behavior" and n:
        target = window.places(middle, middle + 1, "behavior")
        rest = -direct @ torch.eye(len(train)).to(train)[window.places(middle, middle + 1, "inputs")]
        rest[torch.arange(len(target)), target] += 1
        white = whiten(state @ train @ state.T)
        read = rest @ train @ state.T @ white @ white.T
    error, total = 0.0, 0.0
    for ahead in range(farthest or middle):
        if ahead & (ahead + 1) == 0:  # 0, 1, 3, 7, …
            target = window.places(middle + ahead, middle + ahead + 1, part)
            variance = train[target, target]
            weight = torch.ones_like(variance) if part == "units" else variance.clamp(min=1e-300).reciprocal()
            weight = torch.where(variance > 0, weight, 0.0)
            left = -read @ state
            left[:, window.places(middle + ahead, middle + ahead + 1, "inputs")] -= direct
            left[torch.arange(len(target)), target] += 1
            error += float(((left @ test) * left).sum(1) @ weight)
            total += float(test[target, target] @ weight)
        state = coming @ state
        state[:, window.places(middle + ahead, middle + ahead + 1, "inputs")] += B
    return 1 - error / max(total, 1e-300)
