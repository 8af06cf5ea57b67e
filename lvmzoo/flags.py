"""Warnings about the runs of a comparison, each with its reason; they read the scores and fit nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Flag", "flags"]

BASELINES = ("smoothing", "pca", "factor_analysis")
# What a baseline is compared on: the first of these that it and the model have. Nothing here is of units, in bins, that
# the model saw: smoothed activity explains its own noise.
UNSEEN = ("co_bps", "co_r2", "co_rate_r2", "latent_r2", "fp_bps")
FEW_SHOTS = "few_shot_co_bps_"
NEAR = 0.9  # of the best co-bps: near enough to pass for the best
RIVAL = 0.75  # of the best co-bps: what keeps it with few trials is what others could have kept
KEPT = 0.7  # of what the steadiest rival keeps
LEAST_CYCLE = 0.5
NOISE = 2.0  # standard errors


@dataclass(frozen=True)
class Flag:
    """A warning about a run."""

    kind: str  # in two or three words
    reason: str  # one sentence with the numbers behind it


class _Value(NamedTuple):
    mean: float
    spread: float  # 0 where it is not known


def flags(outcomes: Sequence[Mapping[str, Any]]) -> list[list[Flag]]:
    """Return the warnings about each run.

    Parameters
    ----------
    outcomes : finished runs of one recording and split: "model", the name, and "scores", plain dicts of
        :class:`lvmzoo.metrics.base.Score`. Runs without scores (failed ones) get no warning.
    """
    runs = [_values(outcome.get("scores") or []) for outcome in outcomes]
    names = [str(outcome.get("model", "")) for outcome in outcomes]
    invented, below = _invented(names, runs), _below(names, runs)
    return [[flag for flag in found if flag is not None] for found in zip(invented, below, strict=True)]


def _invented(names: Sequence[str], runs: Sequence[Mapping[str, _Value]]) -> list[Flag | None]:
    """Flag the runs near the best co-bps whose latents hold much that no unit shows.

    Latents that hold more than the activity needs keep little of their co-bps where the readout is learned from few
    trials (Dabholkar & Barak 2025); how little is for rivals to say, as it depends on the recording too. Latents that
    the rates do not tell are invented (Versteeg et al. 2023, doi:10.48550/arXiv.2309.06402).
    """
    there = {i: run["co_bps"].mean for i, run in enumerate(runs) if "co_bps" in run}
    best = max(there.values(), default=0.0)
    found: list[Flag | None] = [None] * len(runs)
    if best <= 0:
        return found
    rivals = [i for i, value in there.items() if value >= RIVAL * best]
    for i, value in there.items():
        if value < NEAR * best or names[i] == "smoothing":  # its latents are the units, and are not meant to be few
            continue
        found[i] = _few_shots(names, runs, i, rivals) or _cycle(runs[i])
    return found


def _few_shots(
    names: Sequence[str], runs: Sequence[Mapping[str, _Value]], i: int, rivals: Sequence[int]
) -> Flag | None:
    for key in sorted((key for key in runs[i] if key.startswith(FEW_SHOTS)), key=_shots, reverse=True):
        kept = {j: runs[j][key].mean / runs[j]["co_bps"].mean for j in rivals if key in runs[j]}
        steadiest = max(kept, key=lambda j: kept[j])
        own = runs[i]["co_bps"].mean
        noise = NOISE * math.hypot(runs[i][key].spread, runs[steadiest][key].spread)
        if runs[i][key].mean < KEPT * kept[steadiest] * own - noise:
            return Flag(
                "invents dynamics",
                f"Of its co-bps, {own:.3f}, a readout learned from {_shots(key)} trials keeps "
                f"{max(0.0, runs[i][key].mean / own):.0%}, where {names[steadiest]} keeps {kept[steadiest]:.0%}: its "
                "latents hold more than the activity needs.",
            )
    return None


def _cycle(run: Mapping[str, _Value]) -> Flag | None:
    value = run.get("cycle_consistency")
    if value is None or value.mean + NOISE * value.spread >= LEAST_CYCLE:
        return None
    return Flag("invents dynamics", f"Its rates tell only {max(0.0, value.mean):.0%} of the variance of its latents.")


def _below(names: Sequence[str], runs: Sequence[Mapping[str, _Value]]) -> list[Flag | None]:
    """Flag the runs that a baseline beats by more than noise."""
    found: list[Flag | None] = [None] * len(runs)
    for i, run in enumerate(runs):
        rivals = [j for j, name in enumerate(names) if name in BASELINES]
        if names[i] in BASELINES:
            continue
        for key in UNSEEN:
            among = [j for j in rivals if key in runs[j]]
            if key not in run or not among:
                continue
            best = max(among, key=lambda j: runs[j][key].mean)
            baseline = runs[best][key]
            if run[key].mean < baseline.mean - math.hypot(run[key].spread, baseline.spread):
                found[i] = Flag(
                    "below baseline",
                    f"Its {key}, {run[key].mean:.3f}, is below that of {names[best]}, {baseline.mean:.3f}, by more "
                    "than the noise.",
                )
            break
    return found


def _values(scores: Sequence[Mapping[str, Any]]) -> dict[str, _Value]:
    """Return each metric without a target, the mean over sessions, and its standard error."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for score in scores:
        if not score.get("target") and math.isfinite(score["value"]):
            found.setdefault(score["metric"], []).append(score)
    return {
        key: _Value(
            statistics.fmean(score["value"] for score in same),
            math.hypot(*(score.get("spread") or 0.0 for score in same)) / len(same),
        )
        for key, same in found.items()
    }


def _shots(key: str) -> int:
    return int(key.removeprefix(FEW_SHOTS))
