"""Whether a model's output tells its latents: those that it invents cannot be told from its rates."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.moments import moments
from lvmzoo.metrics.poisson import log_rates
from lvmzoo.metrics.streamed import Affine, fit_affine, r2_of
from lvmzoo.models.base import Reconstructs

__all__ = ["CycleConsistency"]

CUT = 0.01  # of the largest singular value of the map from latents to log rates


class CycleConsistency:
    """R2 of the latents, on test bins, that the model's own rates give back; 1: the rates tell all of them.

    Versteeg, Sedler, McCart & Pandarinath (2023), doi:10.48550/arXiv.2309.06402. Latents are whitened on training bins,
    so that no scaling of theirs changes the value; an affine map from them to the log rates is fitted there, and the
    log rates of test bins are taken back by its pseudo-inverse, without directions below 0.01 of the largest singular
    value. Low where the model invents dynamics: latents that vary and that no rate shows. Rates that can be negative
    stand for their own logarithms. ``n`` counts bins.
    """

    name = "cycle_consistency"
    needs: type | None = Reconstructs

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row where there are training and test bins."""
        if not len(evaluation.bins("train")) or not len(evaluation.bins("test")):
            return []
        latents, rates = (
            {part: view(part) for part in ("train", "test")} for view in (evaluation.latents, evaluation.rates)
        )
        center, white = whitening(latents["train"][rows] for rows in evaluation.pieces("train"))
        if not white.shape[1]:
            return []

        def coordinates(part: str, rows: slice) -> Float[np.ndarray, "bin direction"]:
            return (latents[part][rows] - center) @ white

        shown = fit_affine(
            (coordinates("train", rows), log_rates(evaluation, rates["train"][rows]))
            for rows in evaluation.pieces("train")
        )
        back, kept = inverse(shown)
        value, spread = r2_of(
            evaluation,
            "test",
            lambda rows: coordinates("test", rows),
            lambda rows: back(log_rates(evaluation, rates["test"][rows])),
            pooled=True,
        )
        if not np.isfinite(value):
            return []
        note, n = f"{kept} of {white.shape[1]} dimensions of the latents reach the rates", len(evaluation.bins("test"))
        return [Score(self.name, value, evaluation.layout.session, spread=spread, n=n, note=note)]


def whitening(
    pieces: Iterable[Float[np.ndarray, "_bin latent"]],
) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, "latent direction"]]:
    """Return the mean, and the map to uncorrelated directions of unit variance, as many as there are."""
    fitted = moments(pieces)
    scale = np.sqrt(np.diag(fitted.covariance))
    varies = np.flatnonzero(scale > 1e-12 * np.sqrt(np.diag(fitted.covariance) + fitted.mean**2))
    unit = np.eye(len(scale))[:, varies] / scale[varies]  # small scales are no rounding errors
    values, vectors = np.linalg.eigh(unit.T @ fitted.covariance @ unit)
    there = values > 1e-10
    return fitted.mean, np.asarray(unit @ vectors[:, there] / np.sqrt(values[there]))


def inverse(shown: Affine) -> tuple[Affine, int]:
    """Return the map from log rates back to latents, and how many directions the pseudo-inverse keeps.

    Parameters
    ----------
    shown : the map from white latents to log rates.
    """
    left, sizes, right = np.linalg.svd(shown.weights.T, full_matrices=False)
    kept = int((sizes > max(CUT * sizes[0], 1e-12)).sum())  # none where rates are constant
    weights = (left[:, :kept] / sizes[:kept]) @ right[:kept]
    return Affine(weights, -weights @ shown.offset), kept
