"""Whether two regions predict each other, at which lag, and in which direction beyond their own pasts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lvmzoo.claims.nulls import bootstrap, holm, interval
from lvmzoo.claims.regression_recording import RegionRecording, Windows
from lvmzoo.claims.support import LEVEL, Measured, Questions, claimed, corrected, judged
from lvmzoo.findings import Claim, Findings, Profile, Progress, Question
from lvmzoo.inference.lagged_prediction import added_by, best_penalty, joined, lag_profile, peak
from lvmzoo.inference.regression_moments import Scatter

__all__ = ["lag_claims", "measured_lags"]

RESOLUTION = 0.5  # bins, of a delay
SHARE = 0.5  # of the rows of two regions that another one must leave to be accounted for
WIDER = "of which chance is that the source is independent of all others, so that the interval must exclude zero, too"


@dataclass
class Pair:
    """What is measured of two regions."""

    source: str
    target: str
    shared: Measured  # the highest 1 - NSE over lags
    delay: Measured  # bins
    profile: torch.Tensor | None = None
    profiles: list[torch.Tensor] = field(default_factory=list)  # of resamples
    why: str = ""  # why nothing can be told


@dataclass
class Arrow:
    """What is measured of one region's past for another."""

    source: str
    target: str
    regions: Sequence[str]  # the two and those that are accounted for
    added: Measured
    penalty: float = 0.0
    without: float | None = None  # 1 - NSE without the source, where exchanging the source leaves it as it is
    why: str = ""


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
    return _findings(recording, names, questions, found)


def measured_lags(
    recording: RegionRecording,
    names: list[str],
    questions: Questions,
    generator: torch.Generator,
    progress: Progress,
) -> Lags:
    """Return what :func:`lag_claims` says, in numbers; NaN for pairs of regions without whole windows.

    A row is a bin in which the windows of all regions are whole. Regions that leave two others too few are not
    accounted for between these.
    """
    most = min(questions.history, recording.longest // 3)
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for pair in itertools.combinations(names, 2):
        groups.setdefault(_beside(recording, names, pair, most), []).append(pair)
    pairs: dict[tuple[str, str], Pair] = {}
    arrows: dict[tuple[str, str], Arrow] = {}
    for number, (regions, asked) in enumerate(groups.items()):

        def part(what: str, fraction: float, number: int = number) -> None:
            progress(what, (number + fraction) / len(groups))

        found = _measured(recording, regions, asked, questions, most, generator, part)
        pairs |= {(pair.source, pair.target): pair for pair in found.pairs}
        arrows |= {(arrow.source, arrow.target): arrow for arrow in found.arrows}
    ordered = [arrows[edge] for edge in itertools.permutations(names, 2)] if most else []
    return Lags([pairs[pair] for pair in itertools.combinations(names, 2)], ordered, most)


def _beside(recording: RegionRecording, names: list[str], pair: tuple[str, str], most: int) -> tuple[str, ...]:
    """Return the pair and the regions that leave it enough rows, the most complete first."""
    lags = range(most + 1)
    usable = recording.usable([(name, lags) for name in pair])
    least = SHARE * float(usable.sum())
    kept = set(pair)
    others = [name for name in names if name not in pair]
    for name in sorted(others, key=lambda name: -int(recording.complete[name].sum())):
        both = usable & recording.usable([(name, lags)])
        if float(both.sum()) >= max(least, 1.0):
            kept.add(name)
            usable = both
    return tuple(name for name in names if name in kept)


def _measured(
    recording: RegionRecording,
    regions: tuple[str, ...],
    asked: list[tuple[str, str]],
    questions: Questions,
    most: int,
    generator: torch.Generator,
    progress: Progress,
) -> Lags:
    """Return what is measured of some pairs of regions, in the rows in which all of these are whole."""
    edges = [edge for pair in asked for edge in (pair, pair[::-1])]
    windows = recording.windows([(name, range(most + 1)) for name in regions], drift=True, alike=True)
    if windows is None:
        why = f"too short to tell: fewer than two folds have a bin in which all units are seen {most + 1} bins on end"
        why += "; drop units with missing samples (data.unit_ids), or set a smaller model.history"
        nothing = Measured(math.nan)
        return Lags(
            [Pair(*pair, shared=nothing, delay=nothing, why=why) for pair in asked],
            [Arrow(*edge, regions=regions, added=nothing, why=why) for edge in edges],
            most,
        )
    scatter = windows.scatter()
    pairs = [_pair(scatter, windows, one, other, most) for one, other in asked]
    arrows = [_arrow(scatter, windows, regions, one, other, most) for one, other in edges] if most else []
    why = recording.why_not(questions, windows.usable)
    for pair in pairs:
        pair.why = why
    for arrow in arrows:
        arrow.why = why
    draws = questions.permutations if recording.can_exchange(windows.usable) else 0
    again = questions.resamples if recording.trials > 1 else 0
    # Of two regions, either may be exchanged against the other; of more, each against all others.
    several = len(regions) > 2
    moved = [name for name in regions if any(name in pair for pair in asked)] if several else regions[:1]
    for number, (name, _) in enumerate(itertools.product(moved, range(draws))):
        progress("chance", 0.7 * number / (draws * len(moved)))
        rows = recording.exchanged(windows.usable, generator)
        chance = windows.exchanged(name, rows)
        for pair in pairs:
            if pair.source == name:
                profile = lag_profile(chance, windows.columns, pair.source, pair.target, most)
                pair.shared.null.append(float(profile.max()))
        for arrow in arrows:
            if arrow.source == name or not several:
                without = arrow.without if several else None
                arrow.added.null.append(_added(chance, windows, arrow, most, without))
    for number in range(again):
        progress("resamples of trials", 0.7 + 0.3 * number / again)
        sample = windows.resampled(bootstrap(recording.trials, generator), recording.trials)
        if len(sample.bins) < 2:
            continue
        for pair in pairs:
            profile = lag_profile(sample, windows.columns, pair.source, pair.target, most)
            pair.profiles.append(profile)
            pair.shared.resamples.append(float(profile.max()))
            pair.delay.resamples.append(peak(profile))
        for arrow in arrows:
            arrow.added.resamples.append(_added(sample, windows, arrow, most))
    return Lags(pairs, arrows, most)


def _pair(scatter: Scatter, windows: Windows, source: str, target: str, most: int) -> Pair:
    profile = lag_profile(scatter, windows.columns, source, target, most)
    return Pair(source, target, Measured(float(profile.max())), Measured(peak(profile)), profile)


def _arrow(scatter: Scatter, windows: Windows, regions: tuple[str, ...], source: str, target: str, most: int) -> Arrow:
    known = joined(windows.columns, [name for name in regions if name != source], range(1, most + 1))
    arrow = Arrow(source, target, regions, Measured(0.0))
    arrow.penalty = best_penalty(scatter, known, windows.columns[target, 0])
    arrow.without = float(scatter.full(known, windows.columns[target, 0], arrow.penalty))
    arrow.added.value = _added(scatter, windows, arrow, most, arrow.without)
    return arrow


def _added(scatter: Scatter, windows: Windows, arrow: Arrow, most: int, without: float | None = None) -> float:
    past = range(1, most + 1)
    known = joined(windows.columns, [name for name in arrow.regions if name != arrow.source], past)
    source = joined(windows.columns, [arrow.source], past)
    return added_by(scatter, known, source, windows.columns[arrow.target, 0], arrow.penalty, without)


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
        note += f", {WIDER}" * wider
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
    note = recording.note("of more than half a bin" + (f", Holm over {pairs} pairs" if pairs > 1 else ""))
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
        around = draws - draws.median(0).values + profile
        bounds = torch.quantile(around, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        low, high = bounds[0].numpy(), bounds[1].numpy()
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
