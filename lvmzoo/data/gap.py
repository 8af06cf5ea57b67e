"""How far apart training and test data must lie: over which time the activity remembers itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lvmzoo.data.binning import Binned
from lvmzoo.data.grid import Grid

__all__ = ["autocorrelation_time_s", "mean_autocorrelation"]

VARIES = 1e-15  # of a unit: variance in units of its squared mean, so that units of measure do not matter
CELLS = 4096  # the time course is looked at in so many cells at most, in steps that then cannot matter


def autocorrelation_time_s(binned: Binned, grid: Grid, stored_bins: np.ndarray) -> float:
    """Return the time after which the units' autocorrelation, averaged over units, has fallen to 1/e of its first lag.

    The first lag, not lag 0, is the reference: spike counts have Poisson noise at lag 0 that says nothing about memory.
    Only the given bins are looked at, in their true times, so gaps and pauses between trials count as time.

    Parameters
    ----------
    binned : the activity.
    grid : where its bins lie in time.
    stored_bins : bins of the training data.
    """
    used = stored_bins[binned.valid[stored_bins]]
    if len(used) < 8:
        return 0.0
    times = grid.bin_starts_s()[used]
    span = float(times.max() - times.min()) + grid.bin_width_s
    width = max(grid.bin_width_s, span / CELLS)
    cell = np.floor((times - times.min()) / width + 1e-6).astype(np.int64)
    cells = int(cell.max()) + 1
    means, seen = _cell_means(binned.activity, used, cell, cells)
    correlation, pairs = mean_autocorrelation(means, seen)
    usable = np.flatnonzero(pairs >= max(4.0, 0.1 * pairs[0]))
    first = next((int(lag) for lag in usable if lag > 0), 0)
    noise = 3.0 / np.sqrt(max(1.0, pairs[first] * means.shape[1]))
    if first == 0 or correlation[first] < noise:
        return width
    fallen = [int(lag) for lag in usable if lag >= first and correlation[lag] < correlation[first] / np.e]
    return width * (fallen[0] if fallen else int(usable[-1]))


def _cell_means(
    activity: np.ndarray, used: np.ndarray, cell: np.ndarray, cells: int
) -> tuple[Float[np.ndarray, "cell unit"], Float[np.ndarray, " cell"]]:
    """Return the mean activity of each cell of time, some bins at a time, and which cells hold bins."""
    order = np.argsort(cell, kind="stable")
    used, cell = used[order], cell[order]
    number = np.bincount(cell, minlength=cells).astype(np.float64)
    sums = np.zeros((cells, activity.shape[1]))
    step = max(1, 1_000_000 // max(1, activity.shape[1]))
    for low in range(0, len(used), step):
        here, place = activity[used[low : low + step]].astype(np.float64), cell[low : low + step]
        first = np.flatnonzero(np.diff(place, prepend=-1))
        sums[place[first]] += np.add.reduceat(here, first, axis=0)
    sums /= np.maximum(number, 1)[:, None]
    return sums, (number > 0).astype(np.float64)


def mean_autocorrelation(
    values: Float[np.ndarray, "cell unit"], seen: Float[np.ndarray, " cell"]
) -> tuple[Float[np.ndarray, " lag"], Float[np.ndarray, " lag"]]:
    """Return the autocorrelation averaged over units that vary, by lag, and the number of pairs behind each lag.

    Cells that were not seen enter no pair (masked sums of products, by the fast Fourier transform).
    """
    cells = len(values)
    size = 1 << int(np.ceil(np.log2(2 * cells)))
    power = np.abs(np.fft.rfft(seen, size)) ** 2
    pairs = np.round(np.fft.irfft(power, size)[:cells])
    total, varying = np.zeros(size // 2 + 1), 0
    for column in values.T:  # one unit at a time: copies of all would outweigh the session's counts
        mean = seen @ column / seen.sum()
        centered = (column - mean) * seen
        variance = centered @ centered / seen.sum()
        if variance > VARIES * mean**2:
            total += np.abs(np.fft.rfft(centered, size)) ** 2 / variance
            varying += 1
    if not varying:
        return np.zeros(cells), pairs
    summed = np.fft.irfft(total, size)[:cells] / varying
    return summed / np.maximum(pairs, 1), pairs
