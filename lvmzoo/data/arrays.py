"""Recordings from NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lvmzoo.batch import Kind, Observation
from lvmzoo.data.behavior import guess_kind, labels
from lvmzoo.data.recording import BinnedTrials, Recording, Signal, unit_table
from lvmzoo.errors import UserError

__all__ = ["binned_recording", "from_arrays", "observation_of", "signal_on_bins"]


def from_arrays(
    activity: Any,
    behavior: Any = None,
    *,
    bin_width_s: float = 1.0,
    regions: Sequence[str] | None = None,
    unit_ids: Sequence[str] | None = None,
    conditions: Any = None,
    session: str = "arrays",
) -> Recording:
    """Build a recording from binned activity.

    Parameters
    ----------
    activity : (bins, units), (trials, bins, units), or a list of (bins, units), one a trial. Whole numbers that are not
        negative are counts; anything else is a continuous signal. NaN: not recorded.
    behavior : one array or list shaped like the activity (its last axis may be missing), or a dict of them by name.
        Text, booleans and few whole numbers are categories. NaN: no label.
    bin_width_s : width of the bins in seconds.
    regions, unit_ids : one a unit.
    conditions : one value a trial (the trial column ``condition``), or a dict of trial columns.
    session : its name.

    Raises
    ------
    UserError
        If shapes do not agree, or the activity holds nothing.
    """
    values, lengths = _end_to_end("activity", activity)
    if values.ndim != 2 or not len(values) or not values.shape[1]:
        raise UserError(
            f"The activity has shape {np.shape(activity) if isinstance(activity, np.ndarray) else values.shape}.",
            "It is (bins, units), (trials, bins, units), or a list of (bins, units), with at least one bin and unit.",
            "Check the order of the axes: units are last.",
        )
    if not 0 < bin_width_s < np.inf:
        raise UserError(f"bin_width_s is {bin_width_s}.", "It is a positive number of seconds.", "Try 0.02.")
    values, observation = observation_of(values)
    signals = {}
    given = behavior if isinstance(behavior, Mapping) else {} if behavior is None else {"behavior": behavior}
    for name, series in given.items():
        if isinstance(activity, np.ndarray) and activity.ndim == 3 and np.shape(series) == activity.shape[:2]:
            series = np.asarray(series)[..., None]  # one value a bin of each trial
        stacked, found = _end_to_end(name, series)
        if (bins := int(found.sum())) != len(values) or (len(found) == len(lengths) > 1 and (found != lengths).any()):
            raise UserError(
                f"Behavior variable '{name}' has {bins} bins.",
                f"The activity has {len(values)} bins in {len(lengths)} trials; behavior must have the same.",
                "Give one row a bin, in trials as long as those of the activity.",
            )
        signals[str(name)] = signal_on_bins(str(name), stacked)
    columns = conditions if isinstance(conditions, Mapping) else {} if conditions is None else {"condition": conditions}
    return binned_recording(
        session, values, lengths, float(bin_width_s), observation, unit_table(values.shape[1], regions, unit_ids),
        columns, signals,
    )  # fmt: skip


def binned_recording(
    session: str,
    values: np.ndarray,
    lengths: np.ndarray,
    bin_width_s: float,
    observation: Observation,
    units: pd.DataFrame,
    columns: Mapping[str, Any],
    behavior: Mapping[str, Signal],
    *,
    truth: Mapping[str, Signal] | None = None,
    observed: np.ndarray | None = None,
    source: str = "",
    notes: tuple[str, ...] = (),
) -> Recording:
    """Put the pieces together; trials are laid end to end in time, for want of their true times."""
    stop = np.cumsum(lengths) * bin_width_s
    trials = pd.DataFrame({"start_s": stop - lengths * bin_width_s, "stop_s": stop})
    for name, column in columns.items():
        column = np.asarray(column)
        if column.shape != (len(lengths),):
            raise UserError(
                f"Trial column '{name}' has shape {column.shape}.",
                f"There are {len(lengths)} trials, so it must have {len(lengths)} values.",
                "Give one value a trial.",
            )
        trials[str(name) if name not in trials else f"{name}_"] = column
    return Recording(
        session=session,
        activity=BinnedTrials(values, lengths, bin_width_s, observed),
        observation=observation,
        units=units,
        start_s=0.0,
        stop_s=float(stop[-1]),
        trials=trials,
        behavior=behavior,
        truth=truth or {},
        source=source,
        notes=notes,
    )


def _end_to_end(name: str, given: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the bins of all trials end to end, and the length of each trial."""
    if isinstance(given, list | tuple) and len(given) and np.ndim(given[0]) >= 1:
        trials = [np.asarray(trial) for trial in given]
        if len({trial.shape[1:] for trial in trials}) > 1:
            raise UserError(
                f"The trials of '{name}' have shapes such as {trials[0].shape} and "
                f"{next(t.shape for t in trials if t.shape[1:] != trials[0].shape[1:])}.",
                "Trials may differ in their number of bins, not in their number of columns.",
                "Give all trials the same columns; fill what was not recorded with NaN.",
            )
        return np.concatenate(trials), np.array([len(trial) for trial in trials], dtype=np.int64)
    array = np.asarray(given)
    if array.ndim == 3:
        trials, bins, columns = array.shape
        return array.reshape(trials * bins, columns), np.full(trials, bins, dtype=np.int64)
    return array, np.array([len(array) if array.ndim else 0], dtype=np.int64)


def observation_of(values: np.ndarray) -> tuple[np.ndarray, Observation]:
    """Return the activity as numbers, and what it is."""
    if values.dtype.kind not in "buif":
        raise UserError(
            f"The activity is of type {values.dtype}.", "It must be numbers.", "Give counts, or a continuous signal."
        )
    if np.isinf(values).any():
        raise UserError("The activity holds infinite values.", "NaN marks what is missing.", "Replace them by NaN.")
    if values.dtype.kind in "bu" or (values.dtype.kind == "i" and values.min(initial=0) >= 0):
        return values, Observation.COUNTS
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    whole = values.dtype.kind == "f" and known.min(initial=0) >= 0 and bool((known == np.floor(known)).all())
    return values, Observation.COUNTS if whole else Observation.CONTINUOUS


def signal_on_bins(name: str, values: np.ndarray, observed: np.ndarray | None = None) -> Signal:
    """Return a behavior variable on the bins of the activity; raises UserError if it is neither numbers nor labels."""
    source = values if observed is None else values[observed]
    found = labels(source)
    if found is None:
        try:
            casting: Any = "same_kind" if np.iscomplexobj(values) else "unsafe"  # a real part alone is not the value
            return guess_kind(name, Signal(values.astype(np.float32, casting=casting)))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"Behavior variable '{name}' holds {values.dtype} in the shape {values.shape}.",
                "It is numbers in any number of columns, or one label a bin.",
                "Give each column of labels as a variable of its own, and real and imaginary parts as two columns.",
            ) from error
    index, levels = found
    if observed is not None:
        index, some = np.full(len(values), np.nan, dtype=np.float32), index
        index[observed] = some
    return Signal(index, kind=Kind.CATEGORICAL, levels=levels)
