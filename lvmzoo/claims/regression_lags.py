"""How well two regions predict each other, by lag, and in each direction beyond their own pasts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lvmzoo.claims.nulls import bootstrap
from lvmzoo.claims.regression_recording import RegionRecording, Windows
from lvmzoo.claims.support import Measured, Questions
from lvmzoo.findings import Progress
from lvmzoo.inference.lagged_prediction import added_by, best_penalty, joined, lag_profile, peak
from lvmzoo.inference.regression_moments import Scatter

__all__ = ["Arrow", "Lags", "Pair", "measured_lags"]

SHARE = 0.5  # of the rows of two regions that another one must leave to be accounted for


@dataclass
class Pair:
    """What is measured of two regions."""

    source: str
    target: str
    shared: Measured  # the highest 1 - NSE over lags
    delay: Measured  # bins
    profile: torch.Tensor | None = None
    chance: list[torch.Tensor] = field(default_factory=list)  # profiles of the null
    profiles: list[torch.Tensor] = field(default_factory=list)  # of resamples
    why: str = ""  # why nothing can be told

    def peak(self, profile: torch.Tensor) -> float:
        """Return the lag, in bins, at which the regions predict each other most beyond chance.

        What conditions share is in the null, too: its lag is not that of communication.
        """
        return peak(profile - torch.stack(self.chance).mean(0) if self.chance else profile)


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


def measured_lags(
    recording: RegionRecording,
    names: list[str],
    questions: Questions,
    generator: torch.Generator,
    progress: Progress,
) -> Lags:
    """Return what is measured of all pairs; NaN for pairs of regions without whole windows.

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
                pair.chance.append(profile)
                pair.shared.null.append(float(profile.max()))
        for arrow in arrows:
            if arrow.source == name or not several:
                without = arrow.without if several else None
                arrow.added.null.append(_added(chance, windows, arrow, most, without))
    for pair in pairs:
        if pair.profile is not None:
            pair.delay.value = pair.peak(pair.profile)
    for number in range(again):
        progress("resamples of trials", 0.7 + 0.3 * number / again)
        sample = windows.resampled(bootstrap(recording.trials, generator), recording.trials)
        if len(sample.bins) < 2:
            continue
        for pair in pairs:
            profile = lag_profile(sample, windows.columns, pair.source, pair.target, most)
            pair.profiles.append(profile)
            pair.shared.resamples.append(float(profile.max()))
            pair.delay.resamples.append(pair.peak(profile))
        for arrow in arrows:
            arrow.added.resamples.append(_added(sample, windows, arrow, most))
    return Lags(pairs, arrows, most)


def _pair(scatter: Scatter, windows: Windows, source: str, target: str, most: int) -> Pair:
    profile = lag_profile(scatter, windows.columns, source, target, most)
    return Pair(source, target, Measured(float(profile.max())), Measured(math.nan), profile)


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
