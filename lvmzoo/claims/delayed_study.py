"""What processes with delays were found to say of one session: tests, refits, and predictions of trials left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.batch import Batch, Observation
from lvmzoo.claims.delayed_claims import Draws, fisher_draws, resampled, test_delays
from lvmzoo.claims.delayed_communication import Predictions, cross_validated
from lvmzoo.claims.delayed_exchange import Exchange, exchange, exchangeable, orders
from lvmzoo.claims.nulls import interval, log_exchanges
from lvmzoo.claims.support import too_few
from lvmzoo.findings import Progress
from lvmzoo.inference.delayed_dimension import fold_of_trials
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings
from lvmzoo.parts.residuals import Residuals

__all__ = ["Settings", "Study", "around"]

FEWEST_WAYS = 1_000  # to exchange trials, for a null
NO_INTERVAL = "no interval to judge communication by: model.resamples is 0"
FLAT = 1e-12  # standard deviation of a unit, as a share of its root mean square, that is rounding


@dataclass(frozen=True)
class Settings:
    """Of tests and intervals; see the model's config."""

    residuals: bool
    folds: int
    permutations: int
    resamples: int


class Study:
    """The trials of one session, and what was found in them."""

    def __init__(
        self,
        model: DelayedProcesses,
        batch: Batch,
        names: Sequence[str],
        settings: Settings,
        activity: Tensor,
        seed: int,
        progress: Progress,
    ) -> None:
        used = batch.valid.any(1)
        self.batch = batch if bool(used.all()) else batch.map(lambda tensor: tensor[used])
        self.flat = _flat(activity, batch)
        self.data = Recordings(activity[used].masked_fill(self.flat, 0.0), batch.valid[used], batch.observed[used])
        model = model._replace(offset=model.offset.masked_fill(self.flat, 0.0))
        self.names, self.settings, self.progress = names, settings, progress
        self.generator = torch.Generator().manual_seed(seed)
        self.counts = batch.layout.observation is Observation.COUNTS
        self.ms = 1e3 * batch.layout.bin_width_s
        present = [m for m, name in enumerate(names) if name in batch.layout.units]
        place = {name: k for k, name in enumerate(batch.layout.units)}
        present.sort(key=lambda m: place[names[m]])
        self.pairs = list(itertools.combinations(present, 2))
        self.fold = fold_of_trials(len(self.data.valid), settings.folds).to(self.data.valid.device)
        tested = test_delays(
            model, self.data, self.counts, self.pairs, lambda done: progress("Delays against zero", done)
        )
        self.model, self.ratios = tested
        self.draws = self._draws()
        self.predictions = self._predictions()
        self.exchanges, self.latent_exchanges = self._exchanges()

    def _draws(self) -> Draws:
        resamples = self.settings.resamples
        if resamples and len(self.data.valid) > 1:
            return resampled(
                self.model,
                self.data,
                self.counts,
                self.pairs,
                resamples,
                self.generator,
                lambda done: self.progress("Refits to resampled trials", done),
            )
        return fisher_draws(self.model, self.data, self.pairs, self.generator)

    def _predictions(self) -> dict[tuple[int, int], Predictions]:
        if int(self.fold.max()) < 1:
            return {}
        ordered = [pair for one, other in self.pairs for pair in ((one, other), (other, one))]
        return cross_validated(
            partial(self._activity, residuals=self.settings.residuals),
            None if self.settings.residuals else partial(self._activity, residuals=True),
            self.data.valid,
            self.data.observed,
            self.fold,
            self.model,
            self.counts,
            ordered,
            lambda done: self.progress("Predictions of trials left out", done),
        )

    def _activity(self, train: Bool[Tensor, " trial"], residuals: bool) -> Float[Tensor, "trial bin unit"]:
        """Return the activity, less condition means of the training trials where they are wanted."""
        means = Residuals([self.batch.layout], residuals).to(train.device)
        means.prepare([self.batch.map(lambda tensor: tensor[train])])
        return means(self.batch).masked_fill(self.flat, 0.0)

    def _exchanges(self) -> tuple[dict[tuple[int, int], Exchange], dict[tuple[int, int, int], Exchange]]:
        """Exchange trials: of predictions of each pair of regions, and of each latent that the two may share."""
        if not self.predictions:
            return {}, {}
        tested, settings = self.fold > 0, self.settings
        condition = None if self.batch.condition is None else self.batch.condition[tested]
        regions = sorted({region for pair in self.pairs for region in pair})
        cell = exchangeable(self.fold[tested], condition)
        order = orders(cell, regions, settings.permutations, self.generator)
        whole, latents = {}, {}
        for a, b in self.pairs:
            there, back = self.predictions[a, b], self.predictions[b, a]
            whole[a, b] = exchange(there.predicted, back.predicted, condition, order[a], order[b])
            for j in range(self.model.across):
                latents[a, b, j] = exchange(there.latents.of(j), back.latents.of(j), condition, order[a], order[b])
        return whole, latents

    @cached_property
    def unknown(self) -> str:
        """Why nothing can be told of communication, as a part of a note; empty where it can."""
        if self.trials == 1:
            return (
                "too short to tell: one trial cannot be exchanged with another; cut the session into segments, such as "
                "data.segment_s=2, or use delayed_cca"
            )
        ways = self._log_ways(self.settings.folds)
        if ways < math.log(FEWEST_WAYS):
            fewer = [k for k in range(self.settings.folds - 1, 1, -1) if self._log_ways(k) >= math.log(FEWEST_WAYS)]
            return (
                f"too short to tell: {self.trials} trials can be exchanged in {round(math.exp(ways))} "
                f"way{'s' * (ways > 0)} within fold, condition and neighbors, of {FEWEST_WAYS} that are needed"
                + (f"; set model.folds={fewer[0]}" if fewer else "")
            )
        return too_few(self.settings.permutations)

    @property
    def unjudged(self) -> str:
        """Why there is evidence neither for communication nor against it; empty where there is."""
        return self.unknown or ("" if self.settings.resamples else NO_INTERVAL)

    def _log_ways(self, folds: int) -> float:
        """Return the logarithm of the number of ways to exchange trials left out, were there so many folds."""
        fold = fold_of_trials(self.trials, folds)
        condition = self.batch.condition
        return log_exchanges(exchangeable(fold[fold > 0], None if condition is None else condition.cpu()[fold > 0]))

    @property
    def trials(self) -> int:
        """Number of trials with a valid bin."""
        return len(self.data.valid)

    def called(self, pair: tuple[int, int]) -> tuple[str, str]:
        """Return the names of two regions."""
        return self.names[pair[0]], self.names[pair[1]]


def _flat(activity: Float[Tensor, "trial bin unit"], batch: Batch) -> Bool[Tensor, " unit"]:
    """Return units that never change: what sums of equal numbers leave of them is rounding."""
    shown = batch.observed & batch.valid[..., None]
    count = shown.sum((0, 1)).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return torch.where(shown, values, 0.0).to(torch.float64).sum((0, 1)) / count

    spread = mean((activity - mean(activity)).square())
    return spread <= FLAT**2 * mean(batch.activity.to(torch.float64).square())


def around(value: float, samples: Sequence[float] | Float[Tensor, " draw"]) -> tuple[float, float]:
    """Return the 95 % interval of the samples, widened to hold the value where they lie to one side of it."""
    low, high = interval(samples)
    return min(value, low), max(value, high)
