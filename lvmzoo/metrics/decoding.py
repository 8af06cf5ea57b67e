"""Scores of a behavior readout on test bins, shared by the ridge and the nearest-neighbor metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Kind
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.chance import with_chance
from lvmzoo.metrics.decode import PENALTIES, Decoder, angular_error, decode, encode, fit_decoder, quality
from lvmzoo.metrics.spread import group_sums, r2, ratio_sem

__all__ = ["best_decoders", "decoding_scores", "fit_decoders", "prediction_scores", "score_decoders"]

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
    """Return for each variable the readout that is better on validation bins.

    Where there are none, both are fitted to the first four fifths of the training bins and judged on the last; the one
    that is taken is then fitted to all of them.
    """
    return {name: _better(evaluation, name, ridge) for name, ridge in fit_decoders(evaluation, "ridge").items()}


def _better(evaluation: Evaluation, name: str, ridge: Decoder) -> Decoder:
    part = "validation" if len(evaluation.bins("validation")) else "train"
    known = np.isfinite(evaluation.behavior(part, name)).all(1)
    latents, truth = evaluation.latents(part)[known], evaluation.behavior(part, name)[known]
    rivals = {kind: fit_decoders(evaluation, kind)[name] for kind in ("ridge", "knn")}
    judged: Mapping[str, Decoder] = rivals
    if part == "train":
        cut = len(truth) * 4 // 5
        if not 0 < cut < len(truth):
            return ridge
        judged = {kind: fit_decoder(latents[:cut], truth[:cut], ridge.variable, kind) for kind in rivals}
        latents, truth = latents[cut:], truth[cut:]
    if not len(truth):
        return ridge
    return rivals[max(judged, key=lambda kind: quality(truth, judged[kind].predict(latents), ridge.variable))]


def decoding_scores(
    evaluation: Evaluation, kind: str, suffix: str, penalties: Sequence[float] = PENALTIES, chance: bool = True
) -> list[Score]:
    """Return the scores of the readouts: R2; for angles also the median error in degrees; for categories the accuracy.

    Parameters
    ----------
    evaluation : of the model whose latents are read out.
    kind : "ridge" or "knn".
    suffix : what the names of the scores end with.
    penalties : that ridge chooses from.
    chance : whether to say what readouts of shuffled labels reach.
    """
    if not len(evaluation.bins("test")) or not len(evaluation.bins("train")):
        return []
    scores: list[Score] = []
    for name, decoder in fit_decoders(evaluation, kind, penalties).items():
        found = score_decoders(evaluation, {name: decoder}, suffix)
        scores += with_chance(evaluation, name, found, kind, penalties) if chance and found else found
    return scores


def score_decoders(evaluation: Evaluation, decoders: Mapping[str, Decoder], suffix: str = "") -> list[Score]:
    """Return the scores of readouts that are fitted already, variable -> decoder, on test bins."""
    scores: list[Score] = []
    every = np.ones(len(evaluation.bins("test")), dtype=bool)
    for name, decoder in decoders.items():
        if not np.isfinite(evaluation.behavior("test", name)).all(1).any():
            continue
        code = decoder.encoded(evaluation.latents("test"))
        predicted = decode(code, decoder.variable)
        scores += prediction_scores(
            evaluation, name, predicted, every, "behavior", suffix, code=code, settings=decoder.settings
        )
    return scores


def prediction_scores(
    evaluation: Evaluation,
    name: str,
    predicted: Float[np.ndarray, "bin channel"],
    shown: Bool[np.ndarray, " bin"],
    family: str,
    suffix: str = "",
    code: Float[np.ndarray, "bin code"] | None = None,
    settings: str = "",
) -> list[Score]:
    """Return the scores of a prediction of behavior on test bins, ``FAMILY_r2SUFFIX`` and the like.

    Parameters
    ----------
    evaluation : of the model that predicts.
    name : of the behavior variable.
    predicted : values, angles in radians, or the index of a level.
    shown : bins that count, of those that have a label.
    family, suffix : what the names of the scores begin and end with.
    code : (cos, sin) of an angle as predicted; None: of the angle that was predicted.
    settings : for the note.
    """
    if name not in evaluation.layout.behavior:  # a model knows variables that this session lacks
        return []
    variable, truth = evaluation.layout.behavior[name], evaluation.behavior("test", name)
    shown = shown & np.isfinite(truth).all(1)
    if not shown.any():
        return []
    truth, predicted, groups = truth[shown], predicted[shown], evaluation.groups("test")[shown]
    session, n = evaluation.layout.session, len(truth)
    if variable.kind is Kind.CATEGORICAL:
        right = (predicted == truth).astype(float)
        majority = np.unique(truth, return_counts=True)[1].max() / n
        spread = ratio_sem(group_sums(right, groups), group_sums(np.ones_like(right), groups))
        note = "; ".join(filter(None, (f"majority {majority:.3f}", settings)))
        return [Score(f"{family}_accuracy{suffix}", float(right.mean()), session, name, spread=spread, n=n, note=note)]
    scores = []
    if variable.kind is Kind.CIRCULAR:
        error = np.degrees(angular_error(truth, predicted))[:, 0]
        spread = _median_spread(error, groups, evaluation.seed)
        note = "; ".join(filter(None, ("median absolute error", settings)))
        value = float(np.median(error))
        scores.append(Score(f"{family}_error{suffix}", value, session, name, "deg", "lower", spread, n, note))
        truth = encode(truth, variable)
        predicted = encode(predicted, variable) if code is None else code[shown]
        settings = "; ".join(filter(None, ("of (cos, sin)", settings)))
    value, spread = r2(truth, predicted, groups)
    if np.isfinite(value):
        scores.append(Score(f"{family}_r2{suffix}", value, session, name, spread=spread, n=n, note=settings))
    return scores


def _median_spread(error: Float[np.ndarray, " bin"], groups: Int[np.ndarray, " bin"], seed: int) -> float | None:
    """Return the standard deviation of the median over draws of the trials with replacement."""
    pieces = np.split(error, np.flatnonzero(np.diff(groups)) + 1)
    if len(pieces) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(pieces), size=(DRAWS, len(pieces)))
    return float(np.std([np.median(np.concatenate([pieces[i] for i in draw])) for draw in draws], ddof=1))
