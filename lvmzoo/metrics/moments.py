"""Mean and covariance of values that come some bins at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["Moments", "moments"]


class Moments(NamedTuple):
    """Mean and covariance over bins, the latter divided by their number."""

    mean: Float[np.ndarray, " channel"]
    covariance: Float[np.ndarray, "channel channel"]


def moments(pieces: Iterable[Float[np.ndarray, "_bin channel"]]) -> Moments:
    """Return the moments of values that come some bins at a time, one bin at least."""
    near, count, total, square = None, 0, 0.0, 0.0
    for piece in pieces:
        near = piece.mean(0) if near is None else near
        apart = piece - near
        count, total, square = count + len(piece), total + apart.sum(0), square + apart.T @ apart
    if near is None:
        raise ValueError("there is no bin to average over")
    mean = np.asarray(total / count)
    return Moments(near + mean, np.asarray(square / count - np.outer(mean, mean)))
