"""How well a model predicts activity ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.streamed import r2_of
from lvmzoo.metrics.variance_explained import observed
from lvmzoo.models.base import Forecasts

__all__ = ["HORIZONS", "ForecastR2"]

HORIZONS = (1, 2, 5, 10, 20)  # bins


@dataclass(frozen=True)
class ForecastR2:
    """R2 of the activity that the model expects some bins ahead, on test bins, the mean over units that it sees.

    ``forecast_r2_H`` is of each bin given those up to H bins earlier; bins count that lie at least H bins into their
    trial, of which something is known. Around their mean, which alone would reach 0. ``n`` counts bins.
    """

    name: ClassVar[str] = "forecast_r2"
    needs: ClassVar[type | None] = Forecasts
    horizons: tuple[int, ...] = HORIZONS

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for each horizon that is shorter than the longest test trial."""
        return [score for horizon in self.horizons for score in self._at(evaluation, horizon)]

    def _at(self, evaluation: Evaluation, horizon: int) -> list[Score]:
        model, units = cast("Forecasts", evaluation.model), evaluation.layout.held_in
        shown = evaluation.since_start("test") >= horizon
        if not shown.any():
            return []

        def ahead(batch: Batch) -> Float[Tensor, "trial bin unit"]:
            return model.forecast(batch, horizon)[..., list(units)]

        predicted = evaluation.view("test", ahead)
        value, spread = r2_of(
            evaluation,
            "test",
            lambda rows: observed(evaluation, "test", units, rows),
            lambda rows: predicted[rows],
            among=shown,
        )
        if not np.isfinite(value):
            return []
        session, note = evaluation.layout.session, f"{1000 * horizon * evaluation.layout.bin_width_s:.4g} ms ahead"
        return [Score(f"{self.name}_{horizon}", value, session, spread=spread, n=int(shown.sum()), note=note)]
