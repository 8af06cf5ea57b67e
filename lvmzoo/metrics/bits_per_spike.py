"""Bits per spike on units that the model saw: how well it explains, not how well it predicts unseen units."""

from __future__ import annotations

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.poisson import score_counts

__all__ = ["BitsPerSpike"]


class BitsPerSpike:
    """Poisson log-likelihood of the held-in units' test counts above mean rates, in bits a spike.

    ``n`` counts spikes. A model without positive rates is scored through a Poisson readout from its latents.
    """

    name = "bits_per_spike"
    needs: type | None = None

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return one row for counts."""
        if evaluation.layout.observation is not Observation.COUNTS:
            return []
        return score_counts(evaluation, evaluation.layout.held_in, self.name, seen=True)
