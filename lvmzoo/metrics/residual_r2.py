"""How well predicted rates give what single trials do beyond the average of their condition."""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.condition_means import by_condition, predicted, raw
from lvmzoo.metrics.streamed import Piece, r2_of
from lvmzoo.models.base import Reconstructs

__all__ = ["ResidualR2"]


class ResidualR2:
    """R2 of single test trials without the averages of their conditions, of the rates as of the activity.

    The part that is not stimulus-locked; ``psth_r2`` is of the other. Nothing is smoothed, so the noise of counts keeps
    it low: the ceiling is that of the true rates of a simulation. ``residual_r2`` is of units that the model saw,
    ``co_residual_r2`` of held-out units; pooled over units, as those of few spikes have little to tell. ``n`` counts
    bins.
    """

    name = "residual_r2"
    needs: type | None = Reconstructs

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for the units that the model saw, and one for held-out units, where trials have conditions."""
        layout = evaluation.layout
        rows = (("residual_r2", layout.held_in, True), ("co_residual_r2", layout.held_out, False))
        if by_condition(evaluation) is None:
            return []
        return [row for name, units, seen in rows if units for row in _scores(evaluation, name, units, seen)]


def _scores(evaluation: Evaluation, name: str, units: tuple[int, ...], seen: bool) -> list[Score]:
    cells = by_condition(evaluation)
    assert cells is not None
    activity = raw(evaluation, units)
    means = cells.averages(activity).means

    def left(rows: slice) -> Float[np.ndarray, "bin unit"]:
        return cells.residuals(means, activity(rows), rows)

    def of(rates: Piece) -> tuple[float, float | None]:
        said = predicted(evaluation, units, rates)
        own = cells.averages(said).means
        center, among = np.zeros(len(units)), cells.pair >= 0
        return r2_of(
            evaluation,
            "test",
            left,
            lambda rows: cells.residuals(own, said(rows), rows),
            among=among,
            pooled=True,
            center=center,
        )

    rates = evaluation.rates("test")
    value, spread = of(lambda rows: rates[rows])
    if not np.isfinite(value):
        return []
    ceiling = None
    if evaluation.layout.observation is Observation.COUNTS and "rates" in evaluation.trials("test").truth:
        ceiling = of(lambda rows: cast("np.ndarray", evaluation.truth("test", "rates", rows)))[0]
    n = sum(int(np.isfinite(left(rows)).any(1).sum()) for rows in cells.pieces)
    return [Score(name, value, evaluation.layout.session, spread=spread, n=n, seen=seen, ceiling=ceiling)]
