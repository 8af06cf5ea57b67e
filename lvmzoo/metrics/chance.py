"""What readouts of shuffled labels reach: the null of behavior decoding.

Under the null, the latents of a trial know nothing of behavior in it. Each trial is given the labels of another, from a
random bin on and around its end, so that their course over time is kept and neither the condition nor the time in the
trial tells them. Where there are fewer than ten training trials, labels are rolled along the session instead. Readouts
are then fitted and judged as those of the data are, the choice of the penalty or of the neighbors included. What a
model says by itself is compared with the shuffled labels as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Kind, Variable
from lvmzoo.claims.nulls import p_value
from lvmzoo.metrics.base import MINIMUM_TRIALS, PARTS, Evaluation, Score
from lvmzoo.metrics.decode import NEIGHBORS, Neighbors, all_neighbors, angular_error, decode, encode, fit_ridge
from lvmzoo.metrics.factorized import Nearest, Ridge

__all__ = ["WITHIN_S", "shuffles", "with_chance", "with_chance_of_prediction"]

DRAWS = 20
LEVEL = 0.95
MOST_BINS = 10_000  # of a part, that readouts of shuffled labels are fitted to or judged on, evenly spread
LEAST, MOST = 0.25, 0.75  # share of the session by which labels are rolled
MEASURES = ("r2", "error", "accuracy", "within")  # of names of scores
WITHIN_S = 1.0  # a time is right that is off by no more

Parts = dict[str, np.ndarray]


def with_chance(
    evaluation: Evaluation, name: str, scores: Sequence[Score], kind: str, penalties: Sequence[float]
) -> list[Score]:
    """Return the scores of one variable with what shuffled labels reach, and how often they reach the value.

    Parameters
    ----------
    evaluation : of the model whose latents are read out.
    name : of the variable.
    scores : of its readout, as ``decoding_scores`` names them.
    kind : "ridge" or "knn".
    penalties : that ridge chooses from.
    """
    variable = evaluation.layout.behavior[name]

    def compute() -> list[dict[str, float]]:
        return [_measures(test, code, variable) for test, code in _read_out(evaluation, name, kind, penalties)]

    return _beside(scores, evaluation.kept(("chance", name, kind, tuple(penalties)), compute))


def with_chance_of_prediction(
    evaluation: Evaluation,
    name: str,
    scores: Sequence[Score],
    predicted: Float[np.ndarray, "bin channel"],
    shown: Bool[np.ndarray, " bin"],
) -> list[Score]:
    """Return the scores of what a model says of a variable by itself, beside those of shuffled labels.

    Parameters
    ----------
    evaluation : of the model.
    name : of the variable.
    scores : of its prediction, as ``prediction_scores`` names them.
    predicted : in test bins: values, angles in radians, or the index of a level.
    shown : test bins that count.
    """
    if not scores:
        return []
    variable = evaluation.layout.behavior[name]
    known, drawn = _shuffled(evaluation, name)
    there = shown[known["test"]]
    code = encode(predicted[known["test"]][there], variable)
    return _beside(scores, [_measures(labels["test"][there], code, variable) for labels in drawn])


def _beside(scores: Sequence[Score], found: Sequence[Mapping[str, float]]) -> list[Score]:
    """Return the scores with what one in twenty shuffles reaches, and how often shuffles reach the value."""
    rows = []
    for score in scores:
        measure = next(key for key in MEASURES if f"_{key}" in score.metric)
        sign = -1.0 if score.better == "lower" else 1.0
        null = sign * np.array([measures[measure] for measures in found])
        chance = float(sign * np.quantile(null, LEVEL, method="weibull")) if np.isfinite(null).all() else None
        rows.append(replace(score, chance=chance, p=p_value(sign * score.value, null.tolist())))
    return rows


def shuffles(
    labels: Parts, trial: Parts, seed: int, draws: int = DRAWS, every: Mapping[str, int] | None = None
) -> Iterator[Parts]:
    """Give labels that were shuffled over all parts of a session: part -> (bin, channel), as ``labels``.

    Parameters
    ----------
    labels : part -> (bin, channel), in order of time within each part; all finite.
    trial : part -> the trial of each bin, no two parts sharing one.
    seed, draws : of the shuffles.
    every : of how many bins of a part one is wanted; None: all are.
    """
    values, number = (np.concatenate([array[part] for part in labels]) for array in (labels, trial))
    first = np.flatnonzero(np.diff(number, prepend=-1) != 0)
    length = np.diff(first, append=len(number))
    end = np.cumsum([len(array) for array in labels.values()])
    wanted = [
        np.arange(stop - len(array), stop, every[part] if every else 1)
        for (part, array), stop in zip(labels.items(), end, strict=True)
    ]
    cut, places = np.cumsum([len(some) for some in wanted])[:-1], np.concatenate(wanted)
    by_trial = len(np.unique(trial["train"])) >= MINIMUM_TRIALS
    random = np.random.default_rng(seed)
    for _ in range(draws):
        if by_trial:
            source = _other_trials(first, length, places, random)
        else:
            source = (places - round(random.uniform(LEAST, MOST) * len(values))) % len(values)
        yield dict(zip(labels, np.split(values[source], cut), strict=True))


def _other_trials(
    first: Int[np.ndarray, " trial"],
    length: Int[np.ndarray, " trial"],
    places: Int[np.ndarray, " bin"],
    random: np.random.Generator,
) -> Int[np.ndarray, " bin"]:
    """Return from where some bins take their labels."""
    donor = random.permutation(len(first))
    offset = random.integers(length[donor])
    own = np.searchsorted(first, places, side="right") - 1
    return first[donor[own]] + (offset[own] + places - first[own]) % length[donor[own]]


def _shuffled(evaluation: Evaluation, name: str) -> tuple[Parts, list[Parts]]:
    """Return which of the valid bins of each part have a label, some of many, and their labels in each shuffle."""
    labels, trial, known, past = {}, {}, {}, 0
    for part in PARTS:
        behavior = evaluation.behavior(part, name)
        known[part] = np.flatnonzero(np.isfinite(behavior).all(1))
        trials = evaluation.trials(part)
        number = np.repeat(np.arange(len(trials)), trials.lengths)[trials.valid.numpy()[trials.flat]]
        labels[part], trial[part] = behavior[known[part]], number[known[part]] + past
        past += len(trials)
    every = {part: -(-len(array) // MOST_BINS) or 1 for part, array in labels.items()}
    drawn = list(shuffles(labels, trial, evaluation.seed, every=every))
    return {part: array[:: every[part]] for part, array in known.items()}, drawn


def _read_out(
    evaluation: Evaluation, name: str, kind: str, penalties: Sequence[float]
) -> Iterator[tuple[Float[np.ndarray, "bin channel"], Float[np.ndarray, "bin code"]]]:
    """Give for each shuffle the labels of test bins, and the code that is read out there."""
    known, drawn = _shuffled(evaluation, name)
    held = kind == "knn" and len(known["validation"]) > 0
    parts = [part for part in PARTS if part != "validation" or held]
    latents = {part: evaluation.latents(part)[known[part]] for part in parts}
    variable = evaluation.layout.behavior[name]
    codes = _ridge(latents, drawn, variable, penalties) if kind == "ridge" else _nearest(latents, drawn, variable)
    for one, code in zip(drawn, codes, strict=True):
        yield one["test"], code


def _ridge(
    latents: Parts, drawn: Sequence[Parts], variable: Variable, penalties: Sequence[float]
) -> Iterator[Float[np.ndarray, "bin code"]]:
    ridge = Ridge(latents["train"])
    for labels in drawn:
        yield fit_ridge(ridge, labels["train"], variable, penalties).encoded(latents["test"])


def _nearest(latents: Parts, drawn: Sequence[Parts], variable: Variable) -> Iterator[Float[np.ndarray, "bin code"]]:
    train, held = latents["train"], "validation" in latents
    cut = len(train) if held else max(1, len(train) * 4 // 5)
    search = Neighbors(train[:cut], latents["validation"] if held else train[cut:])
    found: dict[str, np.ndarray] = {}
    for labels in drawn:
        judged = labels["validation"] if held else labels["train"][cut:]
        decoder = search.fit(labels["train"][:cut], judged, variable)
        if not held:
            decoder = all_neighbors(train, labels["train"], decoder)
        if decoder.distance not in found:
            most = min(NEIGHBORS[-1], len(decoder.references))
            found[decoder.distance] = Nearest(decoder.references, decoder.distance)(latents["test"], most)
        yield decoder.codes[found[decoder.distance][:, : decoder.neighbors]].mean(1)


def _measures(
    truth: Float[np.ndarray, "bin channel"], code: Float[np.ndarray, "bin code"], variable: Variable
) -> dict[str, float]:
    predicted = decode(code, variable)
    if variable.kind is Kind.CATEGORICAL:
        return {"accuracy": float((predicted == truth).mean())}
    error = float("nan")
    if variable.kind is Kind.CIRCULAR:
        error = float(np.degrees(np.median(angular_error(truth, predicted)[:, 0])))
        truth, predicted = encode(truth, variable), code
    total = ((truth - truth.mean(0)) ** 2).sum(0)
    varies = total > 1e-20 * (truth**2).sum()
    share = ((truth - predicted) ** 2).sum(0)[varies] / total[varies]
    within = float((np.abs(predicted - truth) <= WITHIN_S).all(1).mean())
    return {"r2": float((1 - share).mean()) if varies.any() else float("nan"), "error": error, "within": within}
