"""Time series of an NWB file: behavior, fluorescence, and the ground truth of simulations."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lvmzoo.batch import Kind
from lvmzoo.data.behavior import as_circular, categories, guess_kind
from lvmzoo.data.recording import Signal, unit_table
from lvmzoo.data.stored import Stored, read_all
from lvmzoo.errors import UserError

__all__ = ["INFERRED", "Found", "activity_units", "behavior_of", "find_series", "signal_of"]

TRUTH_MODULE = "ground_truth"
INFERRED = "Inferred by lvmzoo"  # the comments of series that `lvmzoo transform` writes begin with it
# Series that are neither behavior nor population activity.
RAW = {
    "ElectricalSeries", "SpikeEventSeries", "FeatureExtraction", "ImageSeries", "OnePhotonSeries", "TwoPhotonSeries",
    "ImageMaskSeries", "OpticalSeries", "IndexSeries", "AnnotationSeries", "IntervalSeries", "DecompositionSeries",
    "OptogeneticSeries", "PatchClampSeries", "CurrentClampSeries", "VoltageClampSeries", "AbstractFeatureSeries",
}  # fmt: skip
GENERIC = {"TimeSeries", "SpatialSeries", "RoiResponseSeries", "data", "series"}
PLAIN_UNITS = {"", "n.a.", "n/a", "na", "a.u.", "au", "arbitrary", "bool", "boolean", "index", "id", "unknown", "none"}
MOST_CHANNELS = 64
FROZEN_SHARE = 0.05
SHARED = 0.05  # of its time that behavior shares with the activity, else its clock is doubtful


@dataclass(frozen=True)
class Found:
    """A series and where it was found."""

    name: str
    series: Any
    container: str  # type of what holds it: "CompassDirection", "DfOverF", ...; "" for none
    module: str  # "acquisition", or the processing module


def find_series(nwbfile: Any) -> list[Found]:
    """Return every time series of acquisition and processing; names are unique.

    A series that shares its name with another, or has only its type for a name, takes that of its container.
    """
    places = [("acquisition", nwbfile.acquisition)]
    places += [(name, module.data_interfaces) for name, module in nwbfile.processing.items()]
    raw = [(m, held, c, s) for m, items in places for item in items.values() for held, c, s in _inside(item)]
    shared = {s.name for i, (_, _, _, s) in enumerate(raw) if any(s.name == t[3].name for t in raw[:i])}
    found: list[Found] = []
    taken: set[str] = set()
    for module, holder, container, series in raw:
        name = str(series.name)
        if holder and (name in GENERIC or name in shared):
            name = holder if name in GENERIC else f"{holder}_{name}"
        if (given := name) in taken:
            name = f"{module}_{name}"
            while name in taken:
                name += "_"
            warnings.warn(f"Two series are named '{given}': that of {module} is called '{name}'.", stacklevel=3)
        taken.add(name)
        found.append(Found(name, series, container, module))
    return found


def _inside(item: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (name of the container, its type, series) for a series or what a container holds."""
    from pynwb import TimeSeries

    if isinstance(item, TimeSeries):
        yield "", "", item
        return
    for attribute in ("spatial_series", "time_series", "roi_response_series"):
        for series in (getattr(item, attribute, None) or {}).values():
            yield str(item.name), type(item).__name__, series


def signal_of(path: Path, found: Found) -> Signal:
    """Return a series on its clock, its values still on disk.

    Raises
    ------
    UserError
        If its clock does not fit its values.
    """
    series, data = found.series, found.series.data
    what = f"Series '{found.name}' of '{path.name}'"
    scale = 1.0 if series.conversion is None else float(series.conversion)
    if not np.isfinite([scale, series.offset or 0.0]).all():
        raise UserError(
            f"{what} has the conversion {scale} and the offset {series.offset}.",
            "Its values are multiplied and shifted by them: they are finite numbers.",
            "Correct the file.",
        )
    values: Any = np.asarray(data) if not hasattr(data, "id") else Stored.of(path, data, scale, series.offset or 0.0)
    channel_scale = getattr(series, "channel_conversion", None)
    if channel_scale is not None or not hasattr(data, "id"):
        values = read_all(values, what) * (1.0 if channel_scale is None else np.asarray(channel_scale[:]))
    signal = Signal(values, unit=str(series.unit or ""), description=str(series.description or ""))
    if series.timestamps is None:
        if series.rate is None or not series.rate > 0:
            raise UserError(
                f"{what} has no timestamps, and its rate is {series.rate}.",
                "A series has timestamps, or a rate above 0 and a starting time.",
                "Write one of them into the file, or name the variables to use in data.behavior.",
            )
        return replace(signal, start_s=float(series.starting_time or 0.0), rate_hz=float(series.rate))
    times = read_all(series.timestamps, f"The clock of {what}").astype(np.float64)
    if len(times) != len(signal):
        raise UserError(
            f"{what} has {len(signal)} samples and {len(times)} timestamps.",
            "There is one timestamp for each sample.",
            "Correct the file, or leave the series out by naming others in data.behavior.",
        )
    return _in_order(what, replace(signal, timestamps_s=times))


def _in_order(what: str, signal: Signal) -> Signal:
    """Return the signal with finite, ascending timestamps."""
    times = signal.timestamps_s
    finite = np.isfinite(times)
    if not finite.any():
        raise UserError(
            f"{what} has no timestamp that is a number.", "It has one for each sample.", "Correct the file."
        )
    if finite.all() and not (np.diff(times) < 0).any():
        return signal
    how = "are NaN and left out" if not finite.all() else "go back in time and are sorted"
    warnings.warn(f"{what}: some timestamps {how}.", stacklevel=3)
    order = np.flatnonzero(finite)[np.argsort(times[finite], kind="stable")]
    return replace(signal, timestamps_s=times[order], values=read_all(signal.values, what)[order])


def behavior_of(path: Path, series: list[Found], span: tuple[float, float]) -> dict[str, Signal]:
    """Return the series that can be behavior, as numbers, angles or categories.

    Series that do not overlap the recording are left out with a warning.
    """
    found: dict[str, Signal] = {}
    for entry in series:
        if entry.module == TRUTH_MODULE or not _is_behavior(entry):
            continue
        try:
            signal = signal_of(path, entry)
        except UserError as error:
            warnings.warn(f"{error.what} It is left out. {error.why}", stacklevel=2)
            continue
        low, high = signal.span_s
        if high <= span[0] or low >= span[1]:
            warnings.warn(
                f"Behavior variable '{entry.name}' runs from {low:g} to {high:g} s, the activity from {span[0]:g} to "
                f"{span[1]:g} s: it is on another clock, and is left out.",
                stacklevel=2,
            )
            continue
        shared = min(high, span[1]) - max(low, span[0])
        if shared < SHARED * (high - low):
            warnings.warn(
                f"Behavior variable '{entry.name}' runs from {low:g} to {high:g} s, the activity from {span[0]:g} to "
                f"{span[1]:g} s: only {shared / (high - low):.1%} of it is used. Are its times in seconds?",
                stacklevel=2,
            )
        signal = _with_kind(path, entry, signal)
        found[entry.name] = _without_frozen_end(signal, entry.name) if signal.kind is not Kind.CATEGORICAL else signal
    return found


def _without_frozen_end(signal: Signal, name: str) -> Signal:
    """Return the signal with NaN where it repeats one value at the beginning or end as nothing else in it does.

    Trackers that lose the animal, and programs that fill the end of a series, repeat the last value: labels there would
    be wrong. Zero is left alone, since speeds and licks are exactly zero for long.
    """
    values = np.asarray(signal.values[:], dtype=np.float64).reshape(len(signal), -1)
    with np.errstate(invalid="ignore"):
        changes = np.flatnonzero((values[1:] != values[:-1]).any(axis=1))
    if len(changes) < 10:
        return signal
    runs = np.diff(np.concatenate([[-1], changes, [len(values) - 1]]))
    longest = int(runs[1:-1].max())
    frozen = np.zeros(len(values), dtype=bool)
    for run, where in ((int(runs[0]), slice(0, runs[0])), (int(runs[-1]), slice(len(values) - runs[-1], None))):
        if run > max(10 * longest, FROZEN_SHARE * len(values)) and values[where][0].any():
            frozen[where] = True
    if not frozen.any():
        return signal
    seconds = frozen.sum() * signal.interval_s
    warnings.warn(
        f"Behavior variable '{name}' repeats one value for {seconds:.3g} s at an end of its series "
        f"({frozen.mean():.0%} of it): it is taken as not tracked there.",
        stacklevel=3,
    )
    return replace(signal, values=np.where(frozen[:, None], np.nan, values).reshape(np.shape(signal.values)))


def _is_behavior(entry: Found) -> bool:
    """Whether a series holds one or some channels of numbers, was measured, and is no recording of cells or screens."""
    if str(entry.series.comments).startswith(INFERRED):
        return False
    names = {kind.__name__ for kind in type(entry.series).__mro__}
    if names & RAW or "RoiResponseSeries" in names or entry.container in ("LFP", "FilteredEphys"):
        return False
    shape, kind = np.shape(entry.series.data), getattr(entry.series.data, "dtype", np.dtype(object)).kind
    return len(shape) in (1, 2) and shape[0] > 1 and np.prod(shape[1:]) <= MOST_CHANNELS and kind in "biuf"


def _with_kind(path: Path, entry: Found, signal: Signal) -> Signal:
    """Return the signal as an angle or a category where it is one."""
    data = entry.series.data
    kind = np.dtype(data.dtype).kind
    if kind == "b" or (kind in "iu" and signal.channels == 1 and signal.unit.strip().lower() in PLAIN_UNITS):
        values = read_all(data, f"Series '{entry.name}' of '{path.name}'").reshape(-1)
        if kind == "b" or len(np.unique(values)) <= 32:
            index, levels = categories(values)
            return replace(signal, values=index, kind=Kind.CATEGORICAL, levels=levels)
    if entry.container == "CompassDirection" and signal.channels == 1:
        return as_circular(entry.name, signal)
    return guess_kind(entry.name, signal)


def activity_units(path: Path, entry: Found) -> pd.DataFrame:
    """Return the table of units of a continuous signal: cells with the location of their imaging plane, or channels."""
    data, rois = entry.series.data, getattr(entry.series, "rois", None)
    shape = np.shape(data)
    channels = shape[1] if len(shape) == 2 else 1
    if rois is None:
        return unit_table(channels)
    if len(rois.data) != channels:
        turned = " Its axes seem to be swapped: time comes first." if len(rois.data) == shape[0] else ""
        raise UserError(
            f"Series '{entry.name}' of '{path.name}' has {channels} columns and {len(rois.data)} cells.",
            f"It is stored as (samples, cells), with one column a cell.{turned}",
            "Write the series again with data of shape (samples, cells).",
        )
    rows = np.asarray(rois.data[:], dtype=np.int64)
    ids = np.asarray(rois.table.id.data[:])[rows]
    plane = getattr(rois.table, "imaging_plane", None)
    location = str(getattr(plane, "location", "") or "").strip() or "all"
    repeated = len(set(ids.tolist())) < len(ids)
    return unit_table(channels, [re.sub(r"\s+", " ", location)] * channels, None if repeated else list(ids))
