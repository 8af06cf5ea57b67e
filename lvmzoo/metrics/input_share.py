"""How much of what a model says is the work of the inputs that it infers, and not of its dynamics."""

from __future__ import annotations

from typing import cast

import numpy as np

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.poisson import log_rates
from lvmzoo.metrics.streamed import r2_of
from lvmzoo.models.base import InfersInputs

__all__ = ["InputShare"]


class InputShare:
    """Share of the variance of log rates that is lost where inferred inputs are at their prior mean.

    1 - R2 of the log rates that the initial condition alone leads to, against those of the whole model, on test bins,
    pooled over units; 0: the dynamics run by themselves, 1 or more: without inputs nothing of the course is left, and
    what was learned is a filter of the activity. Inputs may be right to do so where the area is driven from outside.
    Rates that can be negative stand for their own logarithms. ``n`` counts bins.
    """

    name = "input_share"
    needs: type | None = InfersInputs

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row where the model infers inputs and its rates vary."""
        model = cast("InfersInputs", evaluation.model)
        if not model.infers_inputs or not len(evaluation.bins("test")):
            return []
        whole, alone = evaluation.rates("test"), evaluation.view("test", model.undriven_rates)
        kept, spread = r2_of(
            evaluation,
            "test",
            lambda rows: log_rates(evaluation, whole[rows]),
            lambda rows: log_rates(evaluation, alone[rows]),
            pooled=True,
        )
        if not np.isfinite(kept):
            return []
        note = "of the variance of log rates is lost without inferred inputs"
        return [
            Score(
                self.name, 1 - kept, evaluation.layout.session, better="lower", spread=spread, n=len(whole), note=note
            )
        ]
