"""How well behavior is read out linearly from latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.decode import PENALTIES
from lvmzoo.metrics.decoding import decoding_scores

__all__ = ["BehaviorR2"]


@dataclass(frozen=True)
class BehaviorR2:
    """Ridge readout of each behavior variable from the latents of the same bin, scored on test bins.

    ``behavior_r2``: R2 around the test mean, uniform average over channels (of cos and sin for angles), penalty among
    logspace(-4, 0, 9) by cross-validation on training bins. ``behavior_error``: median absolute error of angles, in
    degrees (its spread from a bootstrap over trials). ``behavior_accuracy``: share of categories that are right; the
    majority's share is in the note. ``n`` counts bins with a label.
    """

    name: ClassVar[str] = "behavior_r2"
    needs: ClassVar[type | None] = None
    penalties: tuple[float, ...] = PENALTIES
    chance: bool = True  # takes as long as twenty readouts

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row or two for each variable."""
        return decoding_scores(evaluation, "ridge", "", self.penalties, self.chance)
