"""The training activity of a session as findings about its regions see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.claims.nulls import cells, drift_basis, log_exchanges, permutations
from lvmzoo.claims.support import Questions, too_few
from lvmzoo.inference.lag_windows import lagged, paired_trials, whole_windows
from lvmzoo.inference.regression_moments import ROUNDING, Rows, Scatter, without_columns

__all__ = ["RegionRecording", "Windows"]

ENTRIES = 50_000_000  # of rows x columns; of more data, evenly spread bins are used
DRIFT_TERMS = 4
LAG_FOLDS = 5  # regressions on long windows are many and large
CELL, GOOD_CELL = 4, 8  # trials of one condition in one block, on average: at least, and better
ENOUGH = 1000.0  # different permutations, at least
RESAMPLED = "interval from resampled trials"


class Windows(NamedTuple):
    """Rows of windows, where their columns are, and the bins that they end in."""

    rows: Rows
    columns: dict[tuple[str, int], Int[Tensor, " unit"]]  # of a region at a lag
    spans: dict[str, slice]  # all columns of a region
    drift: slice  # columns of slow drift, which is taken out of the others
    usable: Bool[Tensor, "trial bin"]

    def scatter(self) -> Scatter:
        """Return the moments of what was recorded."""
        return without_columns(self.rows.scatter(), self.drift)

    def exchanged(self, region: str, rows: Int[Tensor, " row"]) -> Scatter:
        """Return the moments with the windows of a region taken from other rows."""
        return without_columns(self.rows.exchanged(self.spans[region], rows), self.drift)

    def resampled(self, trials: Int[Tensor, " trial"], number: int) -> Scatter:
        """Return the moments of a resample of the trials, of which there are so many."""
        times = torch.bincount(trials, minlength=number).to(self.rows.values)
        return without_columns(self.rows.resampled(times), self.drift)


class RegionRecording:
    """Activity of all training trials, each region by itself.

    Parameters
    ----------
    batch : the trials.
    activity : of them, of which means are already subtracted if they should be.
    fold, folds : of each bin, and their number.
    group, groups : bins of a group share a mean; None: all do.
    """

    def __init__(
        self,
        batch: Batch,
        activity: Float[Tensor, "trial bin unit"],
        fold: Int[Tensor, "trial bin"],
        folds: int,
        group: Int[Tensor, "trial bin"] | None,
        groups: int,
    ) -> None:
        self.layout, self.folds, self.groups = batch.layout, folds, groups
        seen = batch.observed & batch.valid[..., None]
        there = batch.valid.any(1)
        self.activity = without_rounding(torch.where(seen, activity, 0.0), batch.activity, seen)[there]
        self.fold = fold[there]
        self.group = None if group is None else group[there]
        self.condition = None if batch.condition is None else batch.condition[there]
        self.valid = batch.valid[there]
        self.complete = {name: (batch.valid & seen[..., self.units(name)].all(-1))[there] for name in self.layout.units}
        self.trials = len(self.activity)
        kinds = 1 if self.condition is None else len(self.condition.unique())
        fine = self.trials // (folds * GOOD_CELL * kinds)  # blocks in a fold
        self.blocks = folds * fine if fine else max(1, min(folds, self.trials // (CELL * kinds)))

    def units(self, region: str) -> slice:
        """Return where the units of a region lie."""
        return self.layout.region(region)

    @property
    def longest(self) -> int:
        """Bins of the longest trial."""
        return int(self.valid.sum(1).max()) if self.trials else 0

    def can_exchange(self, usable: Bool[Tensor, "trial bin"] | None = None) -> bool:
        """Return whether trials of the same condition and block can be exchanged in enough ways for a null.

        Parameters
        ----------
        usable : bins that count; a trial without any cannot be exchanged. None: all.
        """
        alike = cells(self.condition, self.trials, self.blocks)
        if usable is not None:
            alike = alike[usable.any(1).cpu()]
        return log_exchanges(alike) >= math.log(ENOUGH)

    def why_not(self, questions: Questions, usable: Bool[Tensor, "trial bin"] | None = None) -> str:
        """Return why nothing can be told of communication; nothing where it can."""
        if not questions.permutations:
            return "no null was asked for (model.permutations)"
        if self.trials == 1:
            return (
                "too short to tell: one trial cannot be exchanged with another; cut the session into segments "
                "(data.segment_s), or use the model delayed_cca"
            )
        if not self.can_exchange(usable):
            seen = "" if usable is None else f", {int(usable.any(1).sum())} of them with whole windows,"
            return (
                f"too short to tell: {self.trials} trials{seen} cannot be exchanged in enough ways within their "
                "conditions"
            )
        few = too_few(questions.permutations)
        return few if few or questions.resamples else "no interval was asked for (model.resamples)"

    def note(self, correction: str) -> str:
        """Return what the null and the interval are."""
        chance = f"null: trials exchanged within condition and {self.blocks} blocks, slow drift taken out"
        return f"{chance}, {correction}; {RESAMPLED}" if correction else f"{chance}; {RESAMPLED}"

    def usable(self, wanted: Sequence[tuple[str, Sequence[int]]]) -> Bool[Tensor, "trial bin"]:
        """Return the bins in which the windows of all these regions are whole."""
        usable = self.valid.clone()
        for region, lags in wanted:
            usable &= whole_windows(self.complete[region], lags)
        return usable

    def windows(
        self, wanted: Sequence[tuple[str, Sequence[int]]], drift: bool = False, alike: bool = False
    ) -> Windows | None:
        """Return the rows in which the windows of all regions are whole; None where fewer than two folds have any.

        Parameters
        ----------
        wanted : regions, and the lags of their windows.
        drift : take slow drift over the session out.
        alike : bring regions to the same scale, and join neighboring folds to at most five.
        """
        usable = self.usable(wanted)
        terms = min(DRIFT_TERMS, self.trials // 10) if drift else 0
        width = terms + sum(self.layout.units[region] * len(lags) for region, lags in wanted)
        stride = math.ceil(int(usable.sum()) * width / ENTRIES)
        if stride > 1:
            usable &= torch.arange(usable.shape[1], device=usable.device) % stride == 0
        folds = min(self.folds, LAG_FOLDS) if alike else self.folds
        fold = self.fold[usable] * folds // self.folds
        if len(fold.unique()) < 2:
            return None
        trial, _ = usable.nonzero(as_tuple=True)
        place = (trial + 0.5) / max(self.trials, 1)
        parts = [drift_basis(place, terms)[:, 1:]]
        columns: dict[tuple[str, int], Tensor] = {}
        spans: dict[str, slice] = {}
        position = terms
        for region, lags in wanted:
            activity = self.activity[..., self.units(region)]
            part = lagged(activity, lags)[usable]
            if alike:
                deviation = part.var(0).mean().sqrt()
                part = part / (deviation if float(deviation) > 0 else 1.0)
            parts.append(part)
            spans[region] = slice(position, position + part.shape[1])
            for lag in lags:
                columns[region, lag] = torch.arange(position, position + activity.shape[2], device=part.device)
                position += activity.shape[2]
        group = None if self.group is None else self.group[usable]
        rows = Rows(torch.cat(parts, 1), trial, fold, folds, group, self.groups)
        return Windows(rows, columns, spans, slice(0, terms), usable)

    def exchanged(self, usable: Bool[Tensor, "trial bin"], generator: torch.Generator) -> Int[Tensor, " row"]:
        """Return the row that takes the place of each, when trials are exchanged within condition and block."""
        permutation = permutations(self.condition, self.trials, generator, self.blocks)
        number = torch.cumsum(usable.flatten().int(), 0).view(usable.shape) - 1
        source = paired_trials(permutation, usable)
        bins = torch.arange(usable.shape[1], device=usable.device).expand(usable.shape)
        return number[source[usable], bins[usable]]


def without_rounding(
    values: Float[Tensor, "trial bin unit"],
    raw: Num[Tensor, "trial bin unit"],
    seen: Bool[Tensor, "trial bin unit"],
) -> Float[Tensor, "trial bin unit"]:
    """Return the values, zero for units whose values vary no more than a mean of the raw activity is rounded."""
    count = seen.sum((0, 1)).clamp(min=1)
    size = torch.where(seen, raw, 0).to(values.dtype).square().sum((0, 1)) / count
    around = torch.where(seen, values - values.sum((0, 1)) / count, 0.0)
    return torch.where(around.square().sum((0, 1)) / count > ROUNDING**2 * size, values, 0.0)
