"""One recorded session as it lies in a file or in memory: nothing binned, nothing selected, large arrays not yet read.

Readers and simulators return a :class:`Recording`; :mod:`lvmzoo.data.load` bins and splits it. All times are in seconds
on one clock, which need not begin at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lvmzoo.batch import Kind, Observation
from lvmzoo.errors import UserError

__all__ = ["NO_REGION", "BinnedTrials", "Recording", "Signal", "SpikeTimes", "unit_table"]

NO_REGION = "all"  # of units whose region was not said


@dataclass(frozen=True)
class SpikeTimes:
    """Spike times of all units, one unit after the other: unit ``i`` owns ``times[offsets[i]:offsets[i + 1]]``.

    ``times`` is anything with a length that returns float arrays for slices: an array, or a dataset read from disk
    piece by piece. Times are in seconds and sorted within each unit.
    """

    times: Any
    offsets: Int[np.ndarray, " unit_plus_1"]

    @property
    def n_units(self) -> int:
        """Number of units, silent ones included."""
        return len(self.offsets) - 1

    def unit(self, index: int) -> Float[np.ndarray, " spike"]:
        """Return the spike times of one unit, in seconds."""
        return np.asarray(self.times[int(self.offsets[index]) : int(self.offsets[index + 1])], dtype=np.float64)


@dataclass(frozen=True)
class Signal:
    """Values over time on a clock of its own: behavior, fluorescence, or the ground truth of a simulation.

    The clock is ``timestamps_s`` (ascending, one a sample), or ``start_s`` and ``rate_hz``. With neither, the samples
    are the bins of the recording's :class:`BinnedTrials`. NaN means not tracked.
    """

    values: Any  # (samples,) or (samples, channels); an array or a dataset read piece by piece
    timestamps_s: Any = None
    start_s: float = 0.0
    rate_hz: float | None = None
    kind: Kind = Kind.CONTINUOUS
    unit: str = ""  # of the values, such as "cm/s"; radians for circular ones
    levels: tuple[str, ...] = ()  # of a categorical variable: a value is the index of its level
    description: str = ""

    @property
    def channels(self) -> int:
        """Number of values a sample."""
        return 1 if len(self.values.shape) == 1 else int(self.values.shape[1])

    @property
    def on_bins(self) -> bool:
        """Whether the samples are bins of activity that came already binned."""
        return self.timestamps_s is None and self.rate_hz is None

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def times(self, start: int = 0, stop: int | None = None) -> Float[np.ndarray, " sample"]:
        """Return the times of the samples ``start:stop``, in seconds."""
        stop = len(self) if stop is None else min(stop, len(self))
        if self.timestamps_s is not None:
            return np.asarray(self.timestamps_s[start:stop], dtype=np.float64)
        if self.rate_hz is None:
            raise ValueError("a signal on bins has no clock of its own")
        return self.start_s + np.arange(start, stop) / self.rate_hz

    @property
    def interval_s(self) -> float:
        """Typical time between samples: the median of the first thousands where there are timestamps."""
        if self.rate_hz is not None:
            return 1.0 / self.rate_hz
        steps = np.diff(self.times(0, 10_000))
        return float(np.median(steps)) if len(steps) else 0.0

    @property
    def span_s(self) -> tuple[float, float]:
        """Time of the first sample and end of the last one."""
        last = len(self) - 1
        return float(self.times(0, 1)[0]), float(self.times(last, last + 1)[0]) + self.interval_s


@dataclass(frozen=True)
class BinnedTrials:
    """Activity that came already binned: the bins of all trials, one trial after the other."""

    values: Any  # (bins, units): counts as integers, or a continuous signal with NaN where it is missing
    lengths: Int[np.ndarray, " trial"]  # bins of each trial
    bin_width_s: float
    observed: Any = None  # (bins,) bool; None: every bin was recorded


@dataclass(frozen=True)
class Recording:
    """One session: activity of its units, and all that was recorded beside it.

    Parameters
    ----------
    session : name of the session, unique within a data set.
    activity : spike times, bins, or continuous traces (one channel a unit).
    observation : counts or continuous; of spike times always counts.
    units : a row a unit, in the order of the activity, with the columns ``id`` and ``region`` (text) and any others.
    start_s, stop_s : when the recording began and ended.
    trials : a row a trial with ``start_s``, ``stop_s`` and any other columns (times of events end in ``_s`` or
        ``_time``); for :class:`BinnedTrials` a row for each of its trials. None: the session has no trials.
    epochs : like ``trials``, with a column ``tags`` that holds a tuple of texts. None: there are none.
    behavior : measured variables by name.
    truth : of simulations: ``"latents"``, and ``"rates"`` with one channel a unit (``unit="Hz"``, or expected
        activity a bin). In NWB files they are TimeSeries of the same names in the processing module ``ground_truth``.
    observed : (intervals, 2) times between which the recording ran; None: all of it.
    unit_observed : the same for each unit, where units differ.
    connections : of simulations: a row for each ordered pair of regions of which the first drives the second, with the
        columns ``source``, ``target``, ``delay_s`` and ``dimensions``; every other pair does not communicate.
    modes : of simulations of linear dynamics: a row for each mode, with the columns ``timescale_s`` (to decay by e) and
        ``frequency_hz``; one that turns stands for a pair of eigenvalues.
    source : the file it came from.
    notes : what the user should know about how it was read.
    """

    session: str
    activity: SpikeTimes | BinnedTrials | Signal
    observation: Observation
    units: pd.DataFrame
    start_s: float
    stop_s: float
    trials: pd.DataFrame | None = None
    epochs: pd.DataFrame | None = None
    behavior: Mapping[str, Signal] = field(default_factory=dict)
    truth: Mapping[str, Signal] = field(default_factory=dict)
    observed: Float[np.ndarray, "interval 2"] | None = None
    unit_observed: Sequence[Float[np.ndarray, "_ 2"]] | None = None
    connections: pd.DataFrame | None = None
    modes: pd.DataFrame | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def n_units(self) -> int:
        """Number of units, before any is filtered out."""
        return len(self.units)

    @property
    def duration_s(self) -> float:
        """Length of the recording, gaps included."""
        return self.stop_s - self.start_s

    @classmethod
    def from_spike_times(
        cls,
        session: str,
        spike_times: Sequence[np.ndarray],
        *,
        regions: Sequence[str] | None = None,
        unit_ids: Sequence[str] | None = None,
        start_s: float = 0.0,
        stop_s: float | None = None,
        trials: pd.DataFrame | None = None,
        epochs: pd.DataFrame | None = None,
        behavior: Mapping[str, Signal] | None = None,
        truth: Mapping[str, Signal] | None = None,
        observed: np.ndarray | None = None,
        connections: pd.DataFrame | None = None,
        modes: pd.DataFrame | None = None,
    ) -> Recording:
        """Build a recording from one array of spike times a unit (seconds, any order); see the class for the rest.

        Raises
        ------
        UserError
            If a spike time is not finite, or lies outside the recording.
        """
        trains = [np.sort(np.asarray(train, dtype=np.float64)) for train in spike_times]
        offsets = np.concatenate([[0], np.cumsum([len(train) for train in trains])]).astype(np.int64)
        times = np.concatenate(trains) if trains else np.zeros(0)
        if not np.isfinite(times).all():
            raise UserError(
                f"Session '{session}' has spike times that are NaN or infinite.",
                "Spike times are finite numbers in seconds.",
                "Remove them before building the recording.",
            )
        if stop_s is None:
            stop_s = float(np.nextafter(times.max(), np.inf)) if len(times) else start_s
        if len(times) and (times.min() < start_s or times.max() > stop_s):
            raise UserError(
                f"Session '{session}' has spike times from {times.min():g} to {times.max():g} s.",
                f"They must lie within the recording, from {start_s:g} to {stop_s:g} s.",
                "Give start_s and stop_s that contain them.",
            )
        return cls(
            session=session,
            activity=SpikeTimes(times, offsets),
            observation=Observation.COUNTS,
            units=unit_table(len(trains), regions, unit_ids),
            start_s=float(start_s),
            stop_s=float(stop_s),
            trials=trials,
            epochs=epochs,
            behavior=dict(behavior or {}),
            truth=dict(truth or {}),
            observed=None if observed is None else np.asarray(observed, dtype=np.float64),
            connections=connections,
            modes=modes,
        )


def unit_table(
    n_units: int, regions: Sequence[Any] | np.ndarray | None = None, unit_ids: Sequence[Any] | np.ndarray | None = None
) -> pd.DataFrame:
    """Return the table of units: ids default to the position, regions to ``NO_REGION``.

    Raises
    ------
    UserError
        If there are not as many names as units, or two units share an id.
    """
    ids = [str(i) for i in range(n_units)] if unit_ids is None else _names(unit_ids)
    names = [NO_REGION] * n_units if regions is None else _names(regions)
    for label, given in (("unit ids", ids), ("regions", names)):
        if len(given) != n_units:
            raise UserError(
                f"{len(given)} {label} were given for {n_units} units.",
                f"There must be one for each of the {n_units} units.",
                f"Give {n_units} {label}, in the order of the activity's last axis.",
            )
    table = pd.DataFrame({"id": pd.Series(ids, dtype=object), "region": pd.Series(names, dtype=object)})
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise UserError(
            f"Unit id '{repeated.iloc[0]}' occurs more than once.",
            "Units are matched between files by id, so ids are unique within a session.",
            "Rename the units, or leave the ids out to number them by position.",
        )
    return table


def _names(given: Any) -> list[str]:
    return [str(given)] if np.ndim(given) == 0 else [str(name) for name in given]
