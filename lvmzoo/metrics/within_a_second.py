"""How often a decoded time, such as that in a movie, is right to a second."""

from __future__ import annotations

import numpy as np

from lvmzoo.batch import Kind
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.chance import WITHIN_S, with_chance
from lvmzoo.metrics.decode import PENALTIES
from lvmzoo.metrics.decoding import fit_decoders
from lvmzoo.metrics.spread import group_sums, ratio_sem

__all__ = ["WithinASecond"]


class WithinASecond:
    """Share of test bins in which a time is decoded from latents to within one second.

    Of behavior variables that are times, whose names end in ``_s``: ``behavior_within_1s`` by ridge regression,
    ``behavior_within_1s_knn`` by nearest neighbors, both as in ``behavior_r2``. What a guess of the middle of the range
    would reach stands in the note; chance is what readouts of shuffled labels reach. ``n`` counts bins with a label.
    """

    name = "behavior_within_1s"
    needs: type | None = None

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return two rows for each time."""
        scores: list[Score] = []
        variables = evaluation.layout.behavior
        times = [n for n, v in variables.items() if n.endswith("_s") and v.kind is Kind.CONTINUOUS and v.channels == 1]
        if not times or not len(evaluation.bins("test")) or not len(evaluation.bins("train")):
            return []
        for kind, suffix in (("ridge", ""), ("knn", "_knn")):
            decoders = fit_decoders(evaluation, kind)
            for name in times:
                truth = evaluation.behavior("test", name)
                known = np.isfinite(truth).all(1)
                if name not in decoders or not known.any():
                    continue
                truth = truth[known]
                decoded = decoders[name].predict(evaluation.latents("test")[known])
                right = (np.abs(decoded - truth) <= WITHIN_S).astype(float)
                groups = evaluation.groups("test")[known]
                middle = np.nanmedian(evaluation.behavior("train", name))
                blind = float((np.abs(middle - truth) <= WITHIN_S).mean())
                score = Score(
                    f"{self.name}{suffix}",
                    float(right.mean()),
                    evaluation.layout.session,
                    name,
                    spread=ratio_sem(group_sums(right, groups), group_sums(np.ones_like(right), groups)),
                    n=len(truth),
                    note=f"always guessing the middle {blind:.3f}; {decoders[name].settings}",
                )
                scores += with_chance(evaluation, name, [score], kind, PENALTIES)
        return scores
