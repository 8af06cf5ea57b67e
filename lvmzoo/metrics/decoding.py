"""Scores of a behavior readout on test bins, shared by the ridge and the nearest-neighbor metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from lvmzoo.batch import Kind
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.decode import PENALTIES, Decoder, angular_error, decode, encode, fit_decoder, quality
from lvmzoo.metrics.spread import group_sums, r2, ratio_sem

__all__ = ["best_decoders", "decoding_scores", "fit_decoders", "score_decoders"]

DRAWS = 200  # of the bootstrap over trials behind the spread of a median


def fit_decoders(evaluation: Evaluation, kind: str, penalties: Sequence[float] = PENALTIES) -> dict[str, Decoder]:
    """Fit a readout of every behavior variable that has labels in the training part: variable -> decoder.

    Parameters
    ----------
    evaluation : of the model whose latents are read out.
    kind : "ridge" or "knn".
    penalties : that ridge chooses from.
    """

    def fit() -> dict[str, Decoder]:
        decoders = {}
        for name, variable in evaluation.layout.behavior.items():
            behavior = evaluation.behavior("train", name)
            if not np.isfinite(behavior).all(1).any():
                continue
            held = None
            if kind == "knn" and len(evaluation.bins("validation")):
                held = evaluation.latents("validation"), evaluation.behavior("validation", name)
            decoders[name] = fit_decoder(evaluation.latents("train"), behavior, variable, kind, held, penalties)
        return decoders

    return evaluation.kept(("decoders", kind, tuple(penalties)), fit)


def best_decoders(evaluation: Evaluation) -> dict[str, Decoder]:
    """Return for each variable the readout that is better on validation bins, ridge where there are none."""
    decoders = fit_decoders(evaluation, "ridge")
    if not len(evaluation.bins("validation")):
        return decoders
    return {name: _better(evaluation, name, ridge) for name, ridge in decoders.items()}


def _better(evaluation: Evaluation, name: str, ridge: Decoder) -> Decoder:
    truth = evaluation.behavior("validation", name)
    known = np.isfinite(truth).all(1)
    if not known.any():
        return ridge
    latents = evaluation.latents("validation")[known]
    rivals = [ridge, fit_decoders(evaluation, "knn")[name]]
    return max(rivals, key=lambda decoder: quality(truth[known], decoder.predict(latents), decoder.variable))


def decoding_scores(
    evaluation: Evaluation, kind: str, suffix: str, penalties: Sequence[float] = PENALTIES
) -> list[Score]:
    """Return the scores of the readouts: R2; for angles also the median error in degrees; for categories the accuracy.

    Parameters
    ----------
    evaluation : of the model whose latents are read out.
    kind : "ridge" or "knn".
    suffix : what the names of the scores end with.
    penalties : that ridge chooses from.
    """
    if not len(evaluation.bins("test")) or not len(evaluation.bins("train")):
        return []
    return score_decoders(evaluation, fit_decoders(evaluation, kind, penalties), suffix)


def score_decoders(evaluation: Evaluation, decoders: Mapping[str, Decoder], suffix: str = "") -> list[Score]:
    """Return the scores of readouts that are fitted already, variable -> decoder, on test bins."""
    scores: list[Score] = []
    for name, decoder in decoders.items():
        truth = evaluation.behavior("test", name)
        known = np.isfinite(truth).all(1)
        if known.any():
            scores += _score(evaluation, name, decoder, truth[known], known, suffix)
    return scores


def _score(
    evaluation: Evaluation,
    name: str,
    decoder: Decoder,
    truth: Float[np.ndarray, "known channel"],
    known: np.ndarray,
    suffix: str,
) -> list[Score]:
    groups = evaluation.groups("test")[known]
    code = decoder.encoded(evaluation.latents("test")[known])
    predicted = decode(code, decoder.variable)
    session, n = evaluation.layout.session, len(truth)
    settings = decoder.settings
    if decoder.variable.kind is Kind.CATEGORICAL:
        right = (predicted == truth).astype(float)
        majority = np.unique(truth, return_counts=True)[1].max() / n
        spread = ratio_sem(group_sums(right, groups), group_sums(np.ones_like(right), groups))
        note = f"majority {majority:.3f}; {settings}"
        return [Score(f"behavior_accuracy{suffix}", float(right.mean()), session, name, spread=spread, n=n, note=note)]
    scores = []
    if decoder.variable.kind is Kind.CIRCULAR:
        error = np.degrees(angular_error(truth, predicted))[:, 0]
        spread = _median_spread(error, groups, evaluation.seed)
        scores.append(
            Score(
                f"behavior_error{suffix}",
                float(np.median(error)),
                session,
                name,
                "deg",
                "lower",
                spread,
                n,
                f"median absolute error; {settings}",
            )
        )
        truth, predicted, settings = encode(truth, decoder.variable), code, f"of (cos, sin); {settings}"
    value, spread = r2(truth, predicted, groups)
    if np.isfinite(value):
        scores.append(Score(f"behavior_r2{suffix}", value, session, name, spread=spread, n=n, note=settings))
    return scores


def _median_spread(error: Float[np.ndarray, " bin"], groups: Int[np.ndarray, " bin"], seed: int) -> float | None:
    """Return the standard deviation of the median over draws of the trials with replacement."""
    pieces = np.split(error, np.flatnonzero(np.diff(groups)) + 1)
    if len(pieces) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(pieces), size=(DRAWS, len(pieces)))
    return float(np.std([np.median(np.concatenate([pieces[i] for i in draw])) for draw in draws], ddof=1))
