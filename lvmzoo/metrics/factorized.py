"""The part of ridge regression and of nearest neighbors that does not depend on what is read out, done once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lvmzoo.metrics.moments import moments
from lvmzoo.metrics.pieces import stretches

__all__ = ["Nearest", "Ridge"]

FOLDS = 5
_TREE_DIMENSIONS = 8

Judge = Callable[[Int[np.ndarray, " bin"], Float[np.ndarray, "bin code"]], float]


class Ridge:
    """Ridge regressions from the same latents, whose penalty contiguous five-fold cross-validation chooses.

    Latents are centered and have unit variance in the mean of ``scale``.

    Parameters
    ----------
    latents : in order of time.
    """

    def __init__(self, latents: Float[np.ndarray, "bin latent"]) -> None:
        self._latents = latents
        found = moments(latents[rows] for rows in stretches(0, *latents.shape))
        self.mean, variance = found.mean, np.trace(found.covariance) / max(1, latents.shape[1])
        self.scale = float(np.sqrt(variance)) if variance > 1e-24 * np.square(self.mean).sum() else 1.0
        self._folds = np.array_split(np.arange(len(latents)), min(FOLDS, len(latents)))
        self._squares = [self._products(fold, self._scaled) for fold in self._folds]

    def fit(
        self, code: Float[np.ndarray, "bin code"], penalties: Sequence[float], judge: Judge
    ) -> tuple[Float[np.ndarray, "latent code"], Float[np.ndarray, " code"], float]:
        """Return weights and intercept on the scaled latents, and the penalty on the sum of squared weights.

        Parameters
        ----------
        code : what is read out.
        penalties : to choose from.
        judge : of bins that were left out and the code that is predicted there; higher is better.
        """
        totals = np.zeros(len(penalties))
        across = [self._products(fold, lambda rows: code[rows]) for fold in self._folds]
        for left_out, fold in enumerate(self._folds if len(self._folds) > 1 else ()):
            rest = [number for number in range(len(self._folds)) if number != left_out]
            for i, (weights, intercept) in enumerate(self._path(rest, across, penalties)):
                predicted = [self._scaled(rows) @ weights + intercept for rows in self._stretches(fold)]
                totals[i] += judge(fold, np.concatenate(predicted))
        best = int(np.argmax(totals))
        weights, intercept = self._path(range(len(self._folds)), across, [penalties[best]])[0]
        return weights, intercept, float(penalties[best])

    def _stretches(self, fold: Int[np.ndarray, " some"]) -> Iterator[slice]:
        return stretches(int(fold[0]), int(fold[-1]) + 1, self._latents.shape[1])

    def _scaled(self, rows: slice) -> Float[np.ndarray, "some latent"]:
        return (self._latents[rows] - self.mean) / self.scale

    def _products(self, fold: Int[np.ndarray, " some"], other: Callable[[slice], np.ndarray]) -> _Products:
        """Return sums over the bins of a fold."""
        found = []
        for rows in self._stretches(fold):
            x, y = self._scaled(rows), other(rows)
            found.append(_Products(len(x), x.sum(0), y.sum(0), x.T @ y))
        return _total(found)

    def _path(
        self, folds: Sequence[int], across: Sequence[_Products], penalties: Sequence[float]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return weights and intercept for each penalty, fitted to some folds."""
        square, cross = (_total([parts[number] for number in folds]) for parts in (self._squares, across))
        center, offset = square.first / square.bins, cross.second / cross.bins
        values, vectors = np.linalg.eigh(square.products - square.bins * np.outer(center, center))
        rotated = vectors.T @ (cross.products - cross.bins * np.outer(center, offset))
        path = [vectors @ (rotated / (np.maximum(values, 0) + penalty)[:, None]) for penalty in penalties]
        return [(weights, offset - center @ weights) for weights in path]


class _Products(NamedTuple):
    """Sums over bins, of two quantities and of their products."""

    bins: int
    first: Float[np.ndarray, " latent"]
    second: Float[np.ndarray, " other"]
    products: Float[np.ndarray, "latent other"]


def _total(parts: Sequence[_Products]) -> _Products:
    return _Products(*(sum(leaves[1:], start=leaves[0]) for leaves in zip(*parts, strict=True)))


class Nearest:
    """Finds the nearest of some points by a tree, built once; by all distances where dimensions make trees slow."""

    def __init__(self, points: Float[np.ndarray, "point latent"], distance: str) -> None:
        from scipy.spatial import KDTree
        from sklearn.neighbors import NearestNeighbors

        self._cosine = distance == "cosine"
        points = self._scaled(points)
        self._tree = KDTree(points) if points.shape[1] <= _TREE_DIMENSIONS else None
        self._all = NearestNeighbors(algorithm="brute").fit(points) if self._tree is None else None

    def __call__(self, queries: Float[np.ndarray, "bin latent"], neighbors: int) -> Int[np.ndarray, "bin neighbor"]:
        """Return the indices of the nearest points, nearest first."""
        if not len(queries):
            return np.zeros((0, neighbors), dtype=np.int64)
        queries = self._scaled(queries)
        if self._tree is not None:
            return np.asarray(self._tree.query(queries, neighbors)[1]).reshape(len(queries), neighbors)
        assert self._all is not None
        return np.asarray(self._all.kneighbors(queries, neighbors, return_distance=False))

    def _scaled(self, points: np.ndarray) -> np.ndarray:
        if not points.shape[1]:  # no latents: all are alike
            return np.zeros((len(points), 1))
        return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12) if self._cosine else points
