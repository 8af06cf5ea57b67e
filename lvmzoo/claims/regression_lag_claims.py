"""Whether two regions predict each other, at which lag, and in which direction: claims, and the curves behind them."""

from __future__ import annotations

import math

import numpy as np
import torch

from lvmzoo.claims.nulls import band, holm, interval
from lvmzoo.claims.regression_lags import Lags, Pair, measured_lags
from lvmzoo.claims.regression_recording import RegionRecording
from lvmzoo.claims.support import LEVEL, WIDER, Questions, claimed, corrected, judged
from lvmzoo.findings import Claim, Findings, Profile, Progress, Question

__all__ = ["lag_claims"]

RESOLUTION = 0.5  # bins, of a delay


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
    return _findings(recording, names, questions, found)


def _findings(recording: RegionRecording, names: list[str], questions: Questions, found: Lags) -> Findings:
    pairs, arrows, most = found.pairs, found.arrows, found.most
    step_ms = 1000 * recording.layout.bin_width_s
    claims: list[Claim] = []
    over = (f"the best of {2 * most + 1} lags" if most else "at the same bin") + _largest(len(pairs), "pairs")
    shared = corrected([pair.shared for pair in pairs])
    delayed = _delay_ps(pairs, shared)
    profiles = []
    for pair, p, delay_p in zip(pairs, shared, delayed, strict=True):
        statistic, note = "cross-validated 1 - NSE", recording.note(over)
        claims.append(
            claimed(Question.COMMUNICATION, pair.source, pair.target, pair.shared, p, statistic, note, why=pair.why)
        )
        delay = _delay_claim(recording, questions, pair, delay_p, most, step_ms, len(pairs))
        claims += [delay] if most else []
        if pair.profile is not None:
            profiles.append(_profile(pair, pair.profile, most, step_ms, bool(most and delay.evidence)))
    for arrow, p in zip(arrows, corrected([arrow.added for arrow in arrows]), strict=True):
        statistic = "cross-validated 1 - NSE added to the past of the other regions"
        note = recording.note(f"{most} past bins" + _largest(len(arrows), "directions"))
        wider = len(arrow.regions) > 2
        note += f"; {WIDER}" * wider
        left = [name for name in names if name not in arrow.regions]
        note += f"; not accounted for, as too few of its windows are whole: {', '.join(left)}" * bool(left)
        claims.append(
            claimed(
                Question.DIRECTION,
                arrow.source,
                arrow.target,
                arrow.added,
                p,
                statistic,
                note,
                why=arrow.why,
                wider=wider,
            )
        )
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
    note = "where regions predict each other most beyond the mean of the null; "
    note += recording.note("of more than half a bin" + (f", Holm over {pairs} pairs" if pairs > 1 else ""))
    least = 1 / (1 + questions.resamples)
    few = "too few resamples to tell: set model.resamples=19 or more" if least > LEVEL else ""
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
        evidence=None if pair.why or few else judged(abs(value), p, bounds),
        note=pair.why or few or note,
    )


def _profile(pair: Pair, profile: torch.Tensor, most: int, step_ms: float, delayed: bool) -> Profile:
    low = high = null = None
    if pair.profiles:
        draws = torch.stack(pair.profiles)
        low, high = (edge.numpy() for edge in band(draws - draws.median(0).values + profile))
    if pair.shared.summary is not None:
        null = np.full(len(profile), pair.shared.summary[1])
    return Profile(
        "lag",
        pair.source,
        pair.target,
        "cross-validated 1 - NSE",
        {"lag (ms)": np.arange(-most, most + 1) * step_ms},
        profile.numpy(),
        low,
        high,
        null,
        marks={"delay (ms)": pair.delay.value * step_ms} if delayed else {},
        note=f"mean of both directions; positive: {pair.target} follows",
    )
