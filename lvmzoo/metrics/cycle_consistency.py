"""Whether a model's output tells its latents: those that it invents cannot be told from its rates."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.latent_r2 import affine
from lvmzoo.metrics.poisson import log_rates
from lvmzoo.metrics.spread import r2
from lvmzoo.models.base import Reconstructs

__all__ = ["CycleConsistency", "cycle"]

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
        latents = {part: evaluation.latents(part) for part in ("train", "test")}
        white = whitening(latents["train"])
        if not white.shape[1]:
            return []
        center = latents["train"].mean(0)
        latents = {part: (values - center) @ white for part, values in latents.items()}
        logs = {part: log_rates(evaluation, evaluation.rates(part)) for part in latents}
        back, kept = cycle(latents["train"], logs["train"], logs["test"])
        value, spread = r2(latents["test"], back, evaluation.groups("test"), pooled=True)
        if not np.isfinite(value):
            return []
        note = f"{kept} of {white.shape[1]} dimensions of the latents reach the rates"
        return [Score(self.name, value, evaluation.layout.session, spread=spread, n=len(back), note=note)]


def whitening(latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "latent direction"]:
    """Return the map to uncorrelated directions of unit variance, as many as there are."""
    scale = latents.std(0)
    varies = np.flatnonzero(scale > 1e-12 * np.sqrt((latents**2).mean(0)))
    unit = np.eye(latents.shape[1])[:, varies] / scale[varies]  # small scales are no rounding errors
    values, vectors = np.linalg.eigh(unit.T @ np.atleast_2d(np.cov(latents, rowvar=False, bias=True)) @ unit)
    there = values > 1e-10
    return np.asarray(unit @ vectors[:, there] / np.sqrt(values[there]))


def cycle(
    latents: Float[np.ndarray, "train_bin latent"],
    logs: Float[np.ndarray, "train_bin unit"],
    new: Float[np.ndarray, "bin unit"],
) -> tuple[Float[np.ndarray, "bin latent"], int]:
    """Return the latents that new log rates stand for, and how many directions the pseudo-inverse keeps.

    Parameters
    ----------
    latents : of training bins, white.
    logs : log rates of the same bins.
    new : log rates of other bins.
    """
    offset = affine(latents, logs, np.zeros((1, latents.shape[1])))
    weights = affine(latents, logs, np.eye(latents.shape[1])) - offset
    left, sizes, right = np.linalg.svd(weights, full_matrices=False)
    kept = int((sizes > max(CUT * sizes[0], 1e-12)).sum())  # none where rates are constant
    return ((new - offset) @ right[:kept].T / sizes[:kept]) @ left[:, :kept].T, kept
