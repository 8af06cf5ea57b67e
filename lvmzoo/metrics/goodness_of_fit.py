"""How much a contrastive embedding tells of what belongs together, in bits, on held-out data."""

from __future__ import annotations

import math

import numpy as np

from lvmzoo.batch import PairSampling
from lvmzoo.data.pairs import PairSampler
from lvmzoo.errors import UserError
from lvmzoo.metrics.base import Evaluation, Score, evaluating
from lvmzoo.models.base import GradientModel

__all__ = ["GoodnessOfFit"]

REFERENCES = 512  # and as many negatives a draw: the number that every run is compared at
DRAWS = 16


class GoodnessOfFit:
    """InfoNCE of pairs drawn from the test part, below that of an embedding that tells nothing, in bits.

    (ln negatives - InfoNCE) / ln 2 with 512 negatives (Schneider, Lee & Mathis 2023), whatever the batch size of the
    training: ``goodness_of_fit_time`` of positives in time, ``goodness_of_fit_behavior`` of positives by label. The two
    are answers to different questions and not to be compared. The spread is that of the draws alone. ``n`` counts
    references.
    """

    name = "goodness_of_fit"
    needs: type | None = None

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for each kind of positives; none of models that learn otherwise, or where no pair is left."""
        model = evaluation.model
        if not isinstance(model, GradientModel) or not isinstance(model.sampling, PairSampling):
            return []
        if not len(evaluation.trials("test")) or not len(evaluation.trials("train")):
            return []
        try:
            trained = PairSampler([evaluation.trials("train")], model.sampling, REFERENCES, evaluation.seed)
            held_out = PairSampler(
                [evaluation.trials("test")], model.sampling, REFERENCES, evaluation.seed, like=trained
            )
        except UserError:  # no whole window, or no label
            return []
        bits: dict[str, list[float]] = {}
        device = next(model.parameters()).device
        with evaluating(model):
            for draw in range(DRAWS):
                batch = held_out.draw(draw).to(device)
                terms = model.loss(batch, 0).terms
                for kind in model.sampling.kinds:
                    loss = sum(float(value) for name, value in terms.items() if name.startswith(f"{kind}_"))
                    bits.setdefault(kind, []).append((math.log(REFERENCES) - loss) / math.log(2))
        return [
            Score(
                f"{self.name}_{kind}",
                float(np.mean(values)),
                evaluation.layout.session,
                unit="bits",
                spread=float(np.std(values, ddof=1) / math.sqrt(DRAWS)),
                n=DRAWS * REFERENCES,
                note=f"{REFERENCES} negatives",
            )
            for kind, values in bits.items()
        ]
