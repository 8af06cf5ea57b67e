"""What each of several source regions adds to the prediction of a target by the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lvmzoo.claims.nulls import bootstrap
from lvmzoo.claims.regression_recording import RegionRecording, Windows
from lvmzoo.claims.support import Measured, Questions, corrected, judged
from lvmzoo.findings import Claim, Progress, Question
from lvmzoo.inference.regression_moments import Scatter
from lvmzoo.parts.regression_session import Route

__all__ = ["measured_sources", "source_claims", "unique_contribution"]


def source_claims(
    recording: RegionRecording, route: Route, questions: Questions, generator: torch.Generator, progress: Progress
) -> list[Claim]:
    """Return a claim for each source region about what it adds to the others; none for a single source."""
    measured = measured_sources(recording, route, questions, generator, progress)
    ps = corrected(list(measured.values()))
    claims = []
    for (source, found), p in zip(measured.items(), ps, strict=True):
        others = " and ".join(name for name in route.sources if name != source)
        claims.append(
            Claim(
                Question.COMMUNICATION,
                source,
                route.target,
                found.value,
                "cross-validated 1 - NSE added to the other sources",
                interval=found.interval,
                p=p,
                null=found.summary,
                evidence=judged(found.value, p, found.interval),
                item=f"beyond {others}",
                note=recording.note(questions, f"largest of {len(measured)} sources"),
            )
        )
    return claims


def measured_sources(
    recording: RegionRecording, route: Route, questions: Questions, generator: torch.Generator, progress: Progress
) -> dict[str, Measured]:
    """Return what each source region adds to the others; nothing for a single source, or without a whole window."""
    if len(route.sources) < 2:
        return {}
    windows = recording.windows([*((source, route.lags) for source in route.sources), (route.target, (0,))], drift=True)
    if windows is None:
        return {}
    scatter = windows.scatter()
    # Exchanging a region leaves the others as they are.
    without = {source: _without(scatter, windows, route, source) for source in route.sources}
    everything = _best(scatter, windows, route, route.sources)
    measured = {source: Measured(everything - without[source]) for source in route.sources}
    draws = questions.permutations if recording.can_exchange else 0
    for draw in range(draws):
        progress("what each source region adds", draw / draws)
        for source in route.sources:
            rows = recording.exchanged(windows.usable, generator)
            chance = windows.exchanged(source, rows)
            measured[source].null.append(_best(chance, windows, route, route.sources) - without[source])
    for _ in range(questions.resamples if recording.trials > 1 else 0):
        again = windows.resampled(bootstrap(recording.trials, generator), recording.trials)
        everything = _best(again, windows, route, route.sources)
        for source in route.sources:
            measured[source].resamples.append(everything - _without(again, windows, route, source))
    return measured


def unique_contribution(scatter: Scatter, windows: Windows, route: Route, source: str) -> float:
    """Return 1 - NSE of the target from all sources less that from all but one, each at its best rank and penalty."""
    return _best(scatter, windows, route, route.sources) - _without(scatter, windows, route, source)


def _without(scatter: Scatter, windows: Windows, route: Route, source: str) -> float:
    return _best(scatter, windows, route, [name for name in route.sources if name != source])


def _best(scatter: Scatter, windows: Windows, route: Route, sources: Sequence[str]) -> float:
    x = torch.cat([windows.columns[source, lag] for source in sources for lag in route.lags])
    y = windows.columns[route.target, 0]
    return max(float(scatter.by_rank(x, y, ridge)[:, 1:].mean(0).max()) for ridge in route.ridge)
