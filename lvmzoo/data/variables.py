"""Behavior and ground truth on the bin grid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lvmzoo.batch import Kind, Variable
from lvmzoo.config import DataConfig
from lvmzoo.data.behavior import as_kind, labels
from lvmzoo.data.grid import Grid
from lvmzoo.data.recording import Recording, Signal
from lvmzoo.data.resample import resample
from lvmzoo.errors import unknown

__all__ = ["behavior_signals", "binned_behavior", "binned_truth", "trial_columns"]

Source = Signal | tuple[Kind, tuple[str, ...], np.ndarray]  # a series, or one value for each stretch


def trial_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of the trial table that could be labels."""
    return [str(name) for name in table.columns if name not in ("trial", "start_s", "stop_s", "tags")]


def behavior_signals(recording: Recording, grid: Grid, config: DataConfig) -> dict[str, Source]:
    """Return the variables that the config asks for (null: all series), as the kinds that it asks for.

    A trial column may be asked for by name too; its value then holds for all bins of the trial.

    Raises
    ------
    UserError
        If there is no such variable, or it cannot be of that kind.
    """
    columns = trial_columns(grid.table)
    known = [*recording.behavior, *(name for name in columns if name not in recording.behavior)]
    wanted = list(recording.behavior) if config.behavior is None else list(dict.fromkeys(config.behavior))
    for name in [*wanted, *config.behavior_kinds]:
        if name not in known:
            fix = "" if known else "This recording has no behavior: leave data.behavior out."
            raise unknown("behavior variable", name, known, fix)
    found: dict[str, Source] = {}
    for name in wanted:
        kind = config.behavior_kinds.get(name)
        if name in recording.behavior:
            signal = recording.behavior[name]
            found[name] = signal if kind is None else as_kind(name, signal, kind)
            continue
        values = grid.table[name].to_numpy()
        levels = labels(values)
        signal = (
            Signal(np.asarray(values, dtype=np.float64), start_s=0.0, rate_hz=1.0)
            if levels is None
            else Signal(levels[0], start_s=0.0, rate_hz=1.0, kind=Kind.CATEGORICAL, levels=levels[1])
        )
        signal = signal if kind is None else as_kind(name, signal, kind)
        found[name] = (signal.kind, signal.levels, np.asarray(signal.values, dtype=np.float32))
    return found


def binned_behavior(
    signals: Mapping[str, Source], grid: Grid, bins: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Variable], tuple[str, ...]]:
    """Put variables on the grid; those without a value in the training data are dropped with a note.

    ``bins`` are the stored bins of each part.
    """
    values: dict[str, np.ndarray] = {}
    variables: dict[str, Variable] = {}
    lacking: list[str] = []
    partly: dict[str, list[str]] = {}
    unseen: dict[str, list[str]] = {}
    for name, source in signals.items():
        if isinstance(source, Signal):
            series, kind, levels = resample(source, grid), source.kind, source.levels
        else:
            kind, levels, column = source
            series = np.repeat(column, grid.n_bins)[:, None]
        labeled = np.isfinite(series).all(axis=1)
        share = float(labeled[bins["train"]].mean()) if len(bins["train"]) else 0.0
        if share == 0.0:
            lacking.append(name)
            continue
        if share < 0.9:
            partly.setdefault(f"{share:.0%}", []).append(name)
        for part in ("validation", "test"):
            if len(bins[part]) and not labeled[bins[part]].any():
                unseen.setdefault(part, []).append(name)
        values[name] = series
        variables[name] = Variable(kind, int(series.shape[1]), levels)
    notes = [f"Behavior known in {share} of the training bins: {', '.join(names)}." for share, names in partly.items()]
    if lacking:
        notes.append(f"Behavior dropped, because it has no value in the training data: {', '.join(lacking)}.")
    if unseen:
        where = "; ".join(f"{part} data: {', '.join(names)}" for part, names in unseen.items())
        notes.append(
            f"Behavior without any value in the {where}. Choose the tracked part of the recording by data.tags, or "
            "test on another part by data.split.folds=5 data.split.fold=N."
        )
    return values, variables, tuple(notes)


def binned_truth(
    recording: Recording, grid: Grid, rows: Int[np.ndarray, " unit"]
) -> dict[str, Float[np.ndarray, "bin channel"]]:
    """Put ground truth on the grid; rates become those of the chosen units, as expected activity a bin."""
    found = {}
    for name, signal in recording.truth.items():
        values = resample(signal, grid)
        if name == "rates":
            values = np.ascontiguousarray(values[:, rows])
            if signal.unit.lower() == "hz":
                values *= np.float32(grid.bin_width_s)
        found[name] = values
    return found
