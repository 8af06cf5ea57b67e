"""Binned trials of one session, stored end to end, and batches cut from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.batch import Batch, Layout

__all__ = ["Session", "Trials"]


@dataclass(frozen=True)
class Trials:
    """Ragged trials of one session: trial ``i`` is the bins ``start[i]:stop[i]`` of the stored arrays.

    A selection of trials, or of stretches of a long one, shares the arrays with the whole: nothing is copied.
    """

    layout: Layout
    activity: Num[Tensor, "bin unit"]  # uint8, int16 or int32 counts, or float32; zero where missing
    start: Int[np.ndarray, " trial"]
    stop: Int[np.ndarray, " trial"]
    valid: Bool[Tensor, " bin"]  # False in gaps of the recording
    table: pd.DataFrame  # a row a trial; has start_s and the columns of the file (condition, target, ...)
    missing: Bool[Tensor, "bin unit"] | None = None  # single samples that were not recorded
    behavior: Mapping[str, Float[Tensor, "bin _channel"]] = field(default_factory=dict)
    inputs: Mapping[str, Float[Tensor, "bin _channel"]] = field(default_factory=dict)
    truth: Mapping[str, Float[Tensor, "bin _channel"]] = field(default_factory=dict)  # simulations: "latents", "rates"
    condition: Int[np.ndarray, " trial"] | None = None  # index into ``layout.conditions``, -1: none of them

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> Int[np.ndarray, " trial"]:
        """Number of bins of each trial."""
        return self.stop - self.start

    @property
    def n_bins(self) -> int:
        """Bins of all trials, gaps included."""
        return int(self.lengths.sum())

    @property
    def flat(self) -> Int[np.ndarray, " selected"]:
        """Indices of the stored bins of all trials, in order."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.concatenate([np.arange(a, b) for a, b in zip(self.start, self.stop, strict=True)])

    def select(self, trials: Sequence[int] | np.ndarray) -> Trials:
        """Return some of the trials."""
        rows = np.asarray(trials, dtype=np.int64)
        return replace(
            self,
            start=self.start[rows],
            stop=self.stop[rows],
            table=self.table.iloc[rows].reset_index(drop=True),
            condition=None if self.condition is None else self.condition[rows],
        )

    def batch(self, trials: Sequence[int] | np.ndarray | None = None, bins: int = 1) -> Batch:
        """Return trials on a common grid, padded at their ends; a view where they lie end to end with equal length.

        An index of -1 is a filler: a trial without a valid bin. The grid has ``bins`` bins at least.
        """
        rows = np.arange(len(self)) if trials is None else np.asarray(trials, dtype=np.int64)
        filler = rows < 0
        start = np.where(filler, 0, self.start[rows] if len(self) else 0)
        length = np.where(filler, 0, self.lengths[rows] if len(self) else 0)
        bins = max(int(length.max(initial=0)), bins)
        shape = (len(rows), bins)
        end_to_end = len(rows) > 0 and not filler.any() and (length == bins).all() and (np.diff(start) == bins).all()
        if not end_to_end:
            grid = torch.from_numpy(np.minimum(start[:, None] + np.arange(bins), len(self.valid) - 1))
            padding = torch.from_numpy(np.arange(bins) >= length[:, None])

        def cut(stored: Tensor, fill: float) -> Tensor:
            if end_to_end:
                return stored[int(start[0]) : int(start[0]) + len(rows) * bins].unflatten(0, shape)
            taken = stored[grid]
            taken[padding] = fill
            return taken

        valid = cut(self.valid, 0.0)
        activity = cut(self.activity, 0.0)
        observed = valid.unsqueeze(-1).expand(activity.shape)
        if self.missing is not None:
            observed = observed & ~cut(self.missing, 1.0)
        return Batch(
            activity=activity,
            valid=valid,
            observed=observed,
            behavior={name: cut(values, torch.nan) for name, values in self.behavior.items()},
            inputs={name: cut(values, 0.0) for name, values in self.inputs.items()},
            trial_index=torch.from_numpy(rows.copy()),
            start_bin=torch.zeros(len(rows), dtype=torch.int64),
            layout=self.layout,
            condition=None if self.condition is None else torch.from_numpy(np.where(filler, -1, self._condition(rows))),
        )

    def _condition(self, rows: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        assert self.condition is not None
        return self.condition[rows] if len(self) else np.full(len(rows), -1)


@dataclass(frozen=True)
class Session:
    """One session ready for training: three parts that share no bin, and what the user should know about them."""

    train: Trials
    validation: Trials
    test: Trials
    connections: pd.DataFrame | None = None  # ground truth of a simulation, see ``Recording``
    modes: pd.DataFrame | None = None  # the same, of linear dynamics
    notes: tuple[str, ...] = ()  # units dropped, smoothing that looks ahead, a split that shares slow drift

    @property
    def layout(self) -> Layout:
        """The layout that all parts share."""
        return self.train.layout
