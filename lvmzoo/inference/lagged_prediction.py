"""How one region predicts another: by lag, and beyond the pasts of all other regions.

The second is Granger's question, asked by cross-validated ridge regression. Granger (1969), doi:10.2307/1912791; for
groups of variables, conditional on others: Barrett, Barnett & Seth (2010), doi:10.1103/PhysRevE.81.041907.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.reduced_rank import Centered, HeldOut
from lvmzoo.inference.regression_moments import Scatter, ridge_explained

__all__ = ["PENALTIES", "added_by", "best_penalty", "joined", "lag_profile", "peak"]

PENALTIES = (0.001, 0.01, 0.1, 1.0)  # per training bin and mean variance of a unit
ROUNDED = 1e-12  # of 1 - NSE, below which a difference is rounding
Columns = Mapping[tuple[str, int], Int[Tensor, " unit"]]  # of a region, at a lag


def lag_profile(scatter: Scatter, columns: Columns, source: str, target: str, most: int) -> Float[Tensor, " lag"]:
    """Return how well two regions predict each other, at lags from ``-most`` to ``most`` bins of the target.

    It is the mean of 1 - NSE of the target from the source and of the source from the target, each at its best
    penalty: swapping the regions turns the profile round.
    """
    ones = torch.stack([columns[source, max(lag, 0)] for lag in range(-most, most + 1)])
    others = torch.stack([columns[target, max(-lag, 0)] for lag in range(-most, most + 1)])
    return (_by_lag(scatter, ones, others) + _by_lag(scatter, others, ones)) / 2


def _by_lag(scatter: Scatter, x: Int[Tensor, "lag p"], y: Int[Tensor, "lag q"]) -> Float[Tensor, " lag"]:
    left, right = x[:, :, None], y[:, None, :]
    training = Centered(scatter.training[:, left, x[:, None, :]], scatter.training[:, left, right])
    held_out = HeldOut(
        scatter.held_out[:, left, x[:, None, :]], scatter.held_out[:, left, right], scatter.held_out[:, y, y].sum(-1)
    )
    lags = len(x)
    found = [
        ridge_explained(training, held_out, (penalty * scatter.bins)[:, None].expand(-1, lags)).mean(0)
        for penalty in PENALTIES
    ]
    return torch.stack(found).amax(0)


def peak(profile: Float[Tensor, " lag"]) -> float:
    """Return where a profile over lags is highest, in bins from its middle, between bins by a parabola.

    Of several highest ones it is that nearest to the middle: a flat profile has no delay.
    """
    middle = len(profile) // 2
    highest = (profile == profile.max()).nonzero()[:, 0]
    top = int(highest[(highest - middle).abs().argmin()]) if len(highest) else middle
    if not 0 < top < len(profile) - 1:
        return float(top - middle)
    before, at, after = profile[top - 1 : top + 2].tolist()
    bend = before - 2 * at + after
    return top - middle + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def best_penalty(scatter: Scatter, x: Int[Tensor, " p"], y: Int[Tensor, " q"]) -> float:
    """Return the penalty with which one set of columns predicts another best."""
    scores = [float(scatter.full(x, y, penalty)) for penalty in PENALTIES]
    return PENALTIES[scores.index(max(scores))]


def added_by(
    scatter: Scatter,
    known: Int[Tensor, " k"],
    source: Int[Tensor, " p"],
    y: Int[Tensor, " q"],
    penalty: float,
    without: float | None = None,
) -> float:
    """Return by how much 1 - NSE rises when the source is known beside what is known already.

    Parameters
    ----------
    scatter : the moments.
    known, source, y : columns; those of ``y`` are predicted.
    penalty : per training bin.
    without : 1 - NSE from what is known already, where it was computed before.
    """
    if without is None:
        without = float(scatter.full(known, y, penalty))
    added = float(scatter.full(torch.cat([known, source]), y, penalty)) - without
    return added if abs(added) > ROUNDED else 0.0


def joined(columns: Columns, regions: Sequence[str], lags: Sequence[int]) -> Int[Tensor, " p"]:
    """Return the columns of some regions at some lags."""
    return torch.cat([columns[region, lag] for region in regions for lag in lags])
