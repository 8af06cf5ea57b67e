"""A new recording seen through the layout of a fitted model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Kind, Layout, Observation, Variable
from lvmzoo.config import DataConfig
from lvmzoo.data.binning import Binned, bin_activity
from lvmzoo.data.grid import Grid
from lvmzoo.data.inputs import encode
from lvmzoo.data.recording import NO_REGION, Recording, Signal
from lvmzoo.data.resample import resample
from lvmzoo.data.variables import behavior_signals, trial_columns
from lvmzoo.errors import UserError

__all__ = ["match_behavior", "match_inputs", "match_units"]


def match_units(recording: Recording, grid: Grid, layout: Layout) -> Binned:
    """Bin the units of the layout in its order; those that the recording lacks are missing."""
    place = {str(name): row for row, name in enumerate(recording.units["id"])}
    lacking = np.array([name not in place for name in layout.unit_ids], dtype=bool)
    if lacking.all():
        raise UserError(
            f"'{recording.session}' has none of the units of session '{layout.session}'.",
            f"The model knows units such as {', '.join(layout.unit_ids[:5])}; the recording has "
            f"{', '.join(list(place)[:5])}.",
            "Units are matched by id: give the recording the ids of the fit, or fit a model to it.",
        )
    rows = np.array([place.get(name, 0) for name in layout.unit_ids], dtype=np.int64)
    regions = np.repeat(list(layout.units), list(layout.units.values()))
    own = recording.units["region"].to_numpy(dtype=object)[rows]
    moved = ~lacking & (own != regions) & (own != NO_REGION)
    if moved.any():
        first = int(np.flatnonzero(moved)[0])
        raise UserError(
            f"Unit '{layout.unit_ids[first]}' lies in region '{recording.units['region'].iloc[rows[first]]}' of "
            f"'{recording.session}'.",
            f"In the model it lies in region '{regions[first]}', so it is another unit.",
            "Give a recording of the same units, with the same ids and regions.",
        )
    binned = bin_activity(recording, grid, rows)
    activity = binned.activity
    if layout.observation is Observation.CONTINUOUS and activity.dtype != np.float32:
        activity = activity.astype(np.float32)
    if not lacking.any():
        return Binned(activity, binned.valid, binned.missing)
    warnings.warn(
        f"'{recording.session}' lacks {int(lacking.sum())} of {len(lacking)} units of the model "
        f"(such as {layout.unit_ids[int(np.flatnonzero(lacking)[0])]}): they are taken as not observed.",
        stacklevel=3,
    )
    activity = np.where(lacking, np.zeros((), activity.dtype), activity)  # it may be the array of the user
    missing = np.zeros(activity.shape, dtype=bool) if binned.missing is None else binned.missing
    missing[:, lacking] = True
    return Binned(activity, binned.valid, missing)


def match_behavior(
    recording: Recording, grid: Grid, variables: Mapping[str, Variable]
) -> dict[str, Float[np.ndarray, "bin channel"]]:
    """Put variables of a layout on the grid: levels matched by name, NaN where the recording lacks a variable."""
    known = {*recording.behavior, *trial_columns(grid.table)}
    kinds = {name: variable.kind.value for name, variable in variables.items() if name in known}
    there = DataConfig(behavior=list(kinds), behavior_kinds=kinds)
    signals = behavior_signals(recording, grid, there)
    found: dict[str, np.ndarray] = {}
    for name, variable in variables.items():
        source = signals.get(name)
        if source is None:
            found[name] = np.full((grid.total_bins, variable.channels), np.nan, dtype=np.float32)
            continue
        if isinstance(source, Signal):
            values, levels = resample(source, grid), source.levels
        else:
            _, levels, column = source
            values = np.repeat(column, grid.n_bins)[:, None]
        if values.shape[1] != variable.channels:
            raise UserError(
                f"Behavior variable '{name}' of '{recording.session}' has {values.shape[1]} channels.",
                f"The model was fitted with {variable.channels}.",
                "Give the same variable as for the fit.",
            )
        if variable.kind is Kind.CATEGORICAL:
            place = {level: index for index, level in enumerate(variable.levels)}
            table = np.array([place.get(level, np.nan) for level in levels] or [np.nan], dtype=np.float32)
            labeled = np.isfinite(values)
            values = np.where(labeled, table[np.where(labeled, values, 0).astype(np.int64)], np.float32(np.nan))
        found[name] = values.astype(np.float32)
    return found


def match_inputs(recording: Recording, grid: Grid, layout: Layout) -> dict[str, Float[np.ndarray, "bin channel"]]:
    """Return the known inputs of the layout, encoded as for the fit; raises UserError where one is missing."""
    known = {*recording.behavior, *trial_columns(grid.table)}
    for name in layout.input_variables:
        if name not in known:
            raise UserError(
                f"'{recording.session}' lacks the input '{name}'.",
                f"The model was fitted with it: data.inputs=[{', '.join(layout.input_variables)}].",
                "Give it with the recording; arrays: transform(X, y) with y a dict that holds it.",
            )
    found = match_behavior(recording, grid, layout.input_variables)
    return {name: encode(values, layout.input_variables[name]) for name, values in found.items()}
