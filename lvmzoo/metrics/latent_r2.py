"""How well latents agree with the true latents of a simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import finite
from lvmzoo.metrics.streamed import Piece, fit_affine, r2_of

__all__ = ["LatentR2"]


class LatentR2:
    """Recovery R2 (``latent_r2``: inferred -> true) and State R2 (``state_r2``: true -> inferred).

    An affine map is fitted on training bins by least squares and scored on test bins; R2 is weighted by variance. High
    State R2 with low Recovery R2 means that the model misses latents; the reverse, that it adds some.
    ``n`` counts bins.
    """

    name = "latent_r2"
    needs: type | None = None

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return both rows where the true latents are known."""
        if not all(_known(evaluation, part) for part in ("train", "test")):
            return []
        scores = []
        for name, way, note in (
            ("latent_r2", (_inferred, _true), "Recovery R2: affine map inferred -> true"),
            ("state_r2", (_true, _inferred), "State R2: affine map true -> inferred"),
        ):
            value, spread, validation = _r2(evaluation, *way)
            if np.isfinite(value):
                session, n = evaluation.layout.session, len(evaluation.bins("test"))
                scores.append(Score(name, value, session, spread=spread, n=n, note=note, validation=finite(validation)))
        return scores


def _known(evaluation: Evaluation, part: str) -> bool:
    return "latents" in evaluation.trials(part).truth and len(evaluation.bins(part)) > 0


def _true(evaluation: Evaluation, part: str) -> Piece:
    return lambda rows: cast("np.ndarray", evaluation.truth(part, "latents", rows))


def _inferred(evaluation: Evaluation, part: str) -> Piece:
    latents = evaluation.latents(part)
    return lambda rows: latents[rows]


def _r2(
    evaluation: Evaluation, source: Callable[[Evaluation, str], Piece], target: Callable[[Evaluation, str], Piece]
) -> tuple[float, float | None, float]:
    """Return the value with its spread, and that on validation data (NaN without any)."""
    of, to = source(evaluation, "train"), target(evaluation, "train")
    fitted = fit_affine((of(rows), to(rows)) for rows in evaluation.pieces("train"))

    def scored(part: str) -> tuple[float, float | None]:
        if not _known(evaluation, part):
            return float("nan"), None
        of, to = source(evaluation, part), target(evaluation, part)
        return r2_of(evaluation, part, to, lambda rows: fitted(of(rows)), pooled=True)

    return *scored("test"), scored("validation")[0]
