"""Recordings from NWB files, by pynwb: tables are read, arrays stay on disk."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from lvmzoo.batch import Observation
from lvmzoo.config import DataConfig
from lvmzoo.data.nwb_series import TRUTH_MODULE, Found, activity_units, behavior_of, find_series, signal_of
from lvmzoo.data.nwb_tables import (
    interval_table,
    observation_intervals,
    plain_columns,
    read_spike_times,
    unit_columns,
)
from lvmzoo.data.recording import Recording, Signal, SpikeTimes
from lvmzoo.data.safety import check_hdf5
from lvmzoo.errors import UserError, unknown

__all__ = ["read_nwb"]


def read_nwb(path: str | Path, config: DataConfig) -> Recording:
    """Read a recording: units or fluorescence, trials, epochs, behavior, and the ground truth of simulations.

    Raises
    ------
    UserError
        If the file is not safe or not readable, holds no activity, or its tables are corrupt.
    """
    path = Path(path)
    check_hdf5(path)
    from pynwb import NWBHDF5IO

    with contextlib.ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # versions of cached extensions and the like: nothing to act upon
                io = stack.enter_context(NWBHDF5IO(str(path), mode="r"))
                nwbfile = io.read()
        except Exception as error:  # pynwb and hdmf raise many kinds for files that are not valid
            raise _unreadable(path, error) from error
        _warn_of_unknown(path, io.manager.type_map.namespace_catalog.namespaces)
        try:
            return _recording(path, nwbfile, config)
        except (OSError, RuntimeError) as error:  # h5py: a dataset that is damaged
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"'{path}' could not be read as NWB: {_reason(error)}",
        "pynwb must be able to read it; files with extensions must hold the extension's definition.",
        "Check it with `nwbinspector FILE`, and install the extension's package if it names one.",
    )


def _reason(error: Exception) -> str:
    """Return what pynwb says, without its description of all that an object holds."""
    text = " ".join(str(error).split()) or type(error).__name__
    if found := re.match(r"\((?:root/)?(\S+) \w+Builder .*due to: (.*?)['\")]*$", text):
        text = f"{found[1]}: {found[2]}"
    return text[:200]


def _warn_of_unknown(path: Path, known: Collection[str]) -> None:
    """Say which objects pynwb leaves out, because nothing defines their type."""
    odd: dict[str, str] = {}

    def look(name: str, item: h5py.Group | h5py.Dataset) -> None:
        namespace = item.attrs.get("namespace")
        if isinstance(namespace, str) and namespace not in known and "neurodata_type" in item.attrs:
            odd.setdefault(f"{namespace} ({item.attrs['neurodata_type']})", name)

    with h5py.File(path, "r") as file:
        file.visititems(look)
    for kind, name in odd.items():
        warnings.warn(f"{path.name}: {name} is left out, because nothing defines its type: {kind}.", stacklevel=3)


def _recording(path: Path, nwbfile: Any, config: DataConfig) -> Recording:
    series = find_series(nwbfile)
    entry = _chosen_signal(path, nwbfile, series, config.signal)
    observed, unit_observed = None, None
    activity: SpikeTimes | Signal
    notes: tuple[str, ...] = ()
    if entry is None:
        activity, span = read_spike_times(path, nwbfile.units)
        units = unit_columns(path, nwbfile)
        observed, unit_observed = observation_intervals(path, nwbfile.units)
        span = (span[0], float(np.nextafter(span[1], np.inf)))
    else:
        activity = signal_of(path, entry)
        units = activity_units(path, entry)
        span = activity.span_s
        notes = (f"{path.name}: the activity is the series '{entry.name}' ({entry.container or 'no container'}).",)
        series = [other for other in series if other.series is not entry.series]
    trials, epochs = interval_table(nwbfile.trials), interval_table(nwbfile.epochs, tags=True)
    if trials is not None:
        _warn_of_another_clock(path, trials, span)
    if entry is None:
        span = _extended(span, [table for table in (trials, epochs) if table is not None])
    if observed is not None and len(observed):
        span = (float(observed[0, 0]), float(observed[-1, 1]))
    behavior = behavior_of(path, series, span)
    if entry is None and observed is None:
        span = _with_behavior(span, behavior)
    return Recording(
        session=path.stem,
        activity=activity,
        observation=Observation.COUNTS if entry is None else Observation.CONTINUOUS,
        units=units,
        start_s=span[0],
        stop_s=span[1],
        trials=trials,
        epochs=epochs,
        behavior=behavior,
        truth={f.name: signal_of(path, f) for f in series if f.module == TRUTH_MODULE},
        observed=observed,
        unit_observed=unit_observed,
        connections=_true_table(nwbfile, "connections", ("source", "target", "delay_s", "dimensions")),
        modes=_true_table(nwbfile, "modes", ("timescale_s", "frequency_hz")),
        source=str(path),
        notes=notes,
    )


def _true_table(nwbfile: Any, name: str, columns: Sequence[str]) -> pd.DataFrame | None:
    """Return a table of what is true of a simulation, as the simulation wrote it."""
    if TRUTH_MODULE not in nwbfile.processing or name not in nwbfile.processing[TRUTH_MODULE].data_interfaces:
        return None
    stored = plain_columns(nwbfile.processing[TRUTH_MODULE][name])
    return pd.DataFrame({column: stored[column] for column in columns})


def _chosen_signal(path: Path, nwbfile: Any, series: list[Found], name: str | None) -> Found | None:
    """Return the continuous series that is the activity; None for the spikes of the units table."""
    has_units = nwbfile.units is not None and len(nwbfile.units) > 0
    if name in ("spikes", "units") or (name is None and has_units):
        if not has_units:
            raise UserError(f"'{path}' has no units.", "data.signal=spikes needs them.", "Leave data.signal out.")
        return None
    if name is not None:
        for found in series:
            if name in (found.name, found.series.name):
                return found
        raise unknown(f"series (data.signal) in {path.name}", name, [*(found.name for found in series), "spikes"])
    cells = [found for found in series if type(found.series).__name__ == "RoiResponseSeries"]
    cells.sort(key=lambda found: found.container != "DfOverF")
    if not cells:
        held = ", ".join(found.name for found in series)
        raise UserError(
            f"'{path}' has no units and no fluorescence" + (f" (series: {held})." if held else "."),
            "A model needs spike times in the units table, or a RoiResponseSeries, or a series named by data.signal.",
            "Set data.signal=NAME to use a series as the activity." if held else "Choose a file with sorted units.",
        )
    if len(cells) > 1:
        others = ", ".join(found.name for found in cells[1:])
        warnings.warn(
            f"{path.name} holds several fluorescence series: '{cells[0].name}' is taken, not {others}. "
            "Choose with data.signal=NAME.",
            stacklevel=3,
        )
    return cells[0]


def _warn_of_another_clock(path: Path, trials: pd.DataFrame, span: tuple[float, float]) -> None:
    start, stop = trials["start_s"].to_numpy(np.float64), trials["stop_s"].to_numpy(np.float64)
    outside = int(((start >= span[1]) | (stop <= span[0])).sum())
    if 2 * outside > len(trials):
        warnings.warn(
            f"{path.name}: {outside} of {len(trials)} trials lie outside the activity ({span[0]:g} to {span[1]:g} s). "
            "Are their times in seconds, and on its clock?",
            stacklevel=3,
        )


def _extended(span: tuple[float, float], tables: list[pd.DataFrame]) -> tuple[float, float]:
    """Return the recording's bounds: the spikes, and trials or epochs that overlap them, by a little at most.

    Files do not say when a recording of spikes began and ended; a trial that begins before the last spike was recorded
    to its end, while one that lies beyond all spikes was not.
    """
    low, high = span
    reach = max(1.0, 0.05 * (high - low))
    for table in tables:
        start, stop = table["start_s"].to_numpy(np.float64), table["stop_s"].to_numpy(np.float64)
        inside = np.isfinite(start) & np.isfinite(stop) & (start < high) & (stop > low)
        if inside.any():
            low, high = min(low, float(start[inside].min())), max(high, float(stop[inside].max()))
    return max(low, span[0] - reach), min(high, span[1] + reach)


def _with_behavior(span: tuple[float, float], behavior: dict[str, Signal]) -> tuple[float, float]:
    """Return the bounds extended to behavior that begins before the first spike or ends after the last, by a little."""
    reach = max(1.0, 0.05 * (span[1] - span[0]))
    low = min([span[0], *(signal.span_s[0] for signal in behavior.values())])
    high = max([span[1], *(signal.span_s[1] for signal in behavior.values())])
    return max(low, span[0] - reach), min(high, span[1] + reach)
