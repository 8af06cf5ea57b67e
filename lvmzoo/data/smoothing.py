"""Gaussian smoothing of activity within pieces: never across a trial's end, a cut of the split, or a gap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from lvmzoo.data.binning import Binned

__all__ = ["REACH", "smooth"]

REACH = 3.0  # the kernel ends at so many standard deviations; the gap of a split covers it


def smooth(binned: Binned, pieces: Iterable[tuple[int, int]], width_bins: float, causal: bool) -> Binned:
    """Return the activity smoothed within each piece of stored bins, in float32.

    The weights are those of a Gaussian up to three standard deviations, divided by their sum over what was observed: at
    edges and beside gaps nothing is pulled towards zero. Bins that belong to no piece become zero.

    Parameters
    ----------
    binned : the activity.
    pieces : first bin and end of each piece.
    width_bins : standard deviation in bins.
    causal : weight the present and past bins only.
    """
    pieces = list(pieces)
    longest = max((last - first for first, last in pieces), default=1)
    reach = int(np.clip(np.ceil(REACH * width_bins), 1, max(1, longest)))  # what lies outside has no weight
    lag = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (lag / width_bins) ** 2)
    if causal:
        kernel[lag > 0] = 0.0  # correlate1d weights bin t + lag
    n_units = binned.activity.shape[1]
    out = np.zeros((len(binned.activity), n_units), dtype=np.float32)
    for first, last in pieces:
        step = max(1, 8_000_000 // max(1, last - first))
        for low in range(0, n_units, step):
            here = (slice(first, last), slice(low, low + step))
            out[here] = _weighted_mean(binned, here, kernel)
    return Binned(out, binned.valid, binned.missing)


def _weighted_mean(binned: Binned, here: tuple[slice, slice], kernel: np.ndarray) -> Float[np.ndarray, "bin unit"]:
    """Return the kernel-weighted mean over observed samples of one block."""
    from scipy import ndimage  # takes half a second to import, and smoothing is a choice

    there = binned.valid[here[0], None].astype(np.float32)
    if binned.missing is not None:
        there = there * ~binned.missing[here]
    values = np.where(there > 0, binned.activity[here], 0).astype(np.float32)
    total = ndimage.correlate1d(values, kernel, axis=0, mode="constant")
    weight = ndimage.correlate1d(there, kernel, axis=0, mode="constant")
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)
