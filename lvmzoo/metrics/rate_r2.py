"""How well the rates of a simulation are recovered."""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import finite
from lvmzoo.metrics.streamed import r2_of
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
        layout, bins = evaluation.layout, len(evaluation.bins("test"))
        if layout.observation is not Observation.COUNTS or "rates" not in evaluation.trials("test").truth or not bins:
            return []
        scores = []
        for name, units in (("rate_r2", layout.held_in), ("co_rate_r2", layout.held_out)):
            if not units:
                continue
            (value, spread), (validation, _) = (_r2(evaluation, part, units) for part in ("test", "validation"))
            if np.isfinite(value):
                seen = units == layout.held_in
                scores.append(
                    Score(name, value, layout.session, spread=spread, n=bins, seen=seen, validation=finite(validation))
                )
        return scores


def _r2(evaluation: Evaluation, part: str, units: tuple[int, ...]) -> tuple[float, float | None]:
    if not len(evaluation.bins(part)) or "rates" not in evaluation.trials(part).truth:
        return float("nan"), None
    rates, columns = evaluation.rates(part), list(units)

    def true(rows: slice) -> Float[np.ndarray, "bin unit"]:
        return cast("np.ndarray", evaluation.truth(part, "rates", rows))[:, columns]

    return r2_of(evaluation, part, true, lambda rows: rates[rows][:, columns])
