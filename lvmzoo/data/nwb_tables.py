"""Tables of an NWB file: units with their regions, trials and epochs."""

from __future__ import annotations

import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lvmzoo.data.recording import SpikeTimes
from lvmzoo.data.stored import Stored, read_all
from lvmzoo.errors import UserError

__all__ = ["interval_table", "observation_intervals", "read_spike_times", "unit_columns"]

REGION_COLUMNS = ("location", "brain_area", "region", "brain_region", "area", "structure", "acronym")
UNKNOWN = {"", "unknown", "nan", "none", "n/a", "null"}


def plain_columns(table: Any) -> dict[str, np.ndarray]:
    """Return the columns that hold one number or text a row; ragged ones, images and references are left."""
    found = {}
    for name in table.colnames:
        column = table[name]
        data: Any = getattr(column, "data", None)
        if type(column).__name__ in ("VectorIndex", "DynamicTableRegion", "TimeSeriesReferenceVectorData"):
            continue
        shape = np.shape(data)
        if len(shape) != 1 or shape[0] != len(table):
            continue
        values = np.asarray(data[:])
        if values.dtype == object:
            values = np.array([v.decode() if isinstance(v, bytes) else v for v in values], dtype=object)
            if not all(isinstance(v, str | bool | int | float | np.generic) or v is None for v in values):
                continue
        if values.dtype.kind in "biufUSO":
            found[str(name)] = values.astype(object) if values.dtype.kind in "US" else values
    return found


def ragged(table: Any, name: str, what: str) -> tuple[Any, np.ndarray]:
    """Return the flat values of a ragged column, and the offsets of its rows.

    Raises
    ------
    UserError
        If the index does not fit: pynwb itself would read wrong values without a word.
    """
    column = table[name]
    if type(column).__name__ != "VectorIndex":
        return column.data, np.arange(len(table) + 1, dtype=np.int64)
    if np.dtype(getattr(column.data, "dtype", np.int64)).kind not in "iu":
        raise UserError(
            f"{what} are corrupt: the index of '{name}' holds {column.data.dtype}.",
            "It holds the row at which the values of each end: whole numbers.",
            "Write the file again from its source.",
        )
    # Stored in the narrowest unsigned type: arithmetic on it would wrap around.
    ends = np.asarray(column.data[:]).astype(np.int64)
    flat = column.target.data
    offsets = np.concatenate([[0], ends])
    if len(ends) != len(table) or (np.diff(offsets) < 0).any() or offsets[-1] != len(flat):
        raise UserError(
            f"{what} are corrupt: the index of '{name}' has {len(ends)} rows and ends at {offsets[-1]}.",
            f"It must ascend, with one row for each of {len(table)}, up to the {len(flat)} values that are stored.",
            "Write the file again from its source.",
        )
    return flat, offsets


def read_spike_times(path: Path, units: Any) -> tuple[SpikeTimes, tuple[float, float]]:
    """Return the spike times of all units, on disk as long as they are in order, and the first and last time.

    Raises
    ------
    UserError
        If there are none, or the table is corrupt.
    """
    if "spike_times" not in units.colnames:
        raise UserError(
            f"The units of '{path}' have no spike_times (columns: {', '.join(units.colnames)}).",
            "Spike times in seconds are what is binned.",
            "Write them into the units table, or choose another signal with data.signal=NAME.",
        )
    flat, offsets = ragged(units, "spike_times", f"The units of '{path}'")
    shape, kind = np.shape(flat), np.dtype(getattr(flat, "dtype", np.float64)).kind
    if len(shape) != 1 or kind not in "iuf":
        raise UserError(
            f"The spike_times of '{path}' have shape {shape} and type {flat.dtype}.",
            "They are numbers in seconds, one after the other.",
            "Write the file again from its source.",
        )
    stored = Stored.of(path, flat) if hasattr(flat, "id") else np.asarray(flat, dtype=np.float64)
    spikes = SpikeTimes(stored, offsets)
    low, high = np.inf, -np.inf
    lost = unsorted = 0
    for unit in range(spikes.n_units):
        times = spikes.unit(unit)
        finite = np.isfinite(times)
        lost += int((~finite).sum())
        times = times[finite]
        if len(times):
            low, high = min(low, float(times.min())), max(high, float(times.max()))
            unsorted += bool((np.diff(times) < 0).any())
    if not low <= high:
        raise UserError(
            f"'{path}' has {spikes.n_units} units and no spike.",
            "At least one spike time is needed.",
            "Check the file, or choose another signal with data.signal=NAME.",
        )
    if lost:
        warnings.warn(f"{path.name}: {lost} spike times are NaN or infinite; they are left out.", stacklevel=2)
    if unsorted:
        warnings.warn(
            f"{path.name}: the spike times of {unsorted} units are not sorted; they are sorted.", stacklevel=2
        )
    if low < 0:
        warnings.warn(
            f"{path.name}: spikes begin at {low:g} s, before the session's reference time; they are used as they are.",
            stacklevel=2,
        )
    return (_cleaned(spikes) if lost or unsorted else spikes), (low, high)


def _cleaned(spikes: SpikeTimes) -> SpikeTimes:
    """Return finite and sorted spike times in memory."""
    trains = [np.sort(t[np.isfinite(t)]) for t in (spikes.unit(i) for i in range(spikes.n_units))]
    return SpikeTimes(np.concatenate(trains), np.concatenate([[0], np.cumsum([len(t) for t in trains])]))


def unit_columns(path: Path, nwbfile: Any) -> pd.DataFrame:
    """Return the table of units: id, region, and the plain columns of the file."""
    units = nwbfile.units
    columns = plain_columns(units)
    ids = [str(i) for i in np.asarray(units.id.data[:])]
    if len(set(ids)) < len(ids):
        warnings.warn(f"{path.name}: unit ids repeat; units are named by their row instead.", stacklevel=2)
        ids = [str(i) for i in range(len(ids))]
    table = pd.DataFrame({"id": pd.Series(ids, dtype=object), "region": pd.Series(_regions(nwbfile, columns))})
    table["region"] = table["region"].astype(object)
    others = {name: values for name, values in columns.items() if name not in ("id", "region", "spike_times")}
    return pd.concat([table, pd.DataFrame(others)], axis=1) if others else table


def _regions(nwbfile: Any, columns: dict[str, np.ndarray]) -> list[str]:
    """Return the region of each unit, from a column of its own, its electrodes, or its electrode group."""
    units = nwbfile.units
    sources: list[list[str]] = []
    for name in REGION_COLUMNS:
        if name in columns and columns[name].dtype.kind == "O":
            sources.append([str(value).strip() for value in columns[name]])
    if "electrodes" in units.colnames and nwbfile.electrodes is not None and "location" in nwbfile.electrodes.colnames:
        location = [_decoded(v) for v in nwbfile.electrodes["location"].data[:]]
        rows, offsets = ragged(units, "electrodes", "The electrodes of the units")
        rows = np.asarray(rows[:], dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(location)):
            raise UserError(
                f"The units refer to electrode {rows.max()}.",
                f"The table of electrodes has {len(location)} rows.",
                "Write the file again from its source.",
            )
        sources.append([_commonest(location[r] for r in rows[a:b]) for a, b in pairwise(offsets)])
    if "electrode_group" in units.colnames:
        sources.append([str(getattr(group, "location", "") or "") for group in units["electrode_group"].data])
    regions = ["unknown"] * len(units)
    for source in reversed(sources):
        regions = [new if new.lower() not in UNKNOWN else old for new, old in zip(source, regions, strict=True)]
    return regions


def _decoded(value: Any) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def _commonest(names: Any) -> str:
    counts = Counter(names)
    return counts.most_common(1)[0][0] if counts else ""


def observation_intervals(path: Path, units: Any) -> tuple[np.ndarray | None, list[np.ndarray] | None]:
    """Return when the session was recorded (any unit was), and when each unit was if units differ."""
    if "obs_intervals" not in units.colnames:
        return None, None
    flat, offsets = ragged(units, "obs_intervals", f"The units of '{path}'")
    values = np.asarray(flat[:], dtype=np.float64)
    if not len(values):
        return None, None
    if values.ndim != 2 or values.shape[1] != 2 or not (values[:, 1] >= values[:, 0]).all():
        warnings.warn(
            f"{path.name}: obs_intervals are not pairs of start <= stop; the whole session is taken as observed.",
            stacklevel=2,
        )
        return None, None
    each = [merged(values[a:b]) for a, b in pairwise(offsets)]
    # Units without intervals say nothing: they are taken as observed whenever any unit is.
    union = merged(values)
    each = [own if len(own) else union for own in each]
    same = all(own.shape == union.shape and np.allclose(own, union) for own in each)
    return union, None if same else each


def merged(intervals: np.ndarray) -> np.ndarray:
    """Return intervals in order, those that overlap or touch made one."""
    out: list[list[float]] = []
    for start, stop in sorted(map(tuple, intervals)):
        if out and start <= out[-1][1] + 1e-6:
            out[-1][1] = max(out[-1][1], stop)
        else:
            out.append([start, stop])
    return np.asarray(out, dtype=np.float64).reshape(-1, 2)


def interval_table(table: Any, tags: bool = False) -> pd.DataFrame | None:
    """Return trials or epochs as a table with start_s and stop_s; tags as tuples of text.

    Epochs without tags are tagged with their texts in other columns (files carry labels there).
    """
    if table is None or len(table) == 0:
        return None
    columns = plain_columns(table)
    for name in ("start_time", "stop_time"):
        if name not in columns or columns[name].dtype.kind not in "iuf":
            raise UserError(
                f"The table '{table.name}' has no numbers in its column {name}.",
                "Its rows begin at start_time and end at stop_time, in seconds.",
                "Write the column, or remove the table from the file.",
            )
    frame = pd.DataFrame({"start_s": columns.pop("start_time"), "stop_s": columns.pop("stop_time")}).astype(np.float64)
    for name, values in columns.items():
        if name not in ("id", "start_s", "stop_s", "tags"):
            frame[name] = values
    if "tags" in table.colnames:
        flat, offsets = ragged(table, "tags", "The tags")
        texts = [_decoded(v) for v in read_all(flat, "tags")] if len(flat) else []
        frame["tags"] = [tuple(texts[a:b]) for a, b in pairwise(offsets)]
    elif tags:
        named = [name for name, values in columns.items() if values.dtype.kind == "O"]
        frame["tags"] = [tuple(str(row[name]) for name in named) for _, row in frame.iterrows()]
    return frame
