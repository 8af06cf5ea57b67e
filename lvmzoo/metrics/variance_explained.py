"""How much of a target region's activity is predicted from a source region."""

from __future__ import annotations

from typing import cast

import numpy as np

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import finite, r2
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
        """Return a row for each region that is predicted."""
        model = cast("Communicates", evaluation.model)
        if not len(evaluation.bins("test")):
            return []
        found = []
        for target, sources in model.routes.items():
            (value, spread), (validation, _) = (_nse(evaluation, part, target) for part in ("test", "validation"))
            found.append(
                Score(
                    self.name,
                    value,
                    evaluation.layout.session,
                    target,
                    spread=spread,
                    n=len(evaluation.bins("test")),
                    note=f"1 - NSE from {' and '.join(sources)}",
                    validation=finite(validation),
                )
            )
        return [score for score in found if np.isfinite(score.value)]


def _nse(evaluation: Evaluation, part: str, target: str) -> tuple[float, float | None]:
    if not len(evaluation.bins(part)):
        return float("nan"), None
    region = evaluation.layout.region(target)
    train, truth = (observed(evaluation, name, region) for name in ("train", part))
    predicted, center = evaluation.predictions(part, target), np.nan_to_num(np.nanmean(train, axis=0))
    return r2(truth, predicted.astype(np.float64), evaluation.groups(part), pooled=True, center=center)


def observed(evaluation: Evaluation, part: str, units: slice | tuple[int, ...]) -> np.ndarray:
    """Return the activity of some units as floats, NaN where it was not recorded."""
    values = evaluation.activity(part, units).double()
    recorded = evaluation.recorded(part, units)
    if recorded is not None:
        values = values.masked_fill(~recorded, float("nan"))
    return values.numpy()
