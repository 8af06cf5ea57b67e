"""The part of ridge regression and of nearest neighbors that does not depend on what is read out, done once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

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
        self.mean, variance = latents.mean(0), latents.var(0).mean()
        self.scale = float(np.sqrt(variance)) if variance > 1e-24 * np.square(self.mean).sum() else 1.0
        self._x = (latents - self.mean) / self.scale
        everywhere = np.arange(len(self._x))
        self._whole = _Part(self._x, everywhere)
        folds = np.array_split(everywhere, min(FOLDS, len(self._x)))
        self._folds = [
            (fold, _Part(self._x, np.r_[: fold[0], fold[-1] + 1 : len(self._x)]))
            for fold in folds
            if len(fold) < len(self._x)
        ]

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
        for fold, rest in self._folds:
            for i, (weights, intercept) in enumerate(rest.path(self._x, code, penalties)):
                totals[i] += judge(fold, self._x[fold] @ weights + intercept)
        best = int(np.argmax(totals))
        weights, intercept = self._whole.path(self._x, code, penalties)[best]
        return weights, intercept, float(penalties[best])


class _Part:
    """Some of the bins, and the decomposition of their moments."""

    def __init__(self, x: Float[np.ndarray, "bin latent"], bins: Int[np.ndarray, " some"]) -> None:
        self._bins, self._center = bins, x[bins].mean(0)
        centered = x[bins] - self._center
        self._values, self._vectors = np.linalg.eigh(centered.T @ centered)

    def path(
        self, x: Float[np.ndarray, "bin latent"], code: Float[np.ndarray, "bin code"], penalties: Sequence[float]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return weights and intercept for each penalty."""
        offset = code[self._bins].mean(0)
        rotated = self._vectors.T @ ((x[self._bins] - self._center).T @ (code[self._bins] - offset))
        scaled = [rotated / (np.maximum(self._values, 0) + penalty)[:, None] for penalty in penalties]
        path = [self._vectors @ each for each in scaled]
        return [(weights, offset - self._center @ weights) for weights in path]


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
