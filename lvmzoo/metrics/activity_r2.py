"""How well a model predicts continuous activity (calcium, rates)."""

from __future__ import annotations

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import r2
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
            truth = observed(evaluation, "test", units)
            rates = evaluation.rates("test")[:, list(units)].astype(np.float64)
            value, spread = r2(truth, rates, evaluation.groups("test"))
            if np.isfinite(value):
                scores.append(
                    Score(name, value, layout.session, spread=spread, n=len(truth), seen=units == layout.held_in)
                )
        return scores
