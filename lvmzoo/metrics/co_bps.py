"""Co-smoothing: bits per spike on units that the model does not see at evaluation."""

from __future__ import annotations

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.poisson import score_counts

__all__ = ["CoBps"]


class CoBps:
    """Poisson log-likelihood of held-out units' counts in test trials above mean rates, in bits a spike.

    The latents come from the held-in units alone (Pei et al. 2021, doi:10.48550/arXiv.2109.04463). ``n`` counts spikes.
    A model without positive rates is scored through a Poisson readout from its latents, fitted on training trials.
    """

    name = "co_bps"
    needs: type | None = None

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return one row for counts with held-out units."""
        if evaluation.layout.observation is not Observation.COUNTS:
            return []
        return score_counts(evaluation, evaluation.layout.held_out, self.name)
