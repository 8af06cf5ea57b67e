"""Moments, affine maps and R2 of views that are taken a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.spread import R2

__all__ = ["Affine", "Piece", "fit_affine", "r2_of"]

Piece = Callable[[slice], Float[np.ndarray, "bin channel"]]


class Affine(NamedTuple):
    """A map target = weights @ source + offset, and where its data lie."""

    weights: Float[np.ndarray, "target source"]
    offset: Float[np.ndarray, " target"]

    def __call__(self, source: Float[np.ndarray, "bin source"]) -> Float[np.ndarray, "bin target"]:
        """Return what the map gives."""
        return source @ self.weights.T + self.offset


def fit_affine(
    pairs: Iterable[tuple[Float[np.ndarray, "_bin source"], Float[np.ndarray, "_bin target"]]],
) -> Affine:
    """Return the affine least-squares map from sources to targets that come some bins at a time.

    Solved by triangular factors, which are as precise as the decomposition of all bins at once; directions of the
    sources that do not vary get no weight.
    """
    factor: np.ndarray | None = None
    near: np.ndarray | None = None
    sources = 0
    for source, target in pairs:
        both = np.concatenate([source, target], 1).astype(np.float64)
        if not len(both):
            continue
        near, sources = both.mean(0) if near is None else near, source.shape[1]
        rows = np.concatenate([np.ones((len(both), 1)), both - near], 1)
        factor = np.asarray(np.linalg.qr(rows if factor is None else np.concatenate([factor, rows]), mode="r"))
    if factor is None or near is None:
        raise ValueError("there is no bin to fit a map to")
    means = near + factor[0, 1:] / factor[0, 0]
    inside = factor[1:, 1:]  # of deviations from the mean
    weights = np.linalg.lstsq(inside[:, :sources], inside[:, sources:], rcond=1e-10)[0].T
    return Affine(weights, means[sources:] - weights @ means[:sources])


def r2_of(
    evaluation: Evaluation,
    part: str,
    truth: Piece,
    predicted: Piece,
    *,
    among: Bool[np.ndarray, " bin"] | None = None,
    pooled: bool = False,
    center: Float[np.ndarray, " channel"] | None = None,
) -> tuple[float, float | None]:
    """Return R2 over the valid bins of a part and its standard error, as ``r2`` has them; NaN without any bin.

    Parameters
    ----------
    evaluation, part : which bins, and the trials or blocks that they belong to.
    truth, predicted : of a stretch of these bins.
    among : bins that count; None: all.
    pooled, center : as in ``r2``.
    """
    sums = R2(pooled=pooled, center=center)
    for rows in evaluation.pieces(part):
        groups, true, said = evaluation.groups(part)[rows], truth(rows), predicted(rows)
        if among is not None:
            groups, true, said = (values[among[rows]] for values in (groups, true, said))
        sums.add(true, said, groups)
    return sums.result
