"""How well predicted rates give what single trials do beyond the average of their condition."""

from __future__ import annotations

import numpy as np

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.condition_means import by_condition
from lvmzoo.metrics.spread import r2
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
    activity = evaluation.activity("test", units).double().numpy()
    recorded = evaluation.recorded("test", units)
    there = np.ones(activity.shape, dtype=bool) if recorded is None else recorded.numpy()
    in_time = np.argsort(cells.order)  # groups of bins have to follow each other
    groups, zero = evaluation.groups("test")[cells.order][in_time], np.zeros(len(units))
    truth = cells.residuals(activity, there)[in_time]

    def of(rates: np.ndarray) -> tuple[float, float | None]:
        left = cells.residuals(rates[:, list(units)].astype(np.float64), there)[in_time]
        return r2(truth, left, groups, pooled=True, center=zero)

    value, spread = of(evaluation.rates("test"))
    if not np.isfinite(value):
        return []
    oracle = evaluation.truth("test", "rates") if evaluation.layout.observation is Observation.COUNTS else None
    ceiling = None if oracle is None else of(oracle)[0]
    n = int(np.isfinite(truth).any(1).sum())
    return [Score(name, value, evaluation.layout.session, spread=spread, n=n, seen=seen, ceiling=ceiling)]
