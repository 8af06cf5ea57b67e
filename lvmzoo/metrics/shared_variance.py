"""How much variance units share, and in how many dimensions."""

from __future__ import annotations

from typing import cast

import torch

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.models.base import HasSharedVariance

__all__ = ["SharedVarianceOfUnits"]


class SharedVarianceOfUnits:
    """Share of a unit's variance that it shares with others, and the dimensions of 95 % of that, by cross-validation.

    After Williamson et al. 2016, doi:10.1371/journal.pcbi.1005141: ``shared_variance`` is the mean over units,
    ``dimensionality`` the number of dimensions, both at the number of latents that predicts the folds of the training
    data left out best. Spreads are over folds; ``n`` counts folds.
    """

    name = "shared_variance"
    needs: type | None = HasSharedVariance

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return both rows where there were folds to leave out."""
        found = cast("HasSharedVariance", evaluation.model).shared_variance
        used = torch.isfinite(found.share)
        folds = int(used.sum())
        if folds < 2 or not float(found.latents) > 0 or not len(evaluation.bins("test")):  # nothing is evaluated
            return []
        predicted = float(found.predicted[used].mean())
        note = f"{int(found.latents)} latents by cross-validation; R2 of a unit from the others {predicted:.3f}"
        return [
            Score(
                name,
                float(values[used].mean()),
                evaluation.layout.session,
                spread=float(values[used].std() / folds**0.5),
                n=folds,
                note=note,
            )
            for name, values in (("shared_variance", found.share), ("dimensionality", found.dimensions))
        ]
