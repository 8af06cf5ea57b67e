"""Sums of products of two regions by fold, each condition's mean course taken off by the training trials of each fold.

A mean over all trials holds those left out, too: two trials of a condition would then differ from it by the same, one
up and one down, in every region, and what is fitted to one would predict the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.inference.lag_map import LaggedProducts, Sums, without_fold

__all__ = ["Gathered", "PairProducts", "Wide", "less_course"]

ROUNDING = 1e-11  # of a value, below which what is left of it without its mean is rounding


class Wide(NamedTuple):
    """Regions with their nuisance columns beside them, and the folds of trials."""

    regions: Mapping[str, Float[Tensor, "trial bin all"]]  # units, nuisance columns, and those of conditions
    nuisance: int
    levels: int
    fold: Int[Tensor, " trial"]
    folds: int
    course: Int[Tensor, " trial"] | None = None  # condition whose mean course is taken off, -1: that of all; None: none


class Gathered(NamedTuple):
    """Sums of two regions over each fold, over what the fold is fitted to, and those of each fold of the latter."""

    sums: Sums
    training: Sums
    rests: Sequence[Sums]


class PairProducts:
    """Sums of products of any arrangement of a first region with a fixed second one.

    Parameters
    ----------
    wide : the regions' folds and columns.
    y : the second region.
    lags : largest lag, in bins.
    """

    def __init__(self, wide: Wide, y: Float[Tensor, "trial bin all"], lags: int) -> None:
        self._wide, self._narrow = wide, slice(0, -wide.levels or None)
        self._y = self._cleaned(y)
        self._products = [
            LaggedProducts(part[..., self._narrow], wide.fold, wide.folds, lags, len(self._y)) for part in self._y
        ]
        self._within = [lagged.within(part) for lagged, part in zip(self._products, self._y, strict=True)]

    def gathered(self, x: Float[Tensor, "trial bin all"], weight: Float[Tensor, " trial"] | None = None) -> Gathered:
        """Return the sums with x as the first region, trials counted ``weight`` times."""
        found = []
        for part, y, lagged, within in zip(self._cleaned(x), self._y, self._products, self._within, strict=True):
            own = within if weight is None else lagged.within(y, weight)
            found.append(Sums(lagged.cross(part[..., self._narrow], weight), lagged.within(part, weight), own))
        if self._wide.course is None:
            (sums,) = found
            rests = [without_fold(sums, fold) for fold in range(self._wide.folds)]
            return Gathered(sums, Sums(*(leaf.sum(0) - leaf for leaf in sums)), rests)
        rests = [without_fold(sums, fold) for fold, sums in enumerate(found)]
        held = (torch.stack([leaf[fold] for fold, leaf in enumerate(each)]) for each in zip(*found, strict=True))
        training = (torch.stack([leaf.sum(0) for leaf in each]) for each in zip(*rests, strict=True))
        return Gathered(Sums(*held), Sums(*training), rests)

    def instead(
        self, gathered: Gathered, x: Float[Tensor, "trial bin all"], weight: Float[Tensor, " trial"] | None = None
    ) -> Gathered:
        """Return sums with the covariance of another x in their place, where no course is taken off."""
        cross = self._products[0].cross(x[..., self._narrow], weight)
        training = gathered.training._replace(cross=cross.sum(0) - cross)
        return Gathered(gathered.sums._replace(cross=cross), training, ())

    def _cleaned(self, z: Float[Tensor, "trial bin all"]) -> Sequence[Float[Tensor, "trial bin all"]]:
        """Return the region once for all folds, or, less its courses over the training trials, once for each."""
        wide = self._wide
        if wide.course is None:
            return [z]
        others = wide.nuisance + wide.levels
        return [less_course(z, others, wide.course, wide.fold != fold) for fold in range(wide.folds)]


def less_course(
    z: Float[Tensor, "trial bin all"], others: int, course: Int[Tensor, " trial"], train: Bool[Tensor, " trial"]
) -> Float[Tensor, "trial bin all"]:
    """Return a region less its mean in each bin of the training trials of the same condition.

    Where these have none, it is the mean of all training trials in that bin; where there is none, either, zero.

    Parameters
    ----------
    z : a widened region; bins that do not count are zero.
    others : number of columns beside the units, of which the first is the constant.
    course : condition of each trial; -1: all trials count as its condition.
    train : the training trials.
    """
    units = z.shape[-1] - others
    wide = z[..., : units + 1]
    rows = int(course.max().clamp(min=-1)) + 2
    row = torch.where(course < 0, rows - 1, course)
    sums = z.new_zeros(rows, z.shape[1], units + 1).index_add_(0, row[train], wide[train])
    sums[-1] = wide[train].sum(0)
    mean = sums[..., :-1] / sums[..., -1:].clamp(min=1)
    mean = torch.where(sums[..., -1:] > 0, mean, mean[-1])[row]
    left = torch.where(wide[..., -1:] != 0, wide[..., :-1] - mean, 0.0)
    left = torch.where(left.abs() <= ROUNDING * wide[..., :-1].abs(), 0.0, left)
    return torch.cat([left, z[..., units:]], -1)
