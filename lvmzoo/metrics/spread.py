"""Ratios of sums over bins, with the standard error that trials or blocks give them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["R2", "Sums", "finite", "group_sums", "r2", "ratio_sem"]


def finite(value: float) -> float | None:
    """Return the value, or None where it is none."""
    return value if np.isfinite(value) else None


def group_sums(values: Float[np.ndarray, "bin channel"], groups: Int[np.ndarray, " bin"]) -> Float[np.ndarray, "_ _"]:
    """Sum the bins of each group; ``groups`` never decreases."""
    if not len(values):
        return np.zeros((0, values.shape[1]))
    return np.add.reduceat(values, np.flatnonzero(np.diff(groups, prepend=groups[0] - 1)), axis=0)


class Sums:
    """Sums over the bins of each group, of bins that come in order and some at a time."""

    def __init__(self) -> None:
        self._sums: list[np.ndarray] = []
        self._last: int | None = None

    def add(self, values: Float[np.ndarray, "bin channel"], groups: Int[np.ndarray, " bin"]) -> None:
        """Add the next bins; ``groups`` never decreases."""
        sums = group_sums(values, groups)
        if not len(sums):
            return
        if groups[0] == self._last:
            self._sums[-1][-1] += sums[0]
            sums = sums[1:]
        if len(sums):
            self._sums.append(sums)
        self._last = int(groups[-1])

    @property
    def array(self) -> Float[np.ndarray, "group channel"]:
        """The sums of each group that there was."""
        return np.concatenate(self._sums) if self._sums else np.zeros((0, 0))


def ratio_sem(
    numerator: Float[np.ndarray, "group channel"], denominator: Float[np.ndarray, "group channel"]
) -> float | None:
    """Return the standard error of sum(numerator) / sum(denominator), averaged over channels; None for one group.

    The linearized ("delta method") standard error of a ratio of sums over independent groups: Cochran, Sampling
    Techniques, 3rd edition, section 6.4.
    """
    count = len(numerator)
    if count < 2:
        return None
    total = denominator.sum(0)
    residual = ((numerator - numerator.sum(0) / total * denominator) / total).mean(1)
    return float(np.sqrt(count / (count - 1) * (residual**2).sum()))


def r2(
    truth: Float[np.ndarray, "bin channel"],
    predicted: Float[np.ndarray, "bin channel"],
    groups: Int[np.ndarray, " bin"],
    *,
    pooled: bool = False,
    center: Float[np.ndarray, " channel"] | None = None,
) -> tuple[float, float | None]:
    """Return 1 - RSS / TSS and its standard error; NaN samples of the truth are left out, and so are constant channels.

    Parameters
    ----------
    truth, predicted : what is compared.
    groups : trials or blocks, for the standard error.
    pooled : sums over all channels (weights by variance); else the mean of the channels' values.
    center : what TSS is taken around; None: the mean of ``truth``.

    Returns
    -------
    The value (NaN when no channel varies) and its standard error.
    """
    sums = R2(pooled=pooled, center=center)
    sums.add(truth, predicted, groups)
    return sums.result


class R2:
    """What ``r2`` returns, of bins that come in order and some at a time."""

    def __init__(self, *, pooled: bool = False, center: Float[np.ndarray, " channel"] | None = None) -> None:
        self._pooled, self._center, self._near = pooled, center, center
        self._sums, self._square = Sums(), 0.0

    def add(
        self,
        truth: Float[np.ndarray, "bin channel"],
        predicted: Float[np.ndarray, "bin channel"],
        groups: Int[np.ndarray, " bin"],
    ) -> None:
        """Add the next bins."""
        if not len(truth):
            return
        known = np.isfinite(truth)
        truth = np.where(known, truth, 0.0)
        if self._near is None:  # sums of squares are taken around a point near the mean, which is known at the end
            self._near = truth.sum(0) / np.maximum(known.sum(0), 1)
        apart = np.where(known, truth - self._near, 0.0)
        residual = np.where(known, truth - predicted, 0.0)
        self._sums.add(np.concatenate([residual**2, apart**2, apart, known], 1), groups)
        self._square += float((truth**2).sum())

    @property
    def result(self) -> tuple[float, float | None]:
        """The value (NaN when no channel varies) and its standard error."""
        sums = self._sums.array
        if not len(sums):
            return float("nan"), None
        residual, total, apart, count = np.split(sums, 4, axis=1)
        if self._center is None:
            mean = apart.sum(0) / np.maximum(count.sum(0), 1)
            total = total - 2 * mean * apart + count * mean**2
        if self._pooled:
            residual, total = residual.sum(1, keepdims=True), total.sum(1, keepdims=True)
        # The sum of squares of a constant channel is not zero but rounding errors.
        varies = total.sum(0) > 1e-20 * self._square
        if not varies.any():
            return float("nan"), None
        residual, total = residual[:, varies], total[:, varies]
        return float((1 - residual.sum(0) / total.sum(0)).mean()), ratio_sem(residual, total)
