"""How much of a target region's activity is predicted from a source region."""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Float

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import finite
from lvmzoo.metrics.streamed import r2_of
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
    region, predicted = evaluation.layout.region(target), evaluation.predictions(part, target)
    total, count = 0.0, 0.0
    for rows in evaluation.pieces("train"):
        train = observed(evaluation, "train", region, rows)
        total, count = total + np.nansum(train, axis=0), count + np.isfinite(train).sum(0)
    center = total / np.maximum(count, 1)
    return r2_of(
        evaluation,
        part,
        lambda rows: observed(evaluation, part, region, rows),
        lambda rows: predicted[rows],
        pooled=True,
        center=center,
    )


def observed(
    evaluation: Evaluation, part: str, units: slice | tuple[int, ...], rows: slice = slice(None)
) -> Float[np.ndarray, "bin unit"]:
    """Return the activity of some units in the valid bins, or some of these, as floats; NaN where none was recorded."""
    values = evaluation.activity(part, units, rows).double()
    recorded = evaluation.recorded(part, units, rows)
    if recorded is not None:
        values = values.masked_fill(~recorded, float("nan"))
    return values.numpy()
