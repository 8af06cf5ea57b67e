"""Whether a model knows how uncertain it is: how often the truth of a simulation lies within its intervals."""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Bool, Float

from lvmzoo.metrics.base import Evaluation, Score, evaluating
from lvmzoo.metrics.spread import group_sums, ratio_sem
from lvmzoo.models.base import HasPosterior

__all__ = ["Calibration", "affine_map"]

LEVELS = (50, 90, 95)  # percent


class Calibration:
    """How far the coverage of the posterior's 50, 90 and 95 % intervals is from that; 0 is best.

    Latents are determined up to an affine map alone, and so is their posterior. The true latents x are regressed on the
    posterior means m of training bins, x = W m + b. That map is not diluted by the noise in m: of a right posterior, m
    is what is expected of the latents given the data, so that the regression gives the very map between the two sets of
    latents, and W V W' is the covariance in the space of the true ones. The coverage is the share of true values of
    test bins within W m + b ± z sqrt(diag(W V W')), over all true latents.

    Latents that the model lacks lie outside its intervals as well: beside a low Recovery R2, low coverage is no sign of
    an overconfident posterior. In the space of rates, intervals would depend on how the model turns latents into rates,
    which a posterior does not say. ``n`` counts bins.
    """

    name = "calibration"
    needs: type | None = HasPosterior

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for each level where the true latents are known; the note says the coverage itself."""
        true = {part: evaluation.truth(part, "latents") for part in ("train", "test")}
        if true["train"] is None or true["test"] is None or not len(true["train"]) or not len(true["test"]):
            return []
        weights, offset = affine_map(evaluation.latents("train"), true["train"])
        if not np.isfinite(weights).all() or not weights.any():
            return []
        within = _within(evaluation, weights, offset, true["test"])
        groups = evaluation.groups("test")
        scores = []
        for level, inside in zip(LEVELS, np.moveaxis(within, 2, 0), strict=True):
            share = inside.mean(1, keepdims=True)
            coverage = float(share.mean())
            spread = ratio_sem(group_sums(share, groups), group_sums(np.ones_like(share), groups))
            off = coverage - level / 100
            how = "overconfident" if off < 0 else "too cautious"
            sure = spread is not None and abs(off) > 2 * spread
            note = f"{100 * coverage:.3g} % of true values are within the {level} % intervals" + (
                f": {how}" if sure else ""
            )
            name, session = f"coverage_error_{level}", evaluation.layout.session
            scores.append(Score(name, abs(off), session, better="lower", spread=spread, n=len(share), note=note))
        return scores


def affine_map(
    source: Float[np.ndarray, "bin source"], target: Float[np.ndarray, "bin target"]
) -> tuple[Float[np.ndarray, "target source"], Float[np.ndarray, " target"]]:
    """Return W and b of the least-squares map target = W source + b."""
    center, offset = source.mean(0), target.mean(0)
    weights = np.linalg.lstsq(source - center, target - offset, rcond=1e-10)[0].T
    return weights, offset - weights @ center


def _within(
    evaluation: Evaluation,
    weights: Float[np.ndarray, "true latent"],
    offset: Float[np.ndarray, " true"],
    truth: Float[np.ndarray, "bin true"],
) -> Bool[np.ndarray, "bin true level"]:
    """Return whether each true value is within the intervals; covariances are kept for a chunk of trials at a time."""
    from scipy.stats import norm

    widths = norm.ppf(0.5 + np.array(LEVELS) / 200)
    model, found, begin = cast("HasPosterior", evaluation.model), [], 0
    assert evaluation.model is not None
    with evaluating(evaluation.model):
        for batch in evaluation.batches("test"):
            mean, covariance = (values[batch.valid].double().cpu().numpy() for values in model.posterior(batch))
            deviation = np.sqrt(np.maximum(np.einsum("ik,bkl,il->bi", weights, covariance, weights, optimize=True), 0))
            off = np.abs(truth[begin : begin + len(mean)] - mean @ weights.T - offset)
            found.append(off[..., None] <= widths * deviation[..., None])
            begin += len(mean)
    return np.concatenate(found)
