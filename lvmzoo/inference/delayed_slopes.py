"""Derivatives of the log-likelihood by what shapes processes with delays: their timescales and delays.

They are those by the features: E [pull w'], where the pull is what the activity wants of the process and w its weights.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.delayed_posterior import Posterior, Solution
from lvmzoo.inference.delayed_processes import Slope

__all__ = ["Slopes"]


class Slopes:
    """Derivatives of the log-likelihood of trials that share a posterior, by their processes' shapes."""

    def __init__(self, posterior: Posterior) -> None:
        self._posterior, self._features = posterior, posterior.features
        self._products: dict[tuple[int, int], Tensor] = {}  # (region, column): sum over trials of pull w'

    def add(self, solution: Solution) -> None:
        """Add trials."""
        for latent, own in enumerate(self._features.slices):
            weights = solution.weights[own].T
            for _, region, column in self._features.rows(latent):
                product = solution.pull[:, :, region, column].T @ weights
                before = self._products.get((region, column))
                self._products[region, column] = product if before is None else before + product

    def total(self, inverse: Float[Tensor, "feature feature"], trials: int) -> Float[Tensor, " shape"]:
        """Return the derivatives of so many trials, given the posterior covariance of the weights."""
        found = []
        for latent, own in enumerate(self._features.slices):
            for _, region, column in self._features.rows(latent):
                place = self._features.seen[region].place
                expected = self._posterior.loaded(region, column) @ inverse[place, own]
                self._products[region, column] -= trials * expected
        for slope in self._features.slopes:
            columns = {region: column for _, region, column in self._features.rows(slope.latent)}
            parts = [(values * self._products[region, columns[region]]).sum() for region, values in slope.values]
            found.append(sum(parts, inverse.new_zeros(())))
        return torch.stack(found)

    def information(self, inverse: Float[Tensor, "feature feature"]) -> Float[Tensor, "shape shape"]:
        r"""Return the Fisher information of one trial: 1/2 tr(A dK_a A dK_b), in terms of features V and dV."""
        slopes, features = self._features.slopes, self._features
        everything = torch.arange(features.count, device=inverse.device)
        # What changes in one region alone concerns the features which that sees.
        groups: dict[int | None, list[int]] = {}
        for number, slope in enumerate(slopes):
            groups.setdefault(slope.values[0][0] if len(slope.values) == 1 else None, []).append(number)
        group: dict[int, int | None] = {}
        spans: dict[int, slice] = {}
        loaded, solved, rows = {}, {}, {}
        for region, members in groups.items():
            parts = [self._loaded(slopes[number], region) for number in members]
            edges = itertools.pairwise([0, *itertools.accumulate(part.shape[1] for part in parts)])
            spans |= {number: slice(*edge) for number, edge in zip(members, edges, strict=True)}
            group |= dict.fromkeys(members, region)
            rows[region] = everything if region is None else features.seen[region].place
            loaded[region] = torch.cat(parts, 1)
            solved[region] = (inverse if region is None else inverse[:, rows[region]]) @ loaded[region]
        order = list(groups)
        products = {
            (one, other): loaded[one].T @ (solved[other] if one is None else solved[other][rows[one]])
            for place, one in enumerate(order)
            for other in order[: place + 1]
        }
        learned = torch.eye(features.count).to(inverse) - inverse
        found = inverse.new_zeros(len(slopes), len(slopes))
        numbers = [number for members in groups.values() for number in members]
        for place, a in enumerate(numbers):
            for b in numbers[: place + 1]:
                i, k = features.slices[slopes[a].latent], features.slices[slopes[b].latent]
                own = products[group[a], group[b]][spans[a], spans[b]]
                there, back = solved[group[a]][k, spans[a]], solved[group[b]][i, spans[b]]
                value = (there * back.T).sum() - (own * learned[i, k]).sum()
                theirs = dict(slopes[b].values)
                for region, values in slopes[a].values:
                    if region in theirs:
                        J = self._information(slopes[a], slopes[b], region)
                        Q = values.T @ (theirs[region] * (J if J.ndim == 0 else J[:, None]))
                        value = value + (Q * learned[i, k]).sum()
                found[a, b] = found[b, a] = value
        return found

    def _loaded(self, slope: Slope, region: int | None) -> Float[Tensor, "row own"]:
        """Return V' times information times dV, for the features of a region, or for all."""
        parts = {m: self._posterior.loaded(m, self._column(slope, m)).T @ values for m, values in slope.values}
        if region is not None:
            return parts[region]
        K = self._posterior.weights.new_zeros(self._features.count, slope.values[0][1].shape[1])
        for m, part in parts.items():
            K[self._features.seen[m].place] += part
        return K

    def _column(self, slope: Slope, region: int) -> int:
        return next(column for _, m, column in self._features.rows(slope.latent) if m == region)

    def _information(self, one: Slope, other: Slope, region: int) -> Tensor:
        """Return what the activity of a region says of both processes, in all bins or in each."""
        return self._posterior.information[..., region, self._column(one, region), self._column(other, region)]
