"""Activity on the bin grid: spike counts, binned arrays and continuous traces, read piece by piece."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Num

from lvmzoo.batch import Observation
from lvmzoo.data.grid import EDGE_TOLERANCE, Grid
from lvmzoo.data.recording import BinnedTrials, Recording, Signal, SpikeTimes
from lvmzoo.data.resample import interpolate
from lvmzoo.data.stored import memory_bytes
from lvmzoo.errors import UserError

__all__ = ["Binned", "bin_activity", "bin_spikes", "observed_bins"]

PIECE = 4_000_000  # values handled at a time: some 32 MB of float64, whatever the length of the session
COUNTED = 1_000_000  # bins x units whose spikes are counted at a time, in eight bytes each


@dataclass(frozen=True)
class Binned:
    """Activity of the chosen units over all bins of a grid."""

    activity: Num[np.ndarray, "bin unit"]
    valid: Bool[np.ndarray, " bin"]
    missing: Bool[np.ndarray, "bin unit"] | None  # None: no single sample is missing


def bin_activity(recording: Recording, grid: Grid, units: Int[np.ndarray, " unit"]) -> Binned:
    """Put the activity of ``units`` (rows of the unit table, in the wanted order) on the grid.

    Counts take the smallest integer type that holds them (uint8, int16, int32); anything else becomes float32.
    """
    activity = recording.activity
    _check_memory(recording, grid, len(units))
    if isinstance(activity, SpikeTimes):
        counts = bin_spikes(activity, grid, units)
        valid = observed_bins(grid, _intervals(recording))
        return Binned(counts, valid, _unit_gaps(recording, grid, units, valid))
    if isinstance(activity, BinnedTrials):
        return _gather(activity, grid, units, recording.observation)
    values, valid = _trace_bins(activity, grid, units)
    return _with_missing(values, valid & observed_bins(grid, _intervals(recording)))


def _check_memory(recording: Recording, grid: Grid, n_units: int) -> None:
    """Raise UserError if the bins cannot fit into memory."""
    needed = grid.total_bins * (n_units + 16)
    if needed > memory_bytes() / 2:
        raise UserError(
            f"Session '{recording.session}' in bins of {grid.bin_width_s:g} s needs {needed / 1e9:.3g} GB: "
            f"{grid.total_bins * grid.bin_width_s:.3g} s of {n_units} units.",
            f"This machine has {memory_bytes() / 1e9:.3g} GB, and counts take at least a byte a bin and unit.",
            "Use wider bins, fewer units or a part of the session; check that times are in seconds on one clock.",
        )


def bin_spikes(spikes: SpikeTimes, grid: Grid, units: Int[np.ndarray, " unit"]) -> Integer[np.ndarray, "bin unit"]:
    """Count the spikes of each unit in each bin; the times of one unit at a time are read.

    Stretches may overlap. A spike on the edge of two bins belongs to the later one.
    """
    total, width = grid.total_bins, grid.bin_width_s
    counts = np.zeros((total, len(units)), dtype=np.uint8)
    together = int(np.clip(COUNTED // max(total, 1), 1, 64))
    for low in range(0, len(units), together):
        block = units[low : low + together]
        index = [
            _spike_bins(spikes.unit(int(unit)), grid, width) * len(block) + column for column, unit in enumerate(block)
        ]
        found = np.bincount(np.concatenate(index), minlength=total * len(block))
        counts = _widened(counts, int(found.max(initial=0)))
        counts[:, low : low + len(block)] = found.reshape(total, len(block))
    return counts


def _spike_bins(times: np.ndarray, grid: Grid, width: float) -> np.ndarray:
    """Return the stored bin of each spike that lies in a stretch."""
    start = grid.start_s
    low = np.searchsorted(times, start - EDGE_TOLERANCE * width)
    high = np.searchsorted(times, start + (grid.n_bins - EDGE_TOLERANCE) * width)
    inside = high - low
    stretch = np.repeat(np.arange(len(start)), inside)
    spike = np.arange(len(stretch)) + np.repeat(low - np.concatenate([[0], np.cumsum(inside)[:-1]]), inside)
    within = np.floor((times[spike] - start[stretch]) / width + EDGE_TOLERANCE).astype(np.int64)
    return grid.offsets[stretch] + np.clip(within, 0, grid.n_bins[stretch] - 1)


def _widened(counts: np.ndarray, largest: int) -> np.ndarray:
    """Return the counts in a type that holds ``largest``."""
    for kind in (np.uint8, np.int16, np.int32):
        if largest <= np.iinfo(kind).max:
            return counts.astype(kind) if np.iinfo(kind).max > np.iinfo(counts.dtype).max else counts
    raise UserError(
        f"A bin holds {largest} spikes.", "Counts must fit into 32 bits.", "Check that the activity holds spike counts."
    )


def _intervals(recording: Recording) -> np.ndarray:
    """Return the intervals in which the recording ran."""
    if recording.observed is not None:
        return recording.observed
    return np.array([[recording.start_s, recording.stop_s]])


def observed_bins(grid: Grid, intervals: Float[np.ndarray, "interval 2"]) -> Bool[np.ndarray, " bin"]:
    """Return which bins lie wholly inside one of the (sorted, disjoint) intervals."""
    slack = 1e-3 * grid.bin_width_s
    starts = grid.bin_starts_s()
    if not len(intervals):
        return np.zeros(len(starts), dtype=bool)
    row = np.searchsorted(intervals[:, 0], starts + slack, side="right") - 1
    return (row >= 0) & (starts + grid.bin_width_s <= intervals[row, 1] + slack)


def _unit_gaps(recording: Recording, grid: Grid, units: np.ndarray, valid: np.ndarray) -> np.ndarray | None:
    """Return where single units were not recorded though the session was."""
    if recording.unit_observed is None:
        return None
    missing = np.stack([~observed_bins(grid, recording.unit_observed[int(unit)]) for unit in units], axis=1)
    missing &= valid[:, None]
    return missing if missing.any() else None


def _gather(binned: BinnedTrials, grid: Grid, units: np.ndarray, observation: Observation) -> Binned:
    """Copy the bins of the stretches, some at a time; an array that is already as it should be is shared."""
    assert grid.source_bin is not None
    if _as_stored(binned, grid, units, observation):
        return Binned(np.asarray(binned.values), np.ones(grid.total_bins, dtype=bool), None)
    counts = observation is Observation.COUNTS
    out = np.zeros((grid.total_bins, len(units)), dtype=np.uint8 if counts else np.float32)
    valid = np.ones(grid.total_bins, dtype=bool)
    missing: np.ndarray | None = None
    step = max(1, PIECE // max(1, binned.values.shape[1]))
    for source, begin, bins in zip(grid.source_bin, grid.offsets, grid.n_bins, strict=False):
        for low in range(0, int(bins), step):
            high = min(low + step, int(bins))
            here = slice(int(begin) + low, int(begin) + high)
            there = slice(int(source) + low, int(source) + high)
            values = np.asarray(binned.values[there])[:, units]
            if binned.observed is not None:
                valid[here] = np.asarray(binned.observed[there])
            if values.dtype.kind == "f" and np.isnan(values).any():
                absent = np.isnan(values)
                valid[here] &= ~absent.all(axis=1)
                missing = np.zeros(out.shape, dtype=bool) if missing is None else missing
                missing[here] = absent & valid[here, None]
                values = np.where(absent, 0, values)
            if counts:
                out = _widened(out, int(values.max(initial=0)))
            out[here] = values
    return Binned(out, valid, missing if missing is not None and missing.any() else None)


def _as_stored(binned: BinnedTrials, grid: Grid, units: np.ndarray, observation: Observation) -> bool:
    """Return whether the stored array holds just the wanted bins and units, in order, in the wanted type."""
    values, wanted = binned.values, np.uint8 if observation is Observation.COUNTS else np.float32
    return (
        isinstance(values, np.ndarray)
        and values.flags.c_contiguous
        and values.flags.writeable  # torch takes no other arrays without a complaint
        and values.dtype == wanted
        and values.shape == (grid.total_bins, len(units))
        and np.array_equal(units, np.arange(len(units)))
        and grid.source_bin is not None
        and np.array_equal(grid.source_bin, grid.offsets[: len(grid.source_bin)])
        and binned.observed is None
        and not (wanted is np.float32 and np.isnan(values).any())
    )


def _trace_bins(signal: Signal, grid: Grid, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put continuous traces on the grid: the mean of the samples of a bin, or between samples where bins are short."""
    interval, width = signal.interval_s, grid.bin_width_s
    if width < 0.99 * interval:
        warnings.warn(
            f"data.bin_width_s={width:g} is shorter than the time between samples of the signal ({interval:.4g} s): "
            f"values are interpolated, and neighboring bins repeat each other. "
            f"Set data.bin_width_s={interval:.4g} or more.",
            stacklevel=2,
        )
    values = interpolate(signal, grid)[:, units] if width < 1.5 * interval else _sample_means(signal, grid, units)
    return values, np.ones(len(values), dtype=bool)


def _sample_means(signal: Signal, grid: Grid, units: np.ndarray) -> np.ndarray:
    """Return the mean of the finite samples of each bin, NaN where there is none."""
    times, width = signal.times(), grid.bin_width_s
    out = np.full((grid.total_bins, len(units)), np.nan, dtype=np.float32)
    step = max(1, PIECE // signal.channels)
    for start, begin, bins in zip(grid.start_s, grid.offsets, grid.n_bins, strict=False):
        edges = np.searchsorted(times, start + (np.arange(bins + 1) - EDGE_TOLERANCE) * width)
        low = 0
        while low < bins:  # whole bins, so many that their samples fit into a piece
            high = min(max(low + 1, int(np.searchsorted(edges, edges[low] + step, side="right")) - 1), int(bins))
            samples = np.asarray(signal.values[int(edges[low]) : int(edges[high])], dtype=np.float64)
            samples = samples.reshape(len(samples), -1)[:, units]
            finite = np.isfinite(samples)
            held = np.flatnonzero(np.diff(edges[low : high + 1]))
            if len(held):
                first = edges[low + held] - edges[low]
                sums = np.add.reduceat(np.where(finite, samples, 0.0), first, axis=0)
                number = np.add.reduceat(finite, first, axis=0, dtype=np.int64)
                out[int(begin) + low + held] = np.where(number > 0, sums / np.maximum(number, 1), np.nan)
            low = high
    return out


def _with_missing(values: np.ndarray, valid: np.ndarray) -> Binned:
    """Turn NaN into bins that are not valid (all units) or samples that are missing (some units)."""
    absent = ~np.isfinite(values)
    valid = valid & ~absent.all(axis=1)
    if not absent.any():
        return Binned(values.astype(np.float32), valid, None)
    missing = absent & valid[:, None]
    filled = np.where(absent, np.float32(0), values.astype(np.float32))
    return Binned(filled, valid, missing if missing.any() else None)
