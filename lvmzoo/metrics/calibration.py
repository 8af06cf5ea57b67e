"""Whether a model knows how uncertain it is: how often the truth of a simulation lies within its intervals."""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Float

from lvmzoo.metrics.base import Evaluation, Score, evaluating
from lvmzoo.metrics.spread import Sums, ratio_sem
from lvmzoo.metrics.streamed import Affine, fit_affine
from lvmzoo.models.base import HasPosterior

__all__ = ["Calibration"]

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
        if not all(
            len(evaluation.bins(part)) and "latents" in evaluation.trials(part).truth for part in ("train", "test")
        ):
            return []
        latents = evaluation.latents("train")
        fitted = fit_affine(
            (latents[rows], cast("np.ndarray", evaluation.truth("train", "latents", rows)))
            for rows in evaluation.pieces("train")
        )
        if not np.isfinite(fitted.weights).all() or not fitted.weights.any():
            return []
        within = _within(evaluation, fitted)
        bins, n = within[:, -1:], len(evaluation.bins("test"))
        scores = []
        for level, inside in zip(LEVELS, within.T, strict=False):
            coverage, spread = float(inside.sum() / n), ratio_sem(inside[:, None], bins)
            off = coverage - level / 100
            how = "overconfident" if off < 0 else "too cautious"
            sure = spread is not None and abs(off) > 2 * spread
            note = f"{100 * coverage:.3g} % of true values are within the {level} % intervals" + (
                f": {how}" if sure else ""
            )
            name, session = f"coverage_error_{level}", evaluation.layout.session
            scores.append(Score(name, abs(off), session, better="lower", spread=spread, n=n, note=note))
        return scores


def _within(evaluation: Evaluation, fitted: Affine) -> Float[np.ndarray, "group level_and_one"]:
    """Return for each group of test bins the share of true values within the intervals, summed over bins, and the bins.

    Covariances are kept for a chunk of trials at a time.
    """
    from scipy.stats import norm

    widths = norm.ppf(0.5 + np.array(LEVELS) / 200)
    model, sums, begin = cast("HasPosterior", evaluation.model), Sums(), 0
    assert evaluation.model is not None
    with evaluating(evaluation.model):
        for batch in evaluation.batches("test"):
            mean, covariance = (values[batch.valid].double().cpu().numpy() for values in model.posterior(batch))
            rows = slice(begin, begin + len(mean))
            variance = np.einsum("ik,bkl,il->bi", fitted.weights, covariance, fitted.weights, optimize=True)
            off = np.abs(cast("np.ndarray", evaluation.truth("test", "latents", rows)) - fitted(mean))
            inside = off[..., None] <= widths * np.sqrt(np.maximum(variance, 0))[..., None]
            sums.add(np.pad(inside.mean(1), ((0, 0), (0, 1)), constant_values=1.0), evaluation.groups("test")[rows])
            begin += len(mean)
    return sums.array
