"""How well a model decodes behavior by itself."""

from __future__ import annotations

import numpy as np

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.decoding import prediction_scores
from lvmzoo.models.base import Decodes

__all__ = ["DecodedBehavior"]


class DecodedBehavior:
    """The model's own decoding of each behavior variable, scored on test bins; nothing is fitted for it.

    ``decoded_r2``: R2 around the test mean, uniform average over channels (of cos and sin for angles).
    ``decoded_error``: median absolute error of angles, in degrees. ``decoded_accuracy``: share of categories that are
    right; the majority's share is in the note. ``n`` counts bins with a label.
    """

    name = "decoded_r2"
    needs: type | None = Decodes

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row or two for each variable that the model decodes."""
        every = np.ones(len(evaluation.bins("test")), dtype=bool)
        return [
            score
            for name, predicted in evaluation.decoded("test").items()
            for score in prediction_scores(evaluation, name, predicted, every, "decoded", settings="by the model")
        ]
