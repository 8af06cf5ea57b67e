"""The bin grid of a recording: which stretches of it are used, and where their bins lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lvmzoo.config import DataConfig
from lvmzoo.data.recording import BinnedTrials, Recording
from lvmzoo.errors import UserError, unknown

__all__ = ["EDGE_TOLERANCE", "Grid", "make_grid"]

# Spike times are multiples of a sampling interval and often fall on a bin edge, where rounding decides. What is within
# this fraction of a bin before an edge counts as on it.
EDGE_TOLERANCE = 1e-6
LONG_GAP_S = 10.0  # a session is divided at longer gaps: their bins would only fill memory


@dataclass(frozen=True)
class Grid:
    """Stretches (trials, epochs, or the whole session) and their bins, stored end to end."""

    table: pd.DataFrame  # a row a stretch: trial (row in the file's table), start_s, stop_s, and the file's columns
    n_bins: Int[np.ndarray, " stretch"]
    bin_width_s: float
    continuous: bool  # a split may cut a stretch; trials stay whole
    source_bin: Int[np.ndarray, " stretch"] | None = None  # binned recordings: the file's bin at which it begins
    notes: tuple[str, ...] = ()

    @property
    def start_s(self) -> Float[np.ndarray, " stretch"]:
        """Time at which the first bin of each stretch begins."""
        return self.table["start_s"].to_numpy(np.float64)

    @property
    def offsets(self) -> Int[np.ndarray, " stretch_plus_1"]:
        """Stored bin at which each stretch begins, and the number of all bins."""
        return np.concatenate([[0], np.cumsum(self.n_bins)]).astype(np.int64)

    @property
    def total_bins(self) -> int:
        """Bins of all stretches."""
        return int(self.n_bins.sum())

    def bin_starts_s(self) -> Float[np.ndarray, " bin"]:
        """Return the time at which each stored bin begins."""
        within = np.arange(self.total_bins) - np.repeat(self.offsets[:-1], self.n_bins)
        return np.repeat(self.start_s, self.n_bins) + within * self.bin_width_s


def make_grid(recording: Recording, config: DataConfig) -> Grid:
    """Choose the stretches that the config asks for, and lay bins over them.

    Raises
    ------
    UserError
        For a column, tag or option that does not exist, or when nothing is left.
    """
    binned = recording.activity if isinstance(recording.activity, BinnedTrials) else None
    width = binned.bin_width_s if binned else config.bin_width_s
    if not 0 < width < np.inf:
        raise UserError(
            f"data.bin_width_s is {width}.", "A bin has a positive width in seconds.", "Try data.bin_width_s=0.02."
        )
    notes: list[str] = []
    table, continuous = _stretches(recording, config, notes)
    if config.align is not None or config.window_s is not None:
        table = _windows(table, config)
        continuous = False
    table = _inside(recording, table, notes)
    n_bins = np.floor((table["stop_s"] - table["start_s"]).to_numpy(np.float64) / width + 1e-3).astype(np.int64)
    source_bin = None
    if binned is not None:
        source_bin, n_bins = _source_bins(recording, binned, table, n_bins)
    keep = n_bins > 0
    if not keep.all():
        notes.append(
            f"{int((~keep).sum())} of {len(keep)} trials were left out: they hold no whole bin of {width:g} s."
        )
    if not keep.any():
        raise UserError(
            f"No trial of session '{recording.session}' holds a bin of {width:g} s.",
            f"The recording runs from {recording.start_s:g} to {recording.stop_s:g} s; trials must lie inside it.",
            "Check the trial times and data.window_s, or use data.trials=session.",
        )
    table = table[keep].reset_index(drop=True)
    grid = Grid(
        table.assign(stop_s=table["start_s"] + n_bins[keep] * width),
        n_bins[keep],
        float(width),
        continuous,
        None if source_bin is None else source_bin[keep],
        tuple(notes),
    )
    if continuous and config.split.by in ("every", "list"):
        grid = _segmented(grid, config)
    return grid


def _stretches(recording: Recording, config: DataConfig, notes: list[str]) -> tuple[pd.DataFrame, bool]:
    """Return the table of stretches in order of time, and whether a split may cut them."""
    choice = config.trials
    if choice not in ("auto", "trials", "epochs", "session"):
        raise unknown("choice of data.trials", choice, ["auto", "trials", "epochs", "session"])
    trials, epochs = recording.trials, recording.epochs
    if choice == "auto":
        choice = "trials" if trials is not None else "epochs" if config.tags and epochs is not None else "session"
    if isinstance(recording.activity, BinnedTrials) and choice != "trials":
        choice = "trials" if choice == "session" and len(recording.activity.lengths) == 1 else choice
        if choice == "session":
            raise UserError(
                "data.trials=session was asked of activity that came as trials.",
                "Bins of different trials do not follow each other in time.",
                "Leave data.trials at auto, or give one array (bins, units).",
            )
    if choice == "session":
        if config.tags:
            raise UserError(
                f"data.tags={config.tags} was asked of session '{recording.session}' as a whole.",
                "Tags belong to epochs or trials" + (", and this recording has neither." if epochs is None else "."),
                "Remove data.tags" + ("." if epochs is None else ", or set data.trials=epochs."),
            )
        return _whole(recording), True
    table = trials if choice == "trials" else epochs
    if table is None or not len(table):
        raise UserError(
            f"data.trials={choice}, but session '{recording.session}' has no {choice}.",
            f"It has {'epochs' if epochs is not None else 'no epochs'} and "
            f"{'trials' if trials is not None else 'no trials'}.",
            "Use data.trials=auto, which takes trials where there are any, else the whole session.",
        )
    table = table.assign(trial=np.arange(len(table)))
    if config.tags:
        table = _tagged(recording, table, config.tags)
    finite = np.isfinite(table[["start_s", "stop_s"]].to_numpy(np.float64)).all(1)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} of {len(table)} {choice} were left out: their start or stop is NaN.")
        table = table[finite]
    table = table.sort_values("start_s", kind="stable").reset_index(drop=True)
    continuous = choice == "epochs" or (isinstance(recording.activity, BinnedTrials) and len(table) == 1)
    if choice == "epochs" and len(table) > 1:  # overlapping epochs must not hold the same bin twice
        ends = np.maximum.accumulate(table["stop_s"].to_numpy(np.float64))
        starts = table["start_s"].to_numpy(np.float64).copy()
        starts[1:] = np.maximum(starts[1:], ends[:-1])
        table = table.assign(start_s=starts)
        table = table[table["stop_s"] > table["start_s"]].reset_index(drop=True)
    return table, continuous


def _whole(recording: Recording) -> pd.DataFrame:
    """Return the whole session, divided at long gaps of the recording."""
    pieces = [[recording.start_s, recording.stop_s]]
    if recording.observed is not None and len(recording.observed):
        pieces = [list(recording.observed[0])]
        for start, stop in recording.observed[1:]:
            if start - pieces[-1][1] > LONG_GAP_S:
                pieces.append([start, stop])
            else:
                pieces[-1][1] = max(stop, pieces[-1][1])
    bounds = np.asarray(pieces, dtype=np.float64)
    return pd.DataFrame({"trial": np.arange(len(bounds)), "start_s": bounds[:, 0], "stop_s": bounds[:, 1]})


def _tagged(recording: Recording, table: pd.DataFrame, tags: list[str]) -> pd.DataFrame:
    """Keep rows with one of the tags; trials without tags of their own take those of the epoch they lie in."""
    wanted = set(tags)
    if "tags" in table:
        known = {str(tag) for row in table["tags"] for tag in row}
        keep = np.array([bool(wanted & {str(tag) for tag in row}) for row in table["tags"]], dtype=bool)
    elif recording.epochs is not None and "tags" in recording.epochs:
        known = {str(tag) for row in recording.epochs["tags"] for tag in row}
        keep = np.zeros(len(table), dtype=bool)
        for start, stop, row in recording.epochs[["start_s", "stop_s", "tags"]].itertuples(index=False):
            if wanted & {str(tag) for tag in row}:
                keep |= ((table["start_s"] >= start) & (table["stop_s"] <= stop)).to_numpy()
    else:
        known, keep = set(), np.zeros(len(table), dtype=bool)
    for tag in tags:
        if tag not in known:
            raise unknown("tag", tag, known, "This recording has no tags: remove data.tags.")
    return table[keep].reset_index(drop=True)


def _windows(table: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """Replace the bounds of each trial by a window around one of its columns."""
    align, window = config.align or "start_s", config.window_s
    if align not in table:
        align = {"start_time": "start_s", "stop_time": "stop_s"}.get(align, align)
    if align not in table:
        raise unknown("trial column", align, [str(c) for c in table.columns if c not in ("trial", "tags")])
    if window is None or len(window) != 2 or not window[0] < window[1]:
        raise UserError(
            f"data.window_s is {window}.",
            "A window around a trial column is [before, after] in seconds, with before < after.",
            f"Try data.align={align} data.window_s=[-0.2,0.8].",
        )
    if not pd.api.types.is_numeric_dtype(table[align]):
        raise UserError(
            f"data.align={align} names a trial column that holds no times.",
            "Its values must be times in seconds on the clock of the recording.",
            "Choose a column of event times; `lvmzoo inspect FILE` lists them.",
        )
    event = table[align].to_numpy(np.float64)
    return table.assign(start_s=event + window[0], stop_s=event + window[1])


def _inside(recording: Recording, table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Leave out trials that lie outside the recording, or whose event is NaN."""
    if isinstance(recording.activity, BinnedTrials):
        return table[np.isfinite(table["start_s"].to_numpy(np.float64))].reset_index(drop=True)
    start, stop = table["start_s"].to_numpy(np.float64), table["stop_s"].to_numpy(np.float64)
    lost = ~np.isfinite(start) | ~np.isfinite(stop)
    if lost.any():
        notes.append(f"{int(lost.sum())} of {len(table)} trials were left out: the time they are aligned to is NaN.")
    outside = ~lost & ((stop <= recording.start_s) | (start >= recording.stop_s))
    if outside.any():
        notes.append(
            f"{int(outside.sum())} of {len(table)} trials were left out: they lie outside the recording "
            f"({recording.start_s:g} to {recording.stop_s:g} s)."
        )
    return table[~lost & ~outside].reset_index(drop=True)


def _source_bins(
    recording: Recording, binned: BinnedTrials, table: pd.DataFrame, n_bins: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of the file's arrays at which each stretch begins, and its number of bins (0: not all there)."""
    assert recording.trials is not None
    trial = table["trial"].to_numpy()
    length = binned.lengths[trial].astype(np.int64)
    first = np.concatenate([[0], np.cumsum(binned.lengths)])[:-1][trial].astype(np.int64)
    began = recording.trials["start_s"].to_numpy(np.float64)[trial]
    shift = np.round((table["start_s"].to_numpy(np.float64) - began) / binned.bin_width_s).astype(np.int64)
    fits = (shift >= 0) & (shift + n_bins <= length)
    return first + shift, np.where(fits, n_bins, 0)


def _segmented(grid: Grid, config: DataConfig) -> Grid:
    """Cut stretches into segments that a split may treat as trials."""
    if config.segment_s is None:
        raise UserError(
            f"data.split.by={config.split.by} was asked of a continuous recording.",
            "It chooses among trials, and this recording is one stretch.",
            "Set data.segment_s (such as 5) to cut it into segments, or use data.split.by=blocks.",
        )
    step = max(1, round(config.segment_s / grid.bin_width_s))
    rows, first, length = [], [], []
    for row, bins in enumerate(grid.n_bins):
        for begin in range(0, int(bins), step):
            rows.append(row)
            first.append(begin)
            length.append(min(step, int(bins) - begin))
    begin_bins, n_bins = np.asarray(first), np.asarray(length, dtype=np.int64)
    table = grid.table.iloc[rows].reset_index(drop=True)
    start = table["start_s"].to_numpy(np.float64) + begin_bins * grid.bin_width_s
    table = table.assign(trial=np.arange(len(rows)), start_s=start, stop_s=start + n_bins * grid.bin_width_s)
    source = None if grid.source_bin is None else grid.source_bin[rows] + begin_bins
    return Grid(table, n_bins, grid.bin_width_s, False, source, grid.notes)
