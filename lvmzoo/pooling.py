"""Scores of runs, pooled over sessions, seeds and folds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PAIRS", "Value", "key_of", "mean", "pool", "same", "values_of"]

FEWEST = 10  # a standard error over fewer things (pairs of regions) says nothing, and is left out
PAIRS = "consistency"  # whose spread is a standard deviation over pairs of runs, few as they are
EQUAL = 1e-9  # of a value: seeds that differ by less draw nothing at random


@dataclass(frozen=True)
class Value:
    """A metric of a run, or of the runs of a row: the mean over sessions, seeds and folds."""

    value: float
    spread: float | None = None  # standard error over folds, standard deviation over seeds, or that of the one run
    validation: float | None = None  # the same metric on validation data
    ceiling: float | None = None
    chance: float | None = None
    n: int = 0  # bins, spikes, pairs behind it: of all sessions and folds together, of each seed


def same(values: Sequence[float]) -> bool:
    """Return whether values are equal but for rounding."""
    return max(values) - min(values) <= EQUAL * max(map(abs, values))


def pool(values: Sequence[tuple[int | None, Value]]) -> Value:
    """Return the mean over folds of the mean over seeds; its spread is over folds, else over seeds.

    Seeds that change nothing are one run: the spread is that of the first.
    """
    by_fold: dict[int | None, list[Value]] = {}
    for fold, value in values:
        by_fold.setdefault(fold, []).append(value)
    folds = [mean(of_fold) for of_fold in by_fold.values()]
    pooled = mean(folds)
    if len(folds) > 1:
        spread = statistics.stdev(value.value for value in folds) / math.sqrt(len(folds))
    elif not same([value.value for _, value in values]):
        spread = statistics.stdev(value.value for _, value in values)
    else:
        return values[0][1]
    return replace(pooled, spread=spread, n=sum(value.n for value in folds))


def mean(values: Sequence[Value]) -> Value:
    """Return the mean, without a spread; nothing of what some of them lack."""

    def over(numbers: Iterator[float | None]) -> float | None:
        known = [number for number in numbers if number is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    return Value(
        statistics.fmean(value.value for value in values),
        None,
        over(value.validation for value in values),
        over(value.ceiling for value in values),
        over(value.chance for value in values),
        round(statistics.fmean(value.n for value in values)),
    )


def values_of(scores: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    """Return each metric of a run, the mean over its sessions; a spread only of a single session."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for score in scores:
        if math.isfinite(score["value"]):
            found.setdefault(key_of(score), []).append(score)
    values = {}
    for key, each in found.items():
        pooled = mean([Value(s["value"], None, s.get("validation"), s.get("ceiling"), s.get("chance")) for s in each])
        alone = len(each) == 1 and (key == PAIRS or each[0].get("n", FEWEST) >= FEWEST)
        spread = each[0].get("spread") if alone else None
        values[key] = replace(pooled, spread=spread, n=sum(score.get("n", 0) for score in each))
    return values


def key_of(score: Mapping[str, Any]) -> str:
    """Return the metric and the target of a score."""
    return f"{score['metric']} {score['target']}".strip()
