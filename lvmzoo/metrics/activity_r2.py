"""How well a model predicts continuous activity (calcium, rates)."""

from __future__ import annotations

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import finite
from lvmzoo.metrics.streamed import r2_of
from lvmzoo.metrics.variance_explained import observed
from lvmzoo.models.base import Reconstructs

__all__ = ["ActivityR2"]


class ActivityR2:
    """R2 of the expected activity on test bins, the mean over units; continuous observations only.

    ``activity_r2`` is of units that the model saw, in the bins that it saw; ``co_r2`` is of held-out units.
    ``n`` counts bins.
    """

    name = "activity_r2"
    needs: type | None = Reconstructs

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for the units that the model saw, and one for held-out units where there are any."""
        layout = evaluation.layout
        if layout.observation is not Observation.CONTINUOUS or not len(evaluation.bins("test")):
            return []
        scores = []
        for name, units in (("activity_r2", layout.held_in), ("co_r2", layout.held_out)):
            if not units:
                continue
            (value, spread), (validation, _) = (_r2(evaluation, part, units) for part in ("test", "validation"))
            if np.isfinite(value):
                bins, seen = len(evaluation.bins("test")), units == layout.held_in
                scores.append(
                    Score(name, value, layout.session, spread=spread, n=bins, seen=seen, validation=finite(validation))
                )
        return scores


def _r2(evaluation: Evaluation, part: str, units: tuple[int, ...]) -> tuple[float, float | None]:
    if not len(evaluation.bins(part)):
        return float("nan"), None
    rates, columns = evaluation.rates(part), list(units)
    return r2_of(
        evaluation, part, lambda rows: observed(evaluation, part, units, rows), lambda rows: rates[rows][:, columns]
    )
