"""How well a model decodes behavior by itself."""

from __future__ import annotations

import numpy as np

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.chance import with_chance_of_prediction
from lvmzoo.metrics.decoding import prediction_scores
from lvmzoo.models.base import Decodes

__all__ = ["DecodedBehavior"]


class DecodedBehavior:
    """The model's own decoding of each behavior variable, scored on test bins; nothing is fitted for it.

    ``decoded_r2``: R2 around the test mean, uniform average over channels (of cos and sin for angles).
    ``decoded_error``: median absolute error of angles, in degrees. ``decoded_accuracy``: share of categories that are
    right; the majority's share is in the note. Chance is what the same reaches of shuffled labels. ``n`` counts bins
    with a label.
    """

    name = "decoded_r2"
    needs: type | None = Decodes

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row or two for each variable that the model decodes."""
        every = np.ones(len(evaluation.bins("test")), dtype=bool)
        found = []
        for name, predicted in evaluation.decoded("test").items():
            scores = prediction_scores(evaluation, name, predicted, every, "decoded", settings="by the model")
            found += with_chance_of_prediction(evaluation, name, scores, predicted, every)
        return found
