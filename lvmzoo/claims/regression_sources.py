"""What each of several source regions adds to the prediction of a target by the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lvmzoo.claims.nulls import bootstrap
from lvmzoo.claims.regression_recording import RegionRecording, Windows
from lvmzoo.claims.support import WIDER, Measured, Questions, claimed, corrected
from lvmzoo.findings import Claim, Progress, Question
from lvmzoo.inference.regression_moments import Scatter
from lvmzoo.parts.regression_session import Route

__all__ = ["contributions", "measured_sources", "source_claims"]


def source_claims(
    recording: RegionRecording, route: Route, questions: Questions, generator: torch.Generator, progress: Progress
) -> list[Claim]:
    """Return a claim for each source region about what it adds to the others; none for a single source."""
    if len(route.sources) < 2:
        return []
    usable = recording.usable(_wanted(route))
    why = recording.why_not(questions, usable)
    measured = measured_sources(recording, route, questions, generator, progress)
    if any(math.isnan(found.value) for found in measured.values()):
        why = "too short to tell: fewer than two folds have a bin with its whole window of lags in all source regions"
    ps = corrected(list(measured.values()))
    claims = []
    for (source, found), p in zip(measured.items(), ps, strict=True):
        others = " and ".join(name for name in route.sources if name != source)
        statistic = "cross-validated 1 - NSE added to the other sources"
        note = f"{recording.note(f'largest of {len(measured)} sources')}; {WIDER}"
        item = f"beyond {others}"
        claims.append(
            claimed(Question.COMMUNICATION, source, route.target, found, p, statistic, note, item, why, wider=True)
        )
    return claims


def measured_sources(
    recording: RegionRecording, route: Route, questions: Questions, generator: torch.Generator, progress: Progress
) -> dict[str, Measured]:
    """Return what each source region adds to the others; NaN where fewer than two folds have a whole window."""
    windows = recording.windows(_wanted(route), drift=True)
    if windows is None:
        return {source: Measured(math.nan) for source in route.sources}
    scatter = windows.scatter()
    everything, added = _best(scatter, windows, route, route.sources), contributions(scatter, windows, route)
    measured = {source: Measured(value) for source, value in added.items()}
    draws = questions.permutations if recording.can_exchange(windows.usable) else 0
    for draw in range(draws):
        progress("what each source region adds", draw / draws)
        for source in route.sources:
            rows = recording.exchanged(windows.usable, generator)
            # What the others predict, everything - added[source], stays as it is.
            chance = _best(windows.exchanged(source, rows), windows, route, route.sources)
            measured[source].null.append(chance - (everything - added[source]))
    for _ in range(questions.resamples if recording.trials > 1 else 0):
        again = windows.resampled(bootstrap(recording.trials, generator), recording.trials)
        if len(again.bins) < 2:
            continue
        for source, value in contributions(again, windows, route).items():
            measured[source].resamples.append(value)
    return measured


def contributions(scatter: Scatter, windows: Windows, route: Route) -> dict[str, float]:
    """Return 1 - NSE of the target from all sources less that from all but one, each at its best rank and penalty."""
    everything = _best(scatter, windows, route, route.sources)
    return {
        source: everything - _best(scatter, windows, route, [name for name in route.sources if name != source])
        for source in route.sources
    }


def _wanted(route: Route) -> list[tuple[str, Sequence[int]]]:
    return [*((source, route.lags) for source in route.sources), (route.target, (0,))]


def _best(scatter: Scatter, windows: Windows, route: Route, sources: Sequence[str]) -> float:
    x = torch.cat([windows.columns[source, lag] for source in sources for lag in route.lags])
    y = windows.columns[route.target, 0]
    return max(float(scatter.by_rank(x, y, ridge)[:, 1:].mean(0).max()) for ridge in route.ridge)
