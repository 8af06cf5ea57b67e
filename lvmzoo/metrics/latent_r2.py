"""How well latents agree with the true latents of a simulation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import r2

__all__ = ["LatentR2", "affine"]


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
        train, test = (evaluation.truth(part, "latents") for part in ("train", "test"))
        if train is None or test is None or not len(train) or not len(test):
            return []
        true = {"train": train, "test": test}
        inferred = {part: evaluation.latents(part) for part in ("train", "test")}
        directions = {
            "latent_r2": (inferred, true, "Recovery R2: affine map inferred -> true"),
            "state_r2": (true, inferred, "State R2: affine map true -> inferred"),
        }
        scores = []
        for name, (source, target, note) in directions.items():
            predicted = affine(source["train"], target["train"], source["test"])
            value, spread = r2(target["test"], predicted, evaluation.groups("test"), pooled=True)
            if np.isfinite(value):
                scores.append(Score(name, value, evaluation.layout.session, spread=spread, n=len(predicted), note=note))
        return scores


def affine(
    source: Float[np.ndarray, "train_bin source"],
    target: Float[np.ndarray, "train_bin target"],
    new: Float[np.ndarray, "bin source"],
) -> Float[np.ndarray, "bin target"]:
    """Return what the affine least-squares map from ``source`` to ``target`` predicts for ``new``."""
    center, offset = source.mean(0), target.mean(0)
    weights = np.linalg.lstsq(source - center, target - offset, rcond=1e-10)[0]
    return (new - center) @ weights + offset
