"""Looking up which label is nearest, in float64, at a cost that hardly grows with the session."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

__all__ = ["NearestLabel"]


class NearestLabel:
    """Looks up the members whose label is nearest to a query: in a sorted list, or in a tree.

    Members with equal labels are one point, drawn from uniformly: a label that holds still must not make one bin the
    positive of all others.

    Parameters
    ----------
    points : label of each member.
    members : what is returned, one a point.
    """

    def __init__(self, points: Float[np.ndarray, "point channel"], members: Int[np.ndarray, " point"]) -> None:
        self._points, group = np.unique(points, axis=0, return_inverse=True)
        self._members = members[np.argsort(group, kind="stable")]
        self._count = np.bincount(group, minlength=len(self._points))
        self._first = np.cumsum(self._count) - self._count
        self._tree = None if points.shape[1] == 1 else cKDTree(self._points)

    def __call__(
        self, queries: Float[np.ndarray, "query channel"], uniform: Float[np.ndarray, " query"]
    ) -> Int[np.ndarray, " query"]:
        """Return one nearest member of each query; ``uniform`` in [0, 1) chooses among equals."""
        nearest = self._nearest_on_line(queries[:, 0]) if self._tree is None else self._tree.query(queries)[1]
        return self._members[self._first[nearest] + (uniform * self._count[nearest]).astype(np.int64)]

    def _nearest_on_line(self, queries: Float[np.ndarray, " query"]) -> Int[np.ndarray, " query"]:
        line = self._points[:, 0]
        right = np.searchsorted(line, queries).clip(1, max(len(line) - 1, 1))
        left = right - 1
        right = np.minimum(right, len(line) - 1)
        return np.where(queries - line[left] <= line[right] - queries, left, right)
