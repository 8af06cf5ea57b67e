"""From recordings to sessions ready for training: bin, split, filter on training data, order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvmzoo.batch import Layout, Observation
from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.binning import Binned, bin_activity
from lvmzoo.data.conditions import choose_conditions, match_conditions
from lvmzoo.data.files import files_of, load, read_file
from lvmzoo.data.gap import autocorrelation_time_s
from lvmzoo.data.grid import Grid, make_grid
from lvmzoo.data.inputs import as_inputs, split_config
from lvmzoo.data.recording import Recording
from lvmzoo.data.shifted import shift_labels
from lvmzoo.data.smoothing import REACH, smooth
from lvmzoo.data.splits import PARTS, Pieces, Split, plan_split, with_gap
from lvmzoo.data.trials import Session, Trials
from lvmzoo.data.units import active_units, held_out_units, select_units
from lvmzoo.data.variables import behavior_signals, binned_behavior, binned_truth
from lvmzoo.errors import UserError

__all__ = ["apply", "describe", "load", "prepare"]

LARGEST_AUTOMATIC_GAP = 0.05  # of the recording; slower drifts would take all data away


def prepare(recordings: Sequence[Recording], config: DataConfig, *, window_bins: int = 0) -> list[Session]:
    """Bin and split recordings; everything that is fitted or judged on the way sees training bins only.

    Parameters
    ----------
    recordings : one a session.
    config : what to do with them.
    window_bins : bins that the model looks at around one bin; the automatic gap of a split covers them.

    Raises
    ------
    UserError
        If the config does not fit the recordings.
    """
    names = [recording.session for recording in recordings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two recordings are named '{name}'.", "Session names are unique.", "Rename one (Recording.session)."
            )
    return [_prepare(recording, config, window_bins) for recording in recordings]


def _prepare(recording: Recording, config: DataConfig, window_bins: int) -> Session:
    grid = make_grid(recording, config)
    rows = select_units(recording.units, config)
    # Before the long work: a wrong name is told at once.
    signals, drives = (behavior_signals(recording, grid, c) for c in split_config(config, list(recording.behavior)))
    binned = bin_activity(recording, grid, rows)
    split, notes = _split(grid, binned, config, window_bins)
    train_bins = split["train"].bins(grid)
    if not binned.valid[train_bins].any():
        raise UserError(
            f"The training data of session '{recording.session}' hold no bin in which the recording ran.",
            "Bins in gaps of the recording are not observed.",
            "Check the trial times and the observation intervals of the file.",
        )
    ids = recording.units["id"].to_numpy()[rows]
    keep, dropped = active_units(
        binned, train_bins, grid.bin_width_s, recording.observation, config.minimum_rate_hz, ids
    )
    if not keep.all():
        rows = rows[keep]
        missing = None if binned.missing is None else np.ascontiguousarray(binned.missing[:, keep])
        binned = Binned(np.ascontiguousarray(binned.activity[:, keep]), binned.valid, missing)
    notes += dropped
    observation = recording.observation
    if config.smoothing_s > 0:
        pieces = [piece for part in PARTS for piece in zip(*split[part].stored(grid), strict=True)]
        binned, observation = _smoothed(binned, grid, config, pieces), Observation.CONTINUOUS
        if not config.causal_smoothing:
            notes += (f"Smoothing (Gaussian, {config.smoothing_s:g} s) looks ahead: a bin holds later activity too.",)
    bins = {part: split[part].bins(grid) for part in PARTS}
    behavior, variables, unlabeled = binned_behavior(signals, grid, bins)
    if config.shift_behavior is not None:
        behavior = shift_labels(behavior, grid.n_bins, config.shift_behavior, within_trials=not grid.continuous)
        notes += ("Behavior is shifted against the activity: a control. What is decoded now is chance.",)
    measured, input_variables, _ = binned_behavior(drives, grid, {part: np.arange(grid.total_bins) for part in PARTS})
    inputs, unmeasured = as_inputs(measured, input_variables, binned.valid)
    conditions = choose_conditions(grid.table, config.condition)
    layout = Layout(
        session=recording.session,
        units={str(r): int(n) for r, n in recording.units["region"].iloc[rows].value_counts(sort=False).items()},
        unit_ids=tuple(str(i) for i in recording.units["id"].to_numpy()[rows]),
        observation=observation,
        bin_width_s=grid.bin_width_s,
        behavior=variables,
        inputs={name: values.shape[1] for name, values in inputs.items()},
        input_variables=input_variables,
        conditions=conditions.levels if conditions is not None else (),
        longest_bins=int(grid.n_bins.max(initial=0)),
        held_out=held_out_units(config.split, rows, recording.n_units),
    )
    whole = _trials(layout, grid, binned, behavior, inputs, binned_truth(recording, grid, rows), _all(grid))
    if conditions is not None:
        whole = replace(whole, condition=conditions.codes(grid.table))
    parts = {part: _part(whole, grid, _segments(split[part], grid, config)) for part in PARTS}
    return Session(
        **parts,
        connections=recording.connections,
        modes=recording.modes,
        notes=(*recording.notes, *grid.notes, *notes, *unlabeled, *unmeasured),
    )


def _split(grid: Grid, binned: Binned, config: DataConfig, window_bins: int) -> tuple[Split, tuple[str, ...]]:
    """Split with a gap, whose automatic width comes from the training block alone."""
    split, notes = plan_split(grid, config.split)
    if config.split.by in ("every", "list"):
        return split, notes
    if all(not len(split[part].bins(grid)) for part in PARTS if part != "train"):
        return split, notes  # nothing is held out
    if config.split.gap_s is not None:
        if config.split.gap_s < 0:
            raise UserError(
                f"data.split.gap_s is {config.split.gap_s:g}.", "A gap is not negative.", "Use null for automatic."
            )
        return with_gap(grid, split, config.split.gap_s, notes)
    window_s, smoothing_s = window_bins * grid.bin_width_s, REACH * config.smoothing_s
    memory_s = autocorrelation_time_s(binned, grid, split["train"].bins(grid))
    room_s = max(0.0, LARGEST_AUTOMATIC_GAP * grid.total_bins * grid.bin_width_s - window_s - smoothing_s)
    gap_s = window_s + smoothing_s + min(memory_s, room_s)
    gap_s = math.ceil(gap_s / grid.bin_width_s - 1e-6) * grid.bin_width_s
    said = (
        f"Split: contiguous blocks with a gap of {gap_s:.3g} s at least (window {window_s:.3g} s, "
        f"smoothing {smoothing_s:.3g} s, autocorrelation time of the activity {memory_s:.3g} s)."
    )
    if memory_s > room_s:
        said += " The gap is capped at 5 % of the data, so slow changes may still be shared by neighboring blocks."
    try:
        return with_gap(grid, split, gap_s, (*notes, said))
    except UserError:
        if grid.continuous:
            raise
        # Windows and smoothing never cross a trial's end, so what a missing gap lets through is slow drift alone.
        said = f"Split: contiguous blocks of trials, too few for the gap of {gap_s:.3g} s: slow changes may be shared."
        return with_gap(grid, split, 0.0, (*notes, said))


def _smoothed(binned: Binned, grid: Grid, config: DataConfig, pieces: Iterable[tuple[Any, Any]]) -> Binned:
    ranges = [(int(first), int(last)) for first, last in pieces]
    return smooth(binned, ranges, config.smoothing_s / grid.bin_width_s, config.causal_smoothing)


def _all(grid: Grid) -> Pieces:
    n = len(grid.n_bins)
    return Pieces(np.arange(n), np.zeros(n, dtype=np.int64), grid.n_bins)


def _segments(pieces: Pieces, grid: Grid, config: DataConfig) -> Pieces:
    """Cut pieces that are longer than the config's segments."""
    if config.segment_s is None:
        return pieces
    step = max(1, round(config.segment_s / grid.bin_width_s))
    rows = [
        (stretch, begin, min(begin + step, last))
        for stretch, first, last in zip(pieces.stretch, pieces.first, pieces.last, strict=True)
        for begin in range(int(first), int(last), step)
    ]
    array = np.asarray(rows, dtype=np.int64).reshape(-1, 3)
    return Pieces(array[:, 0], array[:, 1], array[:, 2])


def _trials(
    layout: Layout,
    grid: Grid,
    binned: Binned,
    behavior: dict[str, np.ndarray],
    inputs: dict[str, np.ndarray],
    truth: dict[str, np.ndarray],
    pieces: Pieces,
) -> Trials:
    """Return all bins as tensors that share the arrays' memory."""
    start, stop = pieces.stored(grid)
    return Trials(
        layout=layout,
        activity=torch.from_numpy(binned.activity),
        start=start,
        stop=stop,
        valid=torch.from_numpy(binned.valid),
        table=grid.table,
        missing=None if binned.missing is None else torch.from_numpy(binned.missing),
        behavior={name: torch.from_numpy(values) for name, values in behavior.items()},
        inputs={name: torch.from_numpy(values) for name, values in inputs.items()},
        truth={name: torch.from_numpy(values) for name, values in truth.items()},
    )


def _part(whole: Trials, grid: Grid, pieces: Pieces) -> Trials:
    """Return the trials of one part; its table says when each piece begins."""
    start, stop = pieces.stored(grid)
    start_s, stop_s = pieces.interval_s(grid)
    table = grid.table.iloc[pieces.stretch].reset_index(drop=True).assign(start_s=start_s, stop_s=stop_s)
    condition = None if whole.condition is None else whole.condition[pieces.stretch]
    return replace(whole, start=start, stop=stop, table=table, condition=condition)


def apply(recording: Recording, config: DataConfig, layout: Layout) -> Trials:
    """Return a (new) recording binned whole as a fitted model expects it: units and levels matched by name.

    Units of the layout that the recording lacks are marked as missing, with a warning.

    Raises
    ------
    UserError
        If no unit matches, units changed their region, the activity is of another kind or bin width, or a known
        input is missing.
    """
    from lvmzoo.data.matching import match_behavior, match_inputs, match_units

    config = replace(config, bin_width_s=layout.bin_width_s, split=SplitConfig(), behavior=list(layout.behavior))
    grid = make_grid(recording, config)
    if not math.isclose(grid.bin_width_s, layout.bin_width_s, rel_tol=1e-6):
        raise UserError(
            f"'{recording.session}' has bins of {grid.bin_width_s:g} s.",
            f"The model was fitted to bins of {layout.bin_width_s:g} s.",
            "Bin the activity as for the fit.",
        )
    if layout.observation is Observation.COUNTS and recording.observation is not Observation.COUNTS:
        raise UserError(
            f"'{recording.session}' holds a continuous signal.",
            "The model was fitted to spike counts.",
            "Give counts: whole numbers that are not negative.",
        )
    binned = match_units(recording, grid, layout)
    if config.smoothing_s > 0:
        binned = _smoothed(binned, grid, config, pairwise(grid.offsets))
    behavior = match_behavior(recording, grid, layout.behavior)
    inputs = match_inputs(recording, grid, layout)
    trials = _trials(layout, grid, binned, behavior, inputs, {}, _all(grid))
    found = match_conditions(grid.table, config.condition, layout.conditions)
    return trials if found is None else replace(trials, condition=found.codes(grid.table))


def describe(path: str | Path, config: DataConfig) -> str:
    """Return a text about what a file holds, and what a run would use of it."""
    from lvmzoo.data.describe import describe_recording

    [file] = files_of(str(path))[:1]
    return describe_recording(read_file(file, config), config)
