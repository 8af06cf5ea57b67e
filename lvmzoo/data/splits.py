"""Which bins are for training, for validation and for testing; no bin and no neighborhood is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lvmzoo.config import SplitConfig
from lvmzoo.data.grid import Grid
from lvmzoo.errors import UserError, unknown

__all__ = ["PARTS", "Pieces", "Split", "plan_split", "with_gap"]

PARTS = ("train", "validation", "test")
UNTOUCHED = "untouched"  # what belongs to no part
Blocks = tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Pieces:
    """Stretches, or cuts of them: piece ``i`` is the bins ``first[i]:last[i]`` of stretch ``stretch[i]``."""

    stretch: Int[np.ndarray, " piece"]
    first: Int[np.ndarray, " piece"]
    last: Int[np.ndarray, " piece"]

    def stored(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Return where each piece begins and ends among the stored bins."""
        return grid.offsets[self.stretch] + self.first, grid.offsets[self.stretch] + self.last

    def bins(self, grid: Grid) -> Int[np.ndarray, " bin"]:
        """Return the stored bins of all pieces."""
        ranges = [np.arange(a, b) for a, b in zip(*self.stored(grid), strict=True)]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)

    def interval_s(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Return the times at which each piece begins and ends."""
        start = grid.start_s[self.stretch]
        return start + self.first * grid.bin_width_s, start + self.last * grid.bin_width_s

    def take(self, keep: np.ndarray) -> Pieces:
        """Return some of the pieces."""
        return Pieces(self.stretch[keep], self.first[keep], self.last[keep])


Split = dict[str, Pieces]


def plan_split(grid: Grid, config: SplitConfig) -> tuple[Split, tuple[str, ...]]:
    """Assign stretches to parts, without a gap yet.

    Raises
    ------
    UserError
        For an unknown way to split, fractions that leave no training data, or too few trials.
    """
    if config.by not in ("blocks", "every", "list", "folds"):
        raise unknown("choice of data.split.by", config.by, ["blocks", "every", "list", "folds"])
    if config.by == "every":
        return _every(grid, config)
    if config.by == "list":
        return _listed(grid, config)
    blocks = _fold_blocks(config) if config.by == "folds" else _blocks(config)
    return (_cut(grid, blocks) if grid.continuous else _by_trial(grid, blocks)), ()


def _blocks(config: SplitConfig) -> Blocks:
    """Return the default: training, then validation, then test."""
    _check_fractions(config.validation, config.test)
    train = 1.0 - config.validation - config.test
    return (("train", 0.0, train), ("validation", train, 1.0 - config.test), ("test", 1.0 - config.test, 1.0))


def _fold_blocks(config: SplitConfig) -> Blocks:
    """Return one fold for testing, and validation beside it, on the side where more data are left."""
    assert config.folds is not None
    if config.fold is None:
        raise UserError(
            f"data.split.folds={config.folds} does not say which fold is tested.",
            "A run tests one fold; a sweep runs all of them and pools their scores.",
            "Add -m to run all of them, or data.split.fold=0 for the first.",
        )
    if config.folds < 2 or not 0 <= config.fold < config.folds:
        raise UserError(
            f"data.split.fold={config.fold} of data.split.folds={config.folds} does not exist.",
            "There are at least 2 folds, and they are numbered from 0.",
            f"Choose a fold from 0 to {max(config.folds, 2) - 1}.",
        )
    if not 0 <= config.untouched < 1:
        raise UserError(
            f"data.split.untouched={config.untouched:g} is not possible.",
            "It is a fraction of the recording, from 0 to less than 1.",
            "Try data.split.untouched=0.2.",
        )
    _check_fractions(config.validation, 1.0 / config.folds)
    low, high = config.fold / config.folds, (config.fold + 1) / config.folds
    blocks: Blocks
    if low >= 1.0 - high:
        middle = max(0.0, low - config.validation)
        blocks = (("train", 0.0, middle), ("validation", middle, low), ("test", low, high), ("train", high, 1.0))
    else:
        middle = min(1.0, high + config.validation)
        blocks = (("train", 0.0, low), ("test", low, high), ("validation", high, middle), ("train", middle, 1.0))
    seen = 1.0 - config.untouched
    return (*((part, start * seen, stop * seen) for part, start, stop in blocks), (UNTOUCHED, seen, 1.0))


def _check_fractions(validation: float, test: float) -> None:
    """Raise UserError unless training data are left."""
    if validation < 0 or test < 0 or validation + test >= 1:
        raise UserError(
            f"data.split.validation={validation:g} and test={test:g} leave no training data.",
            "They are fractions of the recording, not negative, and add up to less than 1.",
            "Try data.split.validation=0.15 data.split.test=0.2.",
        )


def _cut(grid: Grid, blocks: Blocks) -> Split:
    """Cut continuous stretches at fractions of all their bins."""
    total, offsets = grid.total_bins, grid.offsets
    found: dict[str, list[tuple[int, int, int]]] = {part: [] for part in (*PARTS, UNTOUCHED)}
    for part, low, high in blocks:
        begin, end = round(low * total), round(high * total)
        for stretch in range(len(grid.n_bins)):
            first = max(begin, int(offsets[stretch])) - int(offsets[stretch])
            last = min(end, int(offsets[stretch + 1])) - int(offsets[stretch])
            if last > first:
                found[part].append((stretch, first, last))
    return {part: _pieces(found[part]) for part in PARTS}


def _pieces(rows: Sequence[tuple[int, int, int]]) -> Pieces:
    array = np.asarray(rows, dtype=np.int64).reshape(-1, 3)
    return Pieces(array[:, 0], array[:, 1], array[:, 2])


def _whole(grid: Grid, rows: np.ndarray) -> Pieces:
    rows = np.asarray(rows, dtype=np.int64)
    return Pieces(rows, np.zeros(len(rows), np.int64), grid.n_bins[rows])


def _by_trial(grid: Grid, blocks: Blocks) -> Split:
    """Assign whole trials, in order of time, to blocks of as many trials as the fractions say, one at least."""
    n = len(grid.n_bins)
    wanted = {part for part, low, high in blocks if high - low > 1e-9}
    if n < len(wanted):
        raise _too_few(n, len(wanted))
    edges = [round(low * n) for _, low, _ in blocks] + [n]
    for i in range(len(blocks) - 1, 0, -1):  # a part that was asked for gets a trial
        if blocks[i][2] - blocks[i][1] > 1e-9:
            edges[i] = min(edges[i], edges[i + 1] - 1)
    rows: dict[str, list[int]] = {part: [] for part in (*PARTS, UNTOUCHED)}
    for (part, _, _), low, high in zip(blocks, edges[:-1], edges[1:], strict=True):
        rows[part].extend(range(max(0, low), high))
    if not rows["train"]:
        raise _too_few(n, len(wanted))
    return {part: _whole(grid, np.asarray(rows[part])) for part in PARTS}


def _too_few(n: int, parts: int) -> UserError:
    return UserError(
        f"{n} trial{'s' * (n != 1)} cannot be split into {parts} parts.",
        "Each of training, validation and test needs a trial of its own.",
        "Use more trials, set data.split.validation=0, or data.trials=session to split the recording by time.",
    )


def _every(grid: Grid, config: SplitConfig) -> tuple[Split, tuple[str, ...]]:
    """Test each n-th trial; validate on trials spread evenly over the others."""
    if config.every < 2 or not 0 <= config.offset < config.every:
        raise UserError(
            f"data.split.every={config.every} with offset={config.offset} is not possible.",
            "every is at least 2, and offset is from 0 to every - 1.",
            "Try data.split.every=5 data.split.offset=0.",
        )
    _check_fractions(config.validation, 1.0 / config.every)
    trial = grid.table["trial"].to_numpy()
    tested = trial % config.every == config.offset
    rest = np.flatnonzero(~tested)
    number = min(len(rest) - 1, max(1, round(config.validation * len(trial)))) if config.validation > 0 else 0
    if not tested.any() or len(rest) <= number or number < 0:
        raise _too_few(len(trial), 3)
    place = np.floor((np.arange(number) + 0.5) * len(rest) / max(number, 1)).astype(np.int64)
    validation = rest[place]
    split = {
        "train": _whole(grid, np.setdiff1d(rest, validation)),
        "validation": _whole(grid, validation),
        "test": _whole(grid, np.flatnonzero(tested)),
    }
    return _without_overlap(grid, split, (_shares_drift(f"every {config.every}th trial is tested"),))


def _listed(grid: Grid, config: SplitConfig) -> tuple[Split, tuple[str, ...]]:
    """Take the trials that the config names by their row in the file's table."""
    trial = grid.table["trial"].to_numpy()
    place = {int(t): row for row, t in enumerate(trial)}
    named = {
        "train": config.train_trials,
        "validation": config.validation_trials,
        "test": config.test_trials,
    }
    if not config.test_trials and not config.train_trials:
        raise UserError(
            "data.split.by=list names no trials.",
            "It needs data.split.test_trials, and may have validation_trials and train_trials (rows of the table).",
            "Try data.split.test_trials=[0,5,10].",
        )
    taken: dict[int, str] = {}
    for part, trials in named.items():
        for number in trials or []:
            if number in taken:
                raise UserError(
                    f"Trial {number} is named in data.split.{taken[number]}_trials and again in {part}_trials.",
                    "A trial is in one part only.",
                    "Remove it from one of the lists.",
                )
            if number not in place:
                raise UserError(
                    f"data.split.{part}_trials names trial {number}, which does not exist or was left out.",
                    f"There are {len(trial)} trials, from {trial.min()} to {trial.max()}.",
                    "Name rows of the trial table, counted from 0.",
                )
            taken[number] = part
    rows = {part: [place[number] for number in trials or []] for part, trials in named.items()}
    if config.train_trials is None:
        rows["train"] = [row for number, row in place.items() if number not in taken]
    if not rows["train"]:
        raise UserError(
            "data.split.by=list leaves no training trials.",
            "Training needs at least one trial.",
            "Name fewer trials in validation_trials and test_trials.",
        )
    split = {part: _whole(grid, np.sort(np.asarray(found, dtype=np.int64))) for part, found in rows.items()}
    return _without_overlap(grid, split, (_shares_drift("trials are assigned by list"),))


def _shares_drift(how: str) -> str:
    return (
        f"Split: {how}; neighboring trials lie in different parts, so slow drift is shared between training and "
        "test data and scores may be too high."
    )


def _without_overlap(grid: Grid, split: Split, notes: tuple[str, ...]) -> tuple[Split, tuple[str, ...]]:
    """Leave out training (then validation) trials whose bins lie also in a later part."""
    return with_gap(grid, split, 0.0, notes)


def with_gap(grid: Grid, split: Split, gap_s: float, notes: tuple[str, ...] = ()) -> tuple[Split, tuple[str, ...]]:
    """Take away training data within ``gap_s`` of validation or test data, and validation data within it of test data.

    Trials are left out whole; continuous stretches are shortened.

    Raises
    ------
    UserError
        If the gap leaves a part empty that was not.
    """
    kept: Split = {"test": split["test"]}
    lost = 0
    for part, others in (("validation", ("test",)), ("train", ("validation", "test"))):
        pieces = split[part]
        for other in others:
            pieces, removed = _clear(grid, pieces, split[other], gap_s)
            lost += removed
        if len(split[part].stretch) and not len(pieces.stretch):
            raise UserError(
                f"The gap of {gap_s:.3g} s between blocks leaves no {part} data.",
                "Data within the gap of a later block are left out, so that blocks do not share slow changes.",
                "Use more data, larger data.split.validation and data.split.test, or a smaller data.split.gap_s.",
            )
        kept[part] = pieces
    if lost and not grid.continuous:
        why = f"within the gap of {gap_s:.3g} s of another block" if gap_s > 0 else "overlapping trials of another part"
        notes = (*notes, f"{lost} of {len(grid.n_bins)} trials were left out: {why}.")
    return {part: kept[part] for part in PARTS}, notes


def _clear(grid: Grid, pieces: Pieces, other: Pieces, gap_s: float) -> tuple[Pieces, int]:
    """Remove from ``pieces`` what lies within ``gap_s`` of ``other``; return how many whole pieces went."""
    if not len(pieces.stretch) or not len(other.stretch):
        return pieces, 0
    slack = 1e-3 * grid.bin_width_s
    start, stop = pieces.interval_s(grid)
    low, high = other.interval_s(grid)
    order = np.argsort(low)
    low, high = low[order] - gap_s + slack, np.maximum.accumulate(high[order]) + gap_s - slack
    if not grid.continuous:
        # A piece overlaps a forbidden interval if the last one that begins before it stops ends after it starts.
        before = np.searchsorted(low, stop, side="left") - 1
        hit = (before >= 0) & (high[np.maximum(before, 0)] > start)
        return pieces.take(~hit), int(hit.sum())
    first, last = pieces.first.copy(), pieces.last.copy()
    for a, b in zip(low, high, strict=True):
        overlap = (start < b) & (stop > a)
        if not overlap.any():
            continue
        width, begin = grid.bin_width_s, grid.start_s[pieces.stretch]
        # Blocks are contiguous, so the forbidden interval covers an end of the piece: keep the larger side.
        front = np.clip(np.floor((a - begin) / width + 2e-3).astype(np.int64), first, last) - first
        back = last - np.clip(np.ceil((b - begin) / width - 2e-3).astype(np.int64), first, last)
        cut_end = overlap & (front >= back)
        cut_front = overlap & (front < back)
        last = np.where(cut_end, first + front, last)
        first = np.where(cut_front, last - back, first)
        start, stop = begin + first * width, begin + last * width
    keep = last > first
    return Pieces(pieces.stretch[keep], first[keep], last[keep]), int((~keep).sum())
