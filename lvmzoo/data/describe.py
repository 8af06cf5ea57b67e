"""What a recording holds and what a run would use of it, as a text to read: ``lvmzoo inspect FILE``."""

from __future__ import annotations

import shlex
import warnings
from typing import Any

import numpy as np
import pandas as pd

from lvmzoo.batch import Kind, Observation
from lvmzoo.config import DataConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.recording import BinnedTrials, Recording, Signal, SpikeTimes
from lvmzoo.data.trials import Session, Trials
from lvmzoo.errors import UserError

__all__ = ["describe_recording"]

MOST_ROWS = 12


def describe_recording(recording: Recording, config: DataConfig) -> str:
    """Return the text; numbers of a run come from preparing the recording as the run would."""
    lines = [f"{recording.source or recording.session}", f"  {_session_line(recording)}", ""]
    lines += _units(recording)
    lines += _intervals("Trials", recording.trials, recording) + _intervals("Epochs", recording.epochs, recording)
    lines += _behavior(recording)
    if recording.truth:
        names = ", ".join(f"{name} ({signal.channels})" for name, signal in recording.truth.items())
        lines += ["Ground truth", f"  {names}", ""]
    lines += _use(recording, config)
    return "\n".join(lines).rstrip() + "\n"


def _session_line(recording: Recording) -> str:
    kinds = {SpikeTimes: "spike times", BinnedTrials: "binned activity", Signal: "continuous signal"}
    kind = kinds[type(recording.activity)]
    if isinstance(recording.activity, BinnedTrials):
        kind += f" in bins of {recording.activity.bin_width_s:g} s ({recording.observation.value})"
        return f"{kind}, {_duration(recording.duration_s)}"
    if isinstance(recording.activity, Signal):
        kind += f" at {1 / recording.activity.interval_s:.4g} Hz"
    line = f"{kind}, from {recording.start_s:.6g} to {recording.stop_s:.6g} s ({_duration(recording.duration_s)})"
    if recording.observed is not None and len(recording.observed) > 1:
        share = np.diff(recording.observed).sum() / recording.duration_s
        line += f", observed in {len(recording.observed)} intervals ({share:.0%})"
    return line


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def _table(rows: list[list[str]]) -> list[str]:
    """Align the columns of some rows: text to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _units(recording: Recording) -> list[str]:
    """Return units by region, with their rates, and the columns that could select them."""
    counts = recording.observation is Observation.COUNTS
    rates = _rates_hz(recording) if counts else np.zeros(recording.n_units)
    rows = [["region", "units", *(["rate in Hz: median, lowest, highest", "silent"] if counts else [])]]
    for region in dict.fromkeys(recording.units["region"]):
        here = rates[(recording.units["region"] == region).to_numpy()]
        row = [str(region), str(len(here))]
        if counts:
            row += [f"{np.median(here):.3g}, {here.min():.3g}, {here.max():.3g}", str(int((here == 0).sum()))]
        rows.append(row)
    lines = [f"Units: {recording.n_units}", *_table(rows)]
    columns = [str(name) for name in recording.units.columns if name not in ("id", "region")]
    if columns:
        lines.append("  columns to select by (data.unit_columns):")
        lines += [f"    {name}: {_values(recording.units[name])}" for name in columns[:MOST_ROWS]]
    return [*lines, ""]


def _rates_hz(recording: Recording) -> np.ndarray:
    """Return each unit's mean rate over the recording."""
    activity = recording.activity
    if isinstance(activity, SpikeTimes):
        seconds = recording.duration_s if recording.observed is None else float(np.diff(recording.observed).sum())
        return np.diff(activity.offsets) / max(seconds, 1e-12)
    assert isinstance(activity, BinnedTrials)
    bins = len(activity.values) if activity.observed is None else int(np.sum(activity.observed))
    return np.asarray(np.nansum(np.asarray(activity.values), axis=0, dtype=np.float64)) / (bins * activity.bin_width_s)


def _values(column: pd.Series) -> str:
    """Return the values of a column in short: its levels, or its range."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        known = column.dropna()
        if known.nunique() > 8:
            return f"{known.min():.5g} to {known.max():.5g}" + (
                f", {len(column) - len(known)} NaN" if len(known) < len(column) else ""
            )
    texts = column.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))
    counts = texts.value_counts(sort=column.nunique() > 8)
    shown = ", ".join(f"{value} ({count})" for value, count in counts.head(8).items())
    return shown + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")


def _intervals(title: str, table: pd.DataFrame | None, recording: Recording) -> list[str]:
    if table is None:
        return []
    if title == "Trials" and len(table) == 1 and isinstance(recording.activity, BinnedTrials):
        return []
    length = (table["stop_s"] - table["start_s"]).to_numpy(np.float64)
    lines = [f"{title}: {len(table)}"]
    if np.isfinite(length).any():
        lines[0] += f", {np.nanmin(length):.3g} to {np.nanmax(length):.3g} s long (median {np.nanmedian(length):.3g} s)"
    unknown = int((~np.isfinite(table[["start_s", "stop_s"]].to_numpy(np.float64)).all(1)).sum())
    if unknown:
        lines.append(f"  {unknown} without start or stop")
    if "tags" in table:
        tags = pd.Series([tag for row in table["tags"] for tag in row], dtype=object).value_counts(sort=False)
        seconds = {t: length[[t in row for row in table["tags"]]].sum() for t in tags.index}
        lines += [f"  tag {t}: {n} ({_duration(float(seconds[t]))})" for t, n in list(tags.items())[:MOST_ROWS]]
    columns = [str(name) for name in table.columns if name not in ("start_s", "stop_s", "tags")]
    lines += [f"  column {name}: {_values(table[name])}" for name in columns[:MOST_ROWS]]
    return [*lines, ""]


def _behavior(recording: Recording) -> list[str]:
    if not recording.behavior:
        return ["Behavior: none", ""]
    rows = [["name", "kind", "channels", "clock", "from - to (s)", "NaN", "unit", "range"]]
    for name, signal in recording.behavior.items():
        values = np.asarray(signal.values[: min(len(signal), 1_000_000)], dtype=np.float64).reshape(-1, signal.channels)
        finite = values[np.isfinite(values)]
        clock = "bins" if signal.on_bins else f"{1 / signal.interval_s:.4g} Hz" if signal.interval_s > 0 else "-"
        span = "-" if signal.on_bins else f"{signal.span_s[0]:.6g} - {signal.span_s[1]:.6g}"
        if signal.kind is Kind.CATEGORICAL:
            shown = f"{len(signal.levels)} levels: {', '.join(signal.levels[:6])}"
        else:
            shown = f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else "all NaN"
        lost = int((~np.isfinite(values).all(axis=1)).sum())
        rows.append(
            [
                name,
                signal.kind.value,
                str(signal.channels),
                clock,
                span,
                f"{lost / len(values):.2%}" if lost else "none",
                signal.unit,
                shown,
            ]
        )
    return [f"Behavior: {len(recording.behavior)}", *_table(rows), ""]


def _use(recording: Recording, config: DataConfig) -> list[str]:
    """Return what a run would use, the notes it would make, and a command to start with."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            [session] = prepare([recording], config)
        except UserError as error:
            return ["A run with these settings would stop:", *(f"  {line}" for line in str(error).splitlines())]
    rows = [["part", "stretches", "bins", "seconds", "from - to (s)"]]
    rows += [_part_row(name, trials) for name, trials in _parts(session).items()]
    layout = session.layout
    units = ", ".join(f"{region} ({count})" for region, count in layout.units.items())
    lines = [
        "A run would use",
        f"  units: {units}; bins of {layout.bin_width_s:g} s; {layout.observation.value}",
        f"  behavior: {', '.join(f'{n} ({v.kind.value})' for n, v in layout.behavior.items()) or 'none'}",
        *_table(rows),
    ]
    notes = [*session.notes, *(str(warning.message) for warning in caught)]
    if notes:
        lines += ["  notes:", *(f"  - {note}" for note in notes)]
    return [*lines, "", "Start with", f"  {_command(recording, config)}", ""]


def _parts(session: Session) -> dict[str, Trials]:
    return {"training": session.train, "validation": session.validation, "test": session.test}


def _part_row(name: str, trials: Trials) -> list[str]:
    width = trials.layout.bin_width_s
    span = "-"
    if len(trials):
        span = f"{trials.table['start_s'].min():.6g} - {trials.table['stop_s'].max():.6g}"
    return [name, str(len(trials)), str(trials.n_bins), f"{trials.n_bins * width:.4g}", span]


def _command(recording: Recording, config: DataConfig) -> str:
    """Return a command that fits the recording: a bin width that its samples allow, and a tag where there are some."""
    words: list[str] = ["lvmzoo", "train", "model=lds", f"data.path={recording.source or 'FILE'}"]
    defaults, width = DataConfig(), config.bin_width_s
    if isinstance(recording.activity, Signal):
        width = max(width, float(f"{recording.activity.interval_s:.4g}"))
    settings: dict[str, Any] = {"bin_width_s": width, "tags": config.tags, "regions": config.regions}
    if config.tags is None and recording.trials is None and recording.epochs is not None:
        settings["tags"] = _labeled_tag(recording)
    for name, value in settings.items():
        if value != getattr(defaults, name) and not (name == "bin_width_s" and _binned(recording)):
            text = "[" + ",".join(str(v) for v in value) + "]" if isinstance(value, list) else f"{value:g}"
            words.append(f"data.{name}={text}")
    return " ".join(shlex.quote(word) for word in words)


def _binned(recording: Recording) -> bool:
    return isinstance(recording.activity, BinnedTrials)


def _labeled_tag(recording: Recording) -> list[str] | None:
    """Return the tag of the epoch in which most behavior was tracked, if it is not tracked throughout."""
    assert recording.epochs is not None
    spans = [signal.span_s for signal in recording.behavior.values() if not signal.on_bins]
    if not spans or "tags" not in recording.epochs or len(recording.epochs) < 2:
        return None
    best, tag = 0.0, None
    for start, stop, tags in recording.epochs[["start_s", "stop_s", "tags"]].itertuples(index=False):
        covered = sum(max(0.0, min(stop, high) - max(start, low)) for low, high in spans)
        if tags and covered > best:
            best, tag = covered, str(tags[0])
    return None if tag is None else [tag]
