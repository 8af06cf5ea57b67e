"""Whether two regions predict each other, at which lag, and in which direction beyond their own pasts."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch

from lvmzoo.claims.nulls import bootstrap, holm, interval
from lvmzoo.claims.regression_recording import RegionRecording, Windows
from lvmzoo.claims.support import Measured, Questions, claimed, corrected, judged
from lvmzoo.findings import Claim, Findings, Profile, Progress, Question
from lvmzoo.inference.lagged_prediction import added_by, best_penalty, joined, lag_profile, peak
from lvmzoo.inference.regression_moments import Scatter

__all__ = ["lag_claims", "measured_lags"]

RESOLUTION = 0.5  # bins, of a delay


@dataclass
class Pair:
    """What is measured of two regions."""

    source: str
    target: str
    shared: Measured  # the highest 1 - NSE over lags
    delay: Measured  # bins
    profile: torch.Tensor
    profiles: list[torch.Tensor] = field(default_factory=list)  # of resamples


@dataclass
class Arrow:
    """What is measured of one region's past for another."""

    source: str
    target: str
    penalty: float
    added: Measured


@dataclass
class Lags:
    """What is measured of all pairs, up to so many bins apart."""

    pairs: list[Pair]
    arrows: list[Arrow]
    most: int


def lag_claims(
    recording: RegionRecording,
    names: list[str],
    questions: Questions,
    generator: torch.Generator,
    progress: Progress,
) -> Findings:
    """Return claims about communication, delay and direction of all pairs, and the curves by lag.

    Parameters
    ----------
    recording : the session.
    names : its regions.
    questions : what is asked.
    generator : of permutations and resamples.
    progress : is told how far this is.
    """
    found = measured_lags(recording, names, questions, generator, progress)
    return Findings() if found is None else _findings(recording, questions, found.pairs, found.arrows, found.most)


def measured_lags(
    recording: RegionRecording,
    names: list[str],
    questions: Questions,
    generator: torch.Generator,
    progress: Progress,
) -> Lags | None:
    """Return what :func:`lag_claims` says, in numbers; None where no window is whole."""
    most = min(questions.history, recording.longest // 3)
    windows = recording.windows([(name, range(most + 1)) for name in names], drift=True, alike=True)
    if windows is None:
        return None
    scatter = windows.scatter()
    pairs = [_pair(scatter, windows, one, other, most) for one, other in itertools.combinations(names, 2)]
    arrows = [_arrow(scatter, windows, names, one, other, most) for one, other in itertools.permutations(names, 2)]
    arrows = arrows if most else []
    draws = questions.permutations if recording.can_exchange else 0
    again = questions.resamples if recording.trials > 1 else 0
    # Of two regions, either may be exchanged against the other; of more, each against all others.
    moved = names[:1] if len(names) == 2 else names
    for number, (name, _) in enumerate(itertools.product(moved, range(draws))):
        progress("chance", 0.7 * number / (draws * len(moved)))
        rows = recording.exchanged(windows.usable, generator)
        chance = windows.exchanged(name, rows)
        for pair in pairs:
            if pair.source == name:
                profile = lag_profile(chance, windows.columns, pair.source, pair.target, most)
                pair.shared.null.append(float(profile.max()))
        for arrow in arrows:
            if arrow.source == name or len(names) == 2:
                arrow.added.null.append(_added(chance, windows, names, arrow, most))
    for number in range(again):
        progress("resamples of trials", 0.7 + 0.3 * number / again)
        sample = windows.resampled(bootstrap(recording.trials, generator), recording.trials)
        for pair in pairs:
            profile = lag_profile(sample, windows.columns, pair.source, pair.target, most)
            pair.profiles.append(profile)
            pair.shared.resamples.append(float(profile.max()))
            pair.delay.resamples.append(peak(profile))
        for arrow in arrows:
            arrow.added.resamples.append(_added(sample, windows, names, arrow, most))
    return Lags(pairs, arrows, most)


def _pair(scatter: Scatter, windows: Windows, source: str, target: str, most: int) -> Pair:
    profile = lag_profile(scatter, windows.columns, source, target, most)
    return Pair(source, target, Measured(float(profile.max())), Measured(peak(profile)), profile)


def _arrow(scatter: Scatter, windows: Windows, names: list[str], source: str, target: str, most: int) -> Arrow:
    if not most:
        return Arrow(source, target, 0.0, Measured(math.nan))
    known = joined(windows.columns, [name for name in names if name != source], range(1, most + 1))
    penalty = best_penalty(scatter, known, windows.columns[target, 0])
    arrow = Arrow(source, target, penalty, Measured(0.0))
    arrow.added.value = _added(scatter, windows, names, arrow, most)
    return arrow


def _added(scatter: Scatter, windows: Windows, names: list[str], arrow: Arrow, most: int) -> float:
    past = range(1, most + 1)
    known = joined(windows.columns, [name for name in names if name != arrow.source], past)
    source = joined(windows.columns, [arrow.source], past)
    return float(added_by(scatter, known, source, windows.columns[arrow.target, 0], arrow.penalty))


def _findings(
    recording: RegionRecording, questions: Questions, pairs: list[Pair], arrows: list[Arrow], most: int
) -> Findings:
    step_ms = 1000 * recording.layout.bin_width_s
    claims: list[Claim] = []
    over = (f"the best of {2 * most + 1} lags" if most else "at the same bin") + _largest(len(pairs), "pairs")
    shared = corrected([pair.shared for pair in pairs])
    delayed = _delay_ps(pairs, shared)
    profiles = []
    for pair, p, delay_p in zip(pairs, shared, delayed, strict=True):
        statistic, note = "cross-validated 1 - NSE", recording.note(questions, over)
        claims.append(claimed(Question.COMMUNICATION, pair.source, pair.target, pair.shared, p, statistic, note))
        if most:
            claims.append(_delay_claim(recording, questions, pair, delay_p, most, step_ms, len(pairs)))
        profiles.append(_profile(pair, most, step_ms))
    for arrow, p in zip(arrows, corrected([arrow.added for arrow in arrows]), strict=True):
        statistic = "cross-validated 1 - NSE added to the past of the other regions"
        note = recording.note(questions, f"{most} past bins" + _largest(len(arrows), "directions"))
        claims.append(claimed(Question.DIRECTION, arrow.source, arrow.target, arrow.added, p, statistic, note))
    return Findings(tuple(claims), tuple(profiles))


def _largest(number: int, what: str) -> str:
    return f", largest of {number} {what}" if number > 1 else ""


def _delay_ps(pairs: list[Pair], shared: list[float | None]) -> list[float | None]:
    """Return the p-values of delays of more than half a bin: of communication, and of the spread over resamples.

    Within half a bin the peak of the profile also moves with how each region's activity resembles itself.
    """
    away = []
    for pair in pairs:
        draws = torch.tensor(pair.delay.resamples, dtype=torch.float64)
        beyond = abs(pair.delay.value) - RESOLUTION
        spread = float(draws.std()) if len(draws) > 1 else math.nan
        away.append(1.0 if not beyond > 0 else math.erfc(beyond / max(spread * 2**0.5, 1e-12)))
    return [
        None if p is None or len(pair.delay.resamples) < 2 else max(p, chance, 1 / (1 + len(pair.delay.resamples)))
        for pair, p, chance in zip(pairs, shared, holm(away), strict=True)
    ]


def _delay_claim(
    recording: RegionRecording,
    questions: Questions,
    pair: Pair,
    p: float | None,
    most: int,
    step_ms: float,
    pairs: int,
) -> Claim:
    value = pair.delay.value * step_ms
    bounds = None
    if pair.delay.resamples:
        low, high = interval([delay * step_ms for delay in pair.delay.resamples])
        bounds = min(low, value), max(high, value)
    note = recording.note(questions, "of more than half a bin" + (f", Holm over {pairs} pairs" if pairs > 1 else ""))
    if abs(pair.delay.value) >= most:
        note += f"; the longest lag that was looked at, so it may be longer (model.history={most})"
    return Claim(
        Question.DELAY,
        pair.source,
        pair.target,
        value,
        "lag of best prediction",
        unit="ms",
        interval=bounds,
        p=p,
        evidence=judged(abs(value), p, bounds),
        note=note,
    )


def _profile(pair: Pair, most: int, step_ms: float) -> Profile:
    low = high = null = None
    if pair.profiles:
        draws = torch.stack(pair.profiles)
        around = draws - draws.median(0).values + pair.profile
        bounds = torch.quantile(around, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        low, high = bounds[0].numpy(), bounds[1].numpy()
    if pair.shared.summary is not None:
        null = np.full(len(pair.profile), pair.shared.summary[1])
    return Profile(
        "lag",
        pair.source,
        pair.target,
        "cross-validated 1 - NSE",
        {"lag (ms)": np.arange(-most, most + 1) * step_ms},
        pair.profile.numpy(),
        low,
        high,
        null,
        marks={"delay (ms)": pair.delay.value * step_ms},
        note=f"mean of both directions; positive: {pair.target} follows",
    )
