"""How well the rates of a simulation are recovered."""

from __future__ import annotations

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import r2
from lvmzoo.models.base import Reconstructs

__all__ = ["RateR2"]


class RateR2:
    """R2 of the model's rates against the true rates of a simulation of counts on test bins, the mean over units.

    ``rate_r2`` is of the units that the model saw, ``co_rate_r2`` of held-out units. The rates are the model's own
    expected counts per bin, positive or not, without any map fitted to the truth; the oracle has 1. ``n`` counts bins.
    """

    name = "rate_r2"
    needs: type | None = Reconstructs

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for the units that the model saw, and one for held-out units where there are any."""
        layout = evaluation.layout
        truth = evaluation.truth("test", "rates")
        if layout.observation is not Observation.COUNTS or truth is None or not len(truth):
            return []
        scores = []
        for name, units in (("rate_r2", layout.held_in), ("co_rate_r2", layout.held_out)):
            if not units:
                continue
            rates = evaluation.rates("test")[:, list(units)].astype(np.float64)
            value, spread = r2(truth[:, list(units)], rates, evaluation.groups("test"))
            if np.isfinite(value):
                scores.append(
                    Score(name, value, layout.session, spread=spread, n=len(truth), seen=units == layout.held_in)
                )
        return scores
