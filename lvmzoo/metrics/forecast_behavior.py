"""How well a model predicts behavior ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.chance import with_chance_of_prediction
from lvmzoo.metrics.decoding import prediction_scores
from lvmzoo.metrics.forecast_r2 import HORIZONS
from lvmzoo.models.base import ForecastsBehavior

__all__ = ["ForecastBehavior"]


@dataclass(frozen=True)
class ForecastBehavior:
    """The behavior that the model expects some bins ahead, scored on test bins.

    ``forecast_behavior_r2_H``, ``forecast_behavior_error_H`` and ``forecast_behavior_accuracy_H`` are those of
    ``DecodedBehavior``, for each bin given the activity up to H bins earlier; bins count that lie at least H bins into
    their trial. ``n`` counts bins with a label.
    """

    name: ClassVar[str] = "forecast_behavior"
    needs: ClassVar[type | None] = ForecastsBehavior
    horizons: tuple[int, ...] = HORIZONS

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row or two for each variable and each horizon that is shorter than the longest test trial."""
        return [score for horizon in self.horizons for score in self._at(evaluation, horizon)]

    def _at(self, evaluation: Evaluation, horizon: int) -> list[Score]:
        model = cast("ForecastsBehavior", evaluation.model)
        shown = evaluation.since_start("test") >= horizon
        if not shown.any():
            return []
        found = evaluation.views("test", lambda batch: model.forecast_behavior(batch, horizon))
        note = f"{1000 * horizon * evaluation.layout.bin_width_s:.4g} ms ahead"
        rows = []
        for name, predicted in found.items():
            scores = prediction_scores(evaluation, name, predicted, shown, self.name, f"_{horizon}", settings=note)
            rows += with_chance_of_prediction(evaluation, name, scores, predicted, shown)
        return rows
