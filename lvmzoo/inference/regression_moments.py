"""Second moments between the regions of a session, fold by fold, for every regression between them.

Rows are bins whose windows are whole; columns are the units of the regions, at each of their lags. One set of sums
serves every pair of regions, lag, rank and penalty. Trials of a region can be exchanged, and trials be resampled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.reduced_rank import (
    Centered,
    HeldOut,
    explained_by_rank,
    spectrum_of,
)

__all__ = ["ROUNDING", "Rows", "Scatter", "without_columns"]

ROUNDING = 1e-10  # of a unit's root mean square, its mean included: what varies less is constant


class Scatter(NamedTuple):
    """Products of all columns around the training mean: of the other folds, and of the fold left out."""

    training: Float[Tensor, "fold column column"]
    held_out: Float[Tensor, "fold column column"]
    bins: Float[Tensor, " fold"]  # of the other folds
    held_bins: Float[Tensor, " fold"]

    def between(self, x: Int[Tensor, " p"], y: Int[Tensor, " q"]) -> tuple[Centered, HeldOut]:
        """Return what the regression of columns ``y`` on columns ``x`` needs."""
        training = Centered(self.training[:, x[:, None], x], self.training[:, x[:, None], y])
        total = self.held_out[:, y, y].sum(1)
        return training, HeldOut(self.held_out[:, x[:, None], x], self.held_out[:, x[:, None], y], total)

    def by_rank(self, x: Int[Tensor, " p"], y: Int[Tensor, " q"], ridge: float) -> Float[Tensor, "fold rank"]:
        """Return 1 - NSE of each fold by rank, from 0."""
        training, held_out = self.between(x, y)
        return explained_by_rank(spectrum_of(training), held_out, ridge)

    def full(self, x: Int[Tensor, " p"], y: Int[Tensor, " q"], penalty: float) -> Float[Tensor, ""]:
        """Return the mean 1 - NSE over folds of ridge regression with a penalty per training bin."""
        training, held_out = self.between(x, y)
        return ridge_explained(training, held_out, self.bins * penalty).mean(-1)


def ridge_explained(training: Centered, held_out: HeldOut, penalty: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return 1 - NSE of ridge regression, of every fold."""
    identity = torch.eye(training.xx.shape[-1], dtype=training.xx.dtype, device=training.xx.device)
    root = torch.linalg.cholesky(training.xx + penalty[..., None, None] * identity)
    weights = torch.cholesky_solve(training.xy, root)
    gain = (weights * (2 * held_out.xy - held_out.xx @ weights)).sum((-2, -1))
    return gain / held_out.yy.clamp(min=torch.finfo(gain.dtype).tiny)


class Rows:
    """Windows of the regions, one row a bin, and what sums over them need.

    Parameters
    ----------
    values : a column a unit and lag; made of zero mean.
    trial : of each row.
    fold, folds : of each row, and their number.
    group, groups : rows of a group share a mean; None: all do.
    """

    def __init__(
        self,
        values: Float[Tensor, "row column"],
        trial: Int[Tensor, " row"],
        fold: Int[Tensor, " row"],
        folds: int,
        group: Int[Tensor, " row"] | None = None,
        groups: int = 1,
    ) -> None:
        self.order = torch.argsort(fold, stable=True)
        self.values = values[self.order]
        self.values -= self.values.mean(0)
        self.trial, self.fold = trial[self.order], fold[self.order]
        self.folds, self.groups = folds, groups
        self.cell = self.fold * groups + (0 if group is None else group[self.order])
        self.counts = torch.bincount(self.fold, minlength=folds).tolist()
        self._ones = torch.ones(len(fold), dtype=values.dtype, device=values.device)
        self._products, self._sums = self._moments(self.values, self.values)

    def scatter(self) -> Scatter:
        """Return the moments of what was recorded."""
        return self._scatter(self._products, self._sums, self._ones)

    def whole(self) -> tuple[Float[Tensor, "column column"], float]:
        """Return the products around the means of all rows, and the number of rows."""
        counts = torch.bincount(self.cell, minlength=self.folds * self.groups).view(self.folds, self.groups)
        sums, total = self._sums.sum(0), counts.sum(0).clamp(min=1)[:, None]
        return self._products.sum(0) - (sums / total).mT @ sums, float(counts.sum())

    def resampled(self, times: Float[Tensor, " trial"]) -> Scatter:
        """Return the moments with each trial counted that many times; all copies are in its fold."""
        weights = times[self.trial]
        weighted = self.values * weights[:, None]
        return self._scatter(*self._moments(self.values, weighted), weights)

    def exchanged(self, columns: slice, rows: Int[Tensor, " row"]) -> Scatter:
        """Return the moments after some columns are taken from other rows, a permutation in the order given at first.

        Parameters
        ----------
        columns : of one region.
        rows : for each row that from which these columns come.
        """
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(place), device=place.device)
        taken = place[rows[self.order]]
        moved = self.values[taken, columns]
        products, sums = self._products.clone(), self._sums.clone()
        if not torch.equal(self.fold[taken], self.fold):
            products[:, columns, columns], sums[..., columns] = self._moments(moved, moved)
        for fold, (one, other) in enumerate(zip(moved.split(self.counts), self.values.split(self.counts), strict=True)):
            for rest in (slice(0, columns.start), slice(columns.stop, None)):
                cross = one.mT @ other[:, rest]
                products[fold, columns, rest], products[fold, rest, columns] = cross, cross.mT
        return self._scatter(products, sums, self._ones)

    def _moments(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return products of the columns by fold, and sums of the right ones by fold and group."""
        parts = zip(left.split(self.counts), right.split(self.counts), strict=True)
        products = torch.stack([one.mT @ other for one, other in parts])
        sums = right.new_zeros(self.folds * self.groups, right.shape[1]).index_add_(0, self.cell, right)
        return products, sums.view(self.folds, self.groups, -1)

    def _scatter(self, products: Tensor, sums: Tensor, weights: Tensor) -> Scatter:
        counts = weights.new_zeros(self.folds * self.groups).index_add_(0, self.cell, weights)
        counts = counts.view(self.folds, self.groups, 1)
        used = counts.sum((1, 2)) > 0
        others = counts.sum(0) - counts
        training_sums = sums.sum(0) - sums
        mean = training_sums / others.clamp(min=1)
        off = sums - counts * mean
        training = products.sum(0) - products - mean.mT @ training_sums
        held_out = products - mean.mT @ sums - off.mT @ mean
        return Scatter(training[used], held_out[used], others.sum((1, 2))[used], counts.sum((1, 2))[used])


def without_columns(scatter: Scatter, columns: slice) -> Scatter:
    """Return the moments of all columns less what some of them predict, by least squares on the training folds."""
    if columns.stop == columns.start:
        return scatter
    own = scatter.training[:, columns, columns]
    tiny = own.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * 1e-10
    identity = torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
    weights = torch.linalg.solve(own + tiny.clamp(min=1e-300) * identity, scatter.training[:, columns])
    training = scatter.training - scatter.training[:, :, columns] @ weights
    cross = scatter.held_out[:, :, columns] @ weights
    square = weights.mT @ scatter.held_out[:, columns, columns] @ weights
    return Scatter(training, scatter.held_out - cross - cross.mT + square, scatter.bins, scatter.held_bins)
