"""How far embeddings agree: of runs on the same bins, or of different sessions once they are aligned on their labels.

The consistency of Schneider, Lee & Mathis (2023), doi:10.1038/s41586-023-06031-6: R2 of an affine map from one
embedding to the other. Here the map is fitted on training bins and scored on test bins, R2 weighted by variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lvmzoo.batch import Kind, Variable
from lvmzoo.claims.nulls import p_value
from lvmzoo.data.shifted import shift_labels
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.chance import LEVEL
from lvmzoo.metrics.spread import finite, r2
from lvmzoo.metrics.streamed import fit_affine

__all__ = ["Aligned", "Embedded", "aligned_consistency", "between_sessions", "consistency"]

LABEL_BINS, CIRCULAR_BINS = 25, 36
FEWEST = 3  # bins of a session, in training and in test data, that a mean needs
SHIFTS = 20  # of the null

Latents = Float[np.ndarray, "bin latent"]


class Embedded(NamedTuple):
    """Latents and labels of one session."""

    latents: Mapping[str, np.ndarray]  # "train" and "test" -> (bin, latent)
    labels: Mapping[str, np.ndarray]  # the same -> (bin, channel)
    lengths: Mapping[str, np.ndarray]  # the same -> bins of each trial


class Aligned(NamedTuple):
    """Consistency of two sessions, and what it is where the labels of one are shifted."""

    value: float
    spread: float | None  # standard error over labels
    null: Float[np.ndarray, " shift"]


def consistency(source: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> float:
    """Return how well one embedding gives another of the same bins: R2 of an affine map, "train" -> "test"."""
    return _scored(source, target)[0]


def _scored(source: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> tuple[float, float | None]:
    """Return the value, and its standard error as if each row were by itself."""
    predicted = fit_affine([(source["train"], target["train"])])(source["test"])
    return r2(target["test"], predicted, np.arange(len(predicted)), pooled=True)


def aligned_consistency(one: Embedded, other: Embedded, variable: Variable, seed: int = 0) -> Aligned:
    """Return how well the mean embedding at each label gives that of another session at the same label.

    Labels are cut into 25 bins of equally many training bins (36 equal ones of an angle; each category), and latents
    are averaged in each. The null shifts the labels of ``other`` against its latents. NaN where too few labels are
    common.
    """
    edges = _edges(np.concatenate([one.labels["train"], other.labels["train"]]), variable)
    source = _means(one, variable, edges)

    def to(target: Embedded) -> tuple[float, float | None]:
        means = _means(target, variable, edges)
        both = {p: np.isfinite(source[p]).all(1) & np.isfinite(means[p]).all(1) for p in ("train", "test")}
        if both["train"].sum() <= source["train"].shape[1] + 1 or both["test"].sum() < 2:
            return float("nan"), None
        return _scored(*({p: found[p][both[p]] for p in both} for found in (source, means)))

    return Aligned(*to(other), np.array([to(_shifted(other, seed + i))[0] for i in range(SHIFTS)]))


def between_sessions(evaluations: Sequence[Evaluation], behavior: Sequence[str] = ()) -> list[Score]:
    """Return the consistency of all ordered pairs of sessions of a run, aligned on a label that they share.

    Parameters
    ----------
    evaluations : of one model.
    behavior : variables to align on, the first that all sessions have; empty: the first of the first session.
    """
    scores: list[Score] = []
    layouts = [evaluation.layout.behavior for evaluation in evaluations]
    names = [name for name in (*behavior, *layouts[0]) if all(name in layout for layout in layouts)] if layouts else []
    if len(evaluations) < 2 or not names:
        return scores
    found = [embedded(evaluation, names[0]) for evaluation in evaluations]
    for a, one in enumerate(found):
        for b, other in enumerate(found):
            if a == b or not all(len(each.latents["test"]) for each in (one, other)):
                continue
            value, spread, null = aligned_consistency(one, other, layouts[a][names[0]], evaluations[a].seed)
            if np.isfinite(value):
                scores.append(
                    Score(
                        "session_consistency",
                        value,
                        evaluations[a].layout.session,
                        f"to {evaluations[b].layout.session}",
                        spread=spread,
                        n=len(other.latents["test"]),
                        chance=finite(float(np.quantile(null, LEVEL, method="weibull"))),
                        p=p_value(value, null.tolist()),
                        note=f"aligned on {names[0]}; labels shifted: median {np.nanmedian(null):.2f}, "
                        f"at most {np.nanmax(null, initial=-np.inf):.2f}",
                    )
                )
    return scores


def embedded(evaluation: Evaluation, name: str) -> Embedded:
    """Return the latents and labels of a session, in training and test bins."""
    parts = ("train", "test")

    def lengths(part: str) -> Int[np.ndarray, " trial"]:
        trials = evaluation.trials(part)
        keep = trials.valid.numpy()[trials.flat]
        number = np.repeat(np.arange(len(trials)), trials.lengths)[keep]
        return np.bincount(number, minlength=len(trials))

    return Embedded(
        {part: evaluation.latents(part) for part in parts},
        {part: evaluation.behavior(part, name) for part in parts},
        {part: lengths(part) for part in parts},
    )


def _edges(labels: Float[np.ndarray, "bin channel"], variable: Variable) -> list[np.ndarray]:
    """Return the inner edges of the label bins of each channel."""
    labels = labels[np.isfinite(labels).all(1)]
    if variable.kind is Kind.CIRCULAR:
        return [np.linspace(0, 2 * np.pi, CIRCULAR_BINS + 1)[1:-1]] * labels.shape[1]
    if variable.kind is Kind.CATEGORICAL:
        return [np.arange(max(len(variable.levels), 1)) + 0.5]
    each = max(2, round(LABEL_BINS ** (1 / labels.shape[1])))
    return [np.unique(np.quantile(column, np.linspace(0, 1, each + 1)[1:-1])) for column in labels.T]


def _means(of: Embedded, variable: Variable, edges: list[np.ndarray]) -> dict[str, Latents]:
    """Return the mean latents of each label bin and part, NaN where there are too few bins."""
    found = {}
    for part, latents in of.latents.items():
        labels = of.labels[part]
        known = np.isfinite(labels).all(1)
        labels = np.mod(labels[known], 2 * np.pi) if variable.kind is Kind.CIRCULAR else labels[known]
        place = np.zeros(len(labels), dtype=np.int64)
        total = 1
        for channel, inner in enumerate(edges):
            place = place * (len(inner) + 1) + np.searchsorted(inner, labels[:, channel])
            total *= len(inner) + 1
        count = np.bincount(place, minlength=total)
        sums = np.stack([np.bincount(place, weights=column, minlength=total) for column in latents[known].T], 1)
        found[part] = np.where((count >= FEWEST)[:, None], sums / np.maximum(count, 1)[:, None], np.nan)
    return found


def _shifted(of: Embedded, seed: int) -> Embedded:
    labels = {}
    for part, values in of.labels.items():
        moved = shift_labels({"": values}, of.lengths[part], seed, within_trials=len(of.lengths[part]) > 1)
        labels[part] = moved[""]
    return of._replace(labels=labels)
