"""Ratios of sums over bins, with the standard error that trials or blocks give them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["finite", "group_sums", "r2", "ratio_sem"]


def finite(value: float) -> float | None:
    """Return the value, or None where it is none."""
    return value if np.isfinite(value) else None


def group_sums(values: Float[np.ndarray, "bin channel"], groups: Int[np.ndarray, " bin"]) -> Float[np.ndarray, "_ _"]:
    """Sum the bins of each group; ``groups`` never decreases."""
    if not len(values):
        return np.zeros((0, values.shape[1]))
    return np.add.reduceat(values, np.flatnonzero(np.diff(groups, prepend=groups[0] - 1)), axis=0)


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
    known = np.isfinite(truth)
    if center is None:
        center = np.where(known, truth, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    residual = group_sums(np.where(known, truth - predicted, 0.0) ** 2, groups)
    total = group_sums(np.where(known, truth - center, 0.0) ** 2, groups)
    if pooled:
        residual, total = residual.sum(1, keepdims=True), total.sum(1, keepdims=True)
    # The sum of squares of a constant channel is not zero but rounding errors.
    varies = total.sum(0) > 1e-20 * (np.where(known, truth, 0.0) ** 2).sum()
    if not varies.any():
        return float("nan"), None
    residual, total = residual[:, varies], total[:, varies]
    return float((1 - residual.sum(0) / total.sum(0)).mean()), ratio_sem(residual, total)
