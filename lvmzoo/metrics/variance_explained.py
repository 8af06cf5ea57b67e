"""How much of a target region's activity is predicted from a source region."""

from __future__ import annotations

from typing import cast

import numpy as np

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import r2
from lvmzoo.models.base import Communicates

__all__ = ["VarianceExplained"]


class VarianceExplained:
    """1 - NSE of the target region on test bins, with NSE = RSS / TSS around the *training* mean, pooled over units.

    As in Semedo et al. 2019, doi:10.1016/j.neuron.2019.01.026. A model that predicts the training mean scores 0.
    ``n`` counts bins.
    """

    name = "variance_explained"
    needs: type | None = Communicates

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return one row, with the target region as target."""
        model = cast("Communicates", evaluation.model)
        region = evaluation.layout.region(model.target)
        if not len(evaluation.bins("test")):
            return []
        train, test = (observed(evaluation, part, region) for part in ("train", "test"))
        value, spread = r2(
            test,
            evaluation.predictions("test").astype(np.float64),
            evaluation.groups("test"),
            pooled=True,
            center=np.nan_to_num(np.nanmean(train, axis=0)),
        )
        if not np.isfinite(value):
            return []
        note = f"1 - NSE from {model.source}"
        return [Score(self.name, value, evaluation.layout.session, model.target, spread=spread, n=len(test), note=note)]


def observed(evaluation: Evaluation, part: str, units: slice | tuple[int, ...]) -> np.ndarray:
    """Return the activity of some units as floats, NaN where it was not recorded."""
    values = evaluation.activity(part, units).double()
    recorded = evaluation.recorded(part, units)
    if recorded is not None:
        values = values.masked_fill(~recorded, float("nan"))
    return values.numpy()
