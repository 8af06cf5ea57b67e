"""The posterior of processes with delays, shared by trials that show the same samples.

The nugget is white and goes into the noise exactly, region by region: what is observed in one region says of another
only what smooth processes across regions carry. Regions meet in the weights of the features alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from lvmzoo.inference.delayed_arrow import Arrow
from lvmzoo.inference.delayed_processes import DelayedProcesses, Features
from lvmzoo.inference.patterns import Pattern

__all__ = ["Posterior", "Solution", "residuals"]

TOGETHER = 2**19  # samples of activity that are converted to float64 at a time: 4 MB


def residuals(
    model: DelayedProcesses, activity: Num[Tensor, "trial bin unit"], pattern: Pattern
) -> Iterator[tuple[Tensor, Float[Tensor, "some bin unit"]]]:
    """Yield (rows of the batch, y - d) of some trials at a time; zero where nothing is observed."""
    bins, units = pattern.bins, activity.shape[-1]
    rows = pattern.rows
    if isinstance(rows, slice):
        rows = torch.arange(rows.start, rows.stop)
    hidden = ~(pattern.mask[0] if pattern.mask is not None else pattern.seen[0][:, None] & pattern.units)
    complete = not bool(hidden.any())
    for some in rows.split(max(1, TOGETHER // max(1, bins * units))):
        block = activity[some, :bins].to(model.offset.dtype).sub_(model.offset)
        yield some, block if complete else block.masked_fill_(hidden, 0.0)


@dataclass(frozen=True)
class Solution:
    """Posterior means of trials that share a posterior."""

    x: Float[Tensor, "trial bin region column"]
    weights: Float[Tensor, "feature trial"]
    pull: Float[Tensor, "trial bin region column"]  # of the activity on the processes: C' times its whitened residual
    quadratic: Float[Tensor, " trial"]  # what the processes explain of (y - d)' R^-1 (y - d)


class Posterior:
    """What the activity does not enter, of trials that show the same samples.

    Where every bin shows the same units, matrices of a region hold for all bins; else they have one for each bin.
    """

    def __init__(self, model: DelayedProcesses, pattern: Pattern, features: Features) -> None:
        self.model, self.features, self.bins = model, features, pattern.bins
        self.complete = pattern.mask is None and bool(pattern.seen[0].all())
        if pattern.mask is None:
            shown = pattern.units if self.complete else pattern.seen[0][:, None] & pattern.units
        else:
            shown = pattern.mask[0]
        self.shown = shown
        C, columns = model.readout, model.readout.shape[1]
        self.weights = C / model.noise[:, None]
        products = (C[:, :, None] * self.weights[:, None, :]).flatten(1)
        J = torch.stack([shown[..., units].to(products) @ products[units] for units in model.regions], -2)
        J = J.unflatten(-1, (columns, columns))  # (bin,) region column column
        loaded = torch.eye(columns).to(J) + model.nugget * J
        self.shrink = torch.linalg.inv(loaded)  # x = shrink s + white h is the mean given s
        self.white = model.nugget * self.shrink
        information = self.shrink @ J
        self.information = (information + information.mT) / 2
        repeats = self.bins if self.complete else 1
        self.log_determinant = torch.logdet(loaded).sum() * repeats
        self.grams: list[Tensor] = []
        hub, borders, arms = torch.eye(features.shared).to(C), [], []
        for region, seen in enumerate(features.seen):
            if self.complete:
                self.grams.append(seen.values.T @ seen.values)
                part = self.grams[region] * self.information[region][seen.owner][:, seen.owner]
            else:
                part = torch.cat([seen.values[:, own].T @ self.loaded(region, c) for c, own in enumerate(seen.slices)])
            hub += part[: len(hub), : len(hub)]
            borders.append(part[len(hub) :, : len(hub)])
            arm = part[len(hub) :, len(hub) :]
            arms.append(arm + torch.eye(len(arm)).to(arm))
        self.precision = Arrow(hub, borders, arms)  # of the weights of the features
        self.log_determinant = self.log_determinant + self.precision.log_determinant

    def constant(self) -> Float[Tensor, ""]:
        """Return the terms of a trial's log-likelihood that the activity does not enter."""
        per_sample = math.log(2 * math.pi) + self.model.noise.log()
        shown = self.shown.to(per_sample) @ per_sample
        return -0.5 * ((shown * self.bins if self.complete else shown.sum()) + self.log_determinant)

    def loaded(self, region: int, column: int) -> Float[Tensor, "bin seen"]:
        """Return the features of a region, each times the information between its process and that of a column."""
        seen = self.features.seen[region]
        if self.complete:
            return seen.values * self.information[region, column][seen.owner]
        return seen.values * self.information[:, region, column][:, seen.owner]

    def solve(self, block: Float[Tensor, "trial bin unit"]) -> Solution:
        """Return the means of processes, given y - d."""
        regions = self.model.regions
        h = torch.stack([block[..., units] @ self.weights[units] for units in regions], 2)
        given = _times(self.shrink, h)
        white = _times(self.white, h)
        quadratic = (h * white).sum((1, 2, 3))
        projected = h.new_zeros(self.features.count, len(h))
        for region, seen in enumerate(self.features.seen):
            of_columns = given[:, :, region].permute(2, 1, 0)
            own = [seen.values[:, s].T @ of_columns[c] for c, s in enumerate(seen.slices)]
            projected[seen.place] += torch.cat(own)
        half = self.precision.half(projected)
        quadratic += half.square().sum(0)
        w = self.precision.rest(half)
        s = torch.stack(
            [
                torch.stack([seen.values[:, s] @ w[seen.place[s]] for s in seen.slices], -1)
                for seen in self.features.seen
            ],
            2,
        ).transpose(0, 1)  # trial bin region column
        return Solution(_times(self.shrink, s) + white, w, given - _times(self.information, s), quadratic)

    def inverse(self) -> Float[Tensor, "feature feature"]:
        """Return the posterior covariance of the weights."""
        return self.precision.inverse()

    def covariance_sums(self, inverse: Float[Tensor, "feature feature"]) -> Float[Tensor, "region column column"]:
        """Return the sum over the bins of a complete trial of the posterior covariance within each region."""
        columns = self.model.readout.shape[1]
        found = []
        for seen, gram in zip(self.features.seen, self.grams, strict=True):
            owner = torch.nn.functional.one_hot(seen.owner, columns).to(inverse)
            found.append(owner.T @ (gram * seen.take(inverse)) @ owner)
        return self.bins * self.white + self.shrink @ torch.stack(found) @ self.shrink

    def covariances(self, inverse: Float[Tensor, "feature feature"]) -> Float[Tensor, "bin region column column"]:
        """Return the posterior covariance of each bin within each region."""
        columns = self.model.readout.shape[1]
        S = inverse.new_zeros(self.bins, len(self.features.seen), columns, columns)
        for region, seen in enumerate(self.features.seen):
            own = seen.take(inverse)
            for column, s in enumerate(seen.slices):
                product = (seen.values[:, s] @ own[s]) * seen.values
                S[:, region, column].index_add_(1, seen.owner, product)
        return self.white + self.shrink @ S @ self.shrink

    def joint_covariances(
        self, inverse: Float[Tensor, "feature feature"], places: list[tuple[int, int]]
    ) -> Float[Tensor, "bin place place"]:
        """Return the posterior covariance of each bin of processes as seen at (region, column) places."""
        rows, white = [], inverse.new_zeros(self.bins, len(places), len(places))
        for i, (region, column) in enumerate(places):
            seen = self.features.seen[region]
            shrink = self.shrink[..., region, column, :][..., seen.owner]
            row = inverse.new_zeros(self.bins, self.features.count)
            row[:, seen.place] = seen.values * shrink
            rows.append(row)
            for k, (other, its) in enumerate(places):
                if other == region:
                    white[:, i, k] = self.white[..., region, column, its]
        stacked = torch.stack(rows, 1)
        half = self.precision.half(stacked.flatten(0, 1).T)
        half = half.T.unflatten(0, (self.bins, -1))
        return half @ half.mT + white


def _times(matrix: Tensor, values: Float[Tensor, "trial bin region column"]) -> Tensor:
    """Multiply by symmetric matrices of regions, or of bins and regions."""
    return torch.einsum("tbmq,mqp->tbmp" if matrix.ndim == 3 else "tbmq,bmqp->tbmp", values, matrix)
