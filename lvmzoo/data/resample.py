"""Behavior on the bin grid: between samples for continuous values, on the circle for angles, never across a gap."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from lvmzoo.batch import Kind
from lvmzoo.data.grid import Grid
from lvmzoo.data.recording import Signal

__all__ = ["interpolate", "resample"]

LONGEST_GAP = 4.0  # times between samples up to so many typical ones, or a bin, are bridged; longer ones are gaps
PIECE = 4_000_000


def resample(signal: Signal, grid: Grid) -> Float[np.ndarray, "bin channel"]:
    """Return the values of a signal at the centers of the bins; NaN where it was not tracked.

    Continuous values are interpolated linearly between the two neighboring samples, angles along the shorter arc
    (radians in [0, 2 pi)), and categories hold from one sample to the next.
    """
    if signal.on_bins:
        assert grid.source_bin is not None
        stored = np.asarray(signal.values, dtype=np.float32)
        stored = stored.reshape(len(stored), -1)
        shift = np.repeat(grid.source_bin - grid.offsets[:-1], grid.n_bins)
        taken = stored[np.arange(grid.total_bins) + shift]
        return np.mod(taken, np.float32(2 * np.pi)) if signal.kind is Kind.CIRCULAR else taken
    return interpolate(signal, grid)


def interpolate(signal: Signal, grid: Grid) -> Float[np.ndarray, "bin channel"]:
    """Return a signal with a clock of its own at the centers of the bins, in float32; see :func:`resample`."""
    centers = grid.bin_starts_s() + 0.5 * grid.bin_width_s
    out = np.full((len(centers), signal.channels), np.nan, dtype=np.float32)
    if len(signal) == 0:
        return out
    times = signal.times()
    gap_s = max(LONGEST_GAP * signal.interval_s, grid.bin_width_s)
    step = max(1, PIECE // max(1, signal.channels))
    for low in range(0, len(centers), step):
        here = centers[low : low + step]
        left, right, weight = _neighbors(times, here, gap_s, 0.5 * signal.interval_s, signal.kind)
        first, last = int(left.min()), int(right.max()) + 1
        if last - first > 4 * step:  # trials far apart: read them one by one rather than all that lies between
            values = _read_some(signal, np.union1d(left, right))
            ends = [values[np.searchsorted(np.union1d(left, right), side)] for side in (left, right)]
        else:
            values = np.asarray(signal.values[first:last], dtype=np.float64).reshape(last - first, -1)
            ends = [values[left - first], values[right - first]]
        out[low : low + step] = _between(ends[0], ends[1], weight, signal.kind)
    return out


def _read_some(signal: Signal, rows: Int[np.ndarray, " row"]) -> np.ndarray:
    """Return some samples, reading runs of them."""
    breaks = np.flatnonzero(np.diff(rows) > 1000) + 1
    parts = []
    for run in np.split(rows, breaks):
        block = np.asarray(signal.values[int(run[0]) : int(run[-1]) + 1], dtype=np.float64)
        parts.append(block.reshape(len(block), -1)[run - run[0]])
    return np.concatenate(parts)


def _neighbors(
    times: np.ndarray, centers: np.ndarray, gap_s: float, half: float, kind: Kind
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the samples before and after each center and the weight of the later one; NaN across gaps and ends."""
    after = np.searchsorted(times, centers, side="right")
    left, right = np.clip(after - 1, 0, len(times) - 1), np.clip(after, 0, len(times) - 1)
    distance = times[right] - times[left]
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(distance > 0, (centers - times[left]) / distance, 0.0)
    if kind is Kind.CATEGORICAL:
        held = (after > 0) & ((after < len(times)) | (centers - times[-1] <= gap_s))
        return left, left, np.where(held, 0.0, np.nan)
    # A center on a sample, but for rounding, needs no neighbor (which may be NaN).
    left = np.where(weight > 1 - 1e-6, right, left)
    weight = np.where((weight < 1e-6) | (weight > 1 - 1e-6), 0.0, weight)
    # The first and the last sample stand for half an interval beyond them.
    ends = ((after == 0) & (times[0] - centers <= half)) | ((after == len(times)) & (centers - times[-1] <= half))
    bridged = (after > 0) & (after < len(times)) & ((distance <= gap_s) | (weight == 0))
    weight = np.where(ends, 0.0, np.where(bridged, weight, np.nan))
    return left, np.where(weight == 0, left, right), weight


def _between(before: np.ndarray, later: np.ndarray, weight: np.ndarray, kind: Kind) -> np.ndarray:
    """Return the value between two samples; NaN if either is."""
    w = weight[:, None]
    if kind is Kind.CIRCULAR:
        turn = np.mod(later - before + np.pi, 2 * np.pi) - np.pi
        return np.mod((before + w * turn).astype(np.float32), np.float32(2 * np.pi))
    return before + w * (later - before)
