"""How well behavior is read out from the nearest training bins in latent space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.decoding import decoding_scores

__all__ = ["BehaviorKnn"]


@dataclass(frozen=True)
class BehaviorKnn:
    """Nearest-neighbor readout of each behavior variable from latents, scored on test bins.

    ``behavior_r2_knn``, ``behavior_error_knn`` and ``behavior_accuracy_knn`` are as in ``BehaviorR2``. The number of
    neighbors and the distance (cosine or euclidean) are chosen on the validation part. ``n`` counts bins with a label.
    """

    name: ClassVar[str] = "behavior_knn"
    needs: ClassVar[type | None] = None
    chance: bool = True  # what readouts of shuffled labels reach

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row or two for each variable."""
        return decoding_scores(evaluation, "knn", "_knn", chance=self.chance)
