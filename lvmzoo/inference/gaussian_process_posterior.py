r"""The posterior of Gaussian processes that trials share which show the same samples: what activity does not enter.

See :mod:`lvmzoo.inference.gaussian_process` for the model. The nugget is white and goes into the noise exactly; the
rest is features times white weights, whose posterior precision I + a Gram matrix never needs the inverse of a kernel
matrix, nor a root of C' R^-1 C, which is singular where units are silent, twice there, or fewer than latents.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.gaussian_process_kernels import Part, fold, make_features, merge, unfold
from lvmzoo.inference.patterns import Pattern, patterns

__all__ = ["Features", "GaussianProcess", "Posterior", "Solution", "by_latent", "groups", "residuals"]

TOGETHER = 2**19  # samples of activity that are converted to float64 at a time: 4 MB


class GaussianProcess(NamedTuple):
    """Parameters of one session, all float64."""

    timescales: Float[Tensor, " latent"]  # bins
    readout: Float[Tensor, "unit latent"]  # C
    offset: Float[Tensor, " unit"]  # d
    noise: Float[Tensor, " unit"]  # r, variances
    kernel: str = "squared_exponential"
    nugget: float = 1e-3  # e: share of a latent's variance that is independent from bin to bin
    square_root: bool = False  # the activity is counts, whose square roots are modeled
    engine: str = "auto"  # "dense" and "spectral" are for tests


def groups(valid: Bool[Tensor, "trial bin"], observed: Bool[Tensor, "trial bin unit"]) -> Iterator[Pattern]:
    """Yield the trials that show the same samples."""
    for pattern in patterns(valid, observed):
        lengths, rows = pattern.lengths, _indices(pattern).to(valid.device)
        edges = [0, *(1 + np.flatnonzero(np.diff(lengths))).tolist(), len(lengths)]
        if pattern.mask is not None:
            edges = list(range(len(lengths) + 1))
        for first, last in itertools.pairwise(edges):
            who, bins = slice(first, last), int(lengths[first])
            mask = None if pattern.mask is None else pattern.mask[who, :bins]
            yield Pattern(rows[who], lengths[who], pattern.seen[who, :bins], pattern.units, mask)


def _indices(pattern: Pattern) -> Tensor:
    rows = pattern.rows
    return torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


def residuals(
    model: GaussianProcess, activity: Num[Tensor, "trial bin unit"], pattern: Pattern
) -> Iterator[tuple[Tensor, Float[Tensor, "some bin unit"]]]:
    """Yield (rows of the batch, y - d) of some trials at a time; zero where nothing is observed."""
    bins, units = pattern.bins, activity.shape[-1]
    together = max(1, TOGETHER // max(1, bins * units))
    complete = pattern.mask is None and bool(pattern.seen[0].all()) and bool(pattern.units.all())
    if not complete:
        hidden = ~pattern.mask[0] if pattern.mask is not None else ~(pattern.seen[0][:, None] & pattern.units)
    for rows in _indices(pattern).split(together):
        block = activity[rows, :bins].to(model.offset.dtype)
        if model.square_root:
            block.sqrt_()
        block.sub_(model.offset)
        if not complete:
            block.masked_fill_(hidden, 0.0)
        yield rows, block


class Features:
    """Features of trials by their length, made when they are first asked for."""

    def __init__(self, model: GaussianProcess) -> None:
        self._model = model
        self._kept: dict[tuple[int, bool], tuple[Part, ...]] = {}

    def __call__(self, bins: int, folded: bool) -> tuple[Part, ...]:
        """Return two parts of folded features, or one whose rows are the bins."""
        if (bins, folded) not in self._kept:
            model = self._model
            parts = make_features(model.kernel, model.timescales, bins, 1 - model.nugget, model.engine)
            self._kept = {(bins, folded): parts if folded else (merge(parts, bins),)}  # trials come by length
        return self._kept[bins, folded]


class Posterior:
    """What the activity does not enter, of trials that show the same samples.

    A complete trial has one information matrix J = C' R^-1 C for all bins, and folded features (see ``fold``);
    otherwise ``J`` has one for each bin.
    """

    def __init__(self, model: GaussianProcess, pattern: Pattern, features: Features) -> None:
        C = model.readout
        self.bins = pattern.bins
        self.complete = pattern.mask is None and bool(pattern.seen[0].all())
        self.parts = features(self.bins, self.complete)
        products = (C[:, :, None] * C[:, None, :] / model.noise[:, None, None]).flatten(1)
        if pattern.mask is None:
            shown = pattern.units if self.complete else pattern.seen[0][:, None] & pattern.units
        else:
            shown = pattern.mask[0]
        self.shown: Bool[Tensor, "*bin unit"] = shown
        self.J = (shown.to(products) @ products).unflatten(-1, (C.shape[1], C.shape[1]))
        identity = torch.eye(C.shape[1], dtype=C.dtype, device=C.device)
        loaded = identity + model.nugget * self.J
        self.shrink = torch.linalg.inv(loaded)  # x = shrink s + white h is the mean given s
        self.white = model.nugget * self.shrink
        information = self.shrink @ self.J
        self.information = (information + information.mT) / 2
        self.grams: list[Tensor] = []
        self.roots: list[Tensor] = []
        self.log_determinant = torch.logdet(loaded).sum() * (self.bins if self.complete else 1)
        for part in self.parts:
            precision = self._precision(part)
            precision.diagonal().add_(1.0)
            root = torch.linalg.cholesky(precision)
            self.log_determinant = self.log_determinant + 2 * root.diagonal().log().sum()
            self.roots.append(root)

    def _precision(self, part: Part) -> Tensor:
        V = part.values
        precision = V.new_empty(V.shape[1], V.shape[1])
        if self.complete:
            gram = V.T @ V
            self.grams.append(gram)
            for latent, features in part.slices:
                precision[features] = gram[features] * self.information[latent][part.owner]
        else:
            for latent, features in part.slices:
                precision[features] = V[:, features].T @ (V * self.information[:, latent][:, part.owner])
        return precision

    def split(self, values: Float[Tensor, "*other bin latent"]) -> list[Tensor]:
        """Return values of bins as values of the rows of each part."""
        return fold(values) if self.complete else [values]

    def join(self, values: list[Tensor]) -> Tensor:
        """Undo ``split``."""
        return unfold(values) if self.complete else values[0]

    def solve(self, h: Float[Tensor, "trial bin latent"]) -> Solution:
        """Return the means of latents, given C' R^-1 (y - d)."""
        given = (h @ self.shrink) if self.complete else (self.shrink @ h[..., None])[..., 0]
        quadratic = (h * self._white(h)).sum((1, 2))
        weights, smooth = [], []
        for part, root, rows in zip(self.parts, self.roots, self.split(given), strict=True):
            columns = rows.permute(2, 1, 0).contiguous()  # latent, row, trial
            projected = h.new_zeros(len(part.owner), len(h))
            for latent, features in part.slices:
                projected[features] = part.values[:, features].T @ columns[latent]
            half = torch.linalg.solve_triangular(root, projected, upper=False)
            quadratic += half.square().sum(0)
            w = torch.linalg.solve_triangular(root.T, half, upper=True)
            s = torch.zeros_like(columns)
            for latent, features in part.slices:
                s[latent] += part.values[:, features] @ w[features]
            weights.append(w)
            smooth.append(s.permute(2, 1, 0))
        s = self.join(smooth)
        x = s @ self.shrink if self.complete else (self.shrink @ s[..., None])[..., 0]
        return Solution(x + self._white(h), weights, quadratic)

    def _white(self, h: Tensor) -> Tensor:
        return h @ self.white if self.complete else (self.white @ h[..., None])[..., 0]

    def covariance_sum(self, inverses: list[Tensor]) -> Float[Tensor, "latent latent"]:
        """Return the sum over the bins of a complete trial of the posterior covariance."""
        S = torch.zeros_like(self.shrink)
        for part, gram, inverse in zip(self.parts, self.grams, inverses, strict=True):
            S += by_latent(gram * inverse, part, len(S))
        return self.bins * self.white + self.shrink @ S @ self.shrink

    def covariances(self, inverses: list[Tensor]) -> Float[Tensor, "bin latent latent"]:
        """Return the posterior covariance of each bin."""
        found = []
        for part, inverse in zip(self.parts, inverses, strict=True):
            V, latents = part.values, self.J.shape[-1]
            S = V.new_zeros(len(V), latents, latents)
            for latent, features in part.slices:
                product = (V[:, features] @ inverse[features]).mul_(V)
                for other, columns in part.slices:
                    S[:, latent, other] += product[:, columns].sum(1)
            found.append(S)
        if self.complete:  # mirrored bins have the same covariance, half that of their sum and of their difference
            even, odd = found
            middle = self.bins % 2
            half = (even[middle:] + odd) / 2
            S = torch.cat([half.flip(0), even[:middle], half])
        else:
            S = found[0]
        return self.white + self.shrink @ S @ self.shrink

    def inverses(self) -> list[Tensor]:
        """Return the posterior covariance of the weights of each part."""
        return [torch.cholesky_inverse(root) for root in self.roots]


@dataclass(frozen=True)
class Solution:
    """Posterior means of trials that share a posterior."""

    x: Float[Tensor, "trial bin latent"]
    weights: list[Tensor]  # of each part: (feature, trial)
    quadratic: Float[Tensor, " trial"]  # what the latents explain of (y - d)' R^-1 (y - d)


def by_latent(values: Float[Tensor, "feature feature"], part: Part, latents: int) -> Float[Tensor, "latent latent"]:
    """Sum a matrix over the features of pairs of latents."""
    rows = values.new_zeros(latents, values.shape[1]).index_add_(0, part.owner, values)
    return values.new_zeros(latents, latents).index_add_(1, part.owner, rows)
