"""Everything that lag maps say of one session: claims, lag profiles and time-resolved maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.claims.lag_claims import CORRELATION, LagClaims
from lvmzoo.claims.lag_draws import Draws, Plan, draw_lag_maps, draw_time_maps, draws_of, within_regions
from lvmzoo.claims.lag_trials import Activity, Prepared, prepared
from lvmzoo.claims.nulls import null_summary
from lvmzoo.claims.support import too_few
from lvmzoo.findings import Findings, Profile, Progress
from lvmzoo.inference.canonical_correlation import Regularization
from lvmzoo.inference.time_map import windows

__all__ = ["Asked", "lag_findings"]

NO_INTERVAL = "there is no interval, because model.resamples is 0"
SHARE_OF_MAPS = 0.6  # of the time, in lag maps


@dataclass(frozen=True)
class Asked:
    """What is asked about a session; the settings of delayed_cca."""

    pairs: Sequence[tuple[str, str]]
    lags: int
    limited: bool  # to half of the longest trial, though more lags were asked for
    folds: int
    drift_terms: int
    time_points: int
    kind: str
    amounts: Sequence[float]
    permutations: int
    resamples: int
    residuals: bool = False  # take the mean course of each condition off, found without each fold


def lag_findings(
    batch: Batch, values: Float[Tensor, "trial bin unit"], asked: Asked, seed: int, progress: Progress
) -> Findings:
    """Return claims and curves about every pair of regions.

    Parameters
    ----------
    batch : all training trials of the session, in order.
    values : their activity, less what is to be left out; arbitrary where not observed.
    asked : the pairs of regions, and how they are looked at.
    seed : of permutations, resamples and the halves of regions.
    progress : is told how far it is.
    """
    kept = batch.valid.any(1).cpu()
    regions = {name: batch.layout.region(name) for name in batch.layout.units}
    activity = Activity(
        {name: values.cpu()[kept][..., where] for name, where in regions.items()},
        {name: (batch.valid & batch.observed[..., where].all(-1)).cpu()[kept] for name, where in regions.items()},
        None if batch.condition is None else batch.condition.cpu()[kept],
        batch.trial_index.cpu()[kept],
        asked.residuals,
    )
    ready = prepared(activity, asked.lags, asked.folds, asked.drift_terms)
    generator = torch.Generator().manual_seed(seed)
    trials = len(ready.wide.fold)
    draws = draws_of(list(regions), trials, ready.surrogates, asked.permutations, asked.resamples, generator)
    mapped = asked.time_points > 0 and ready.clock
    share = SHARE_OF_MAPS if mapped else 1.0
    maps = draw_lag_maps(
        ready.wide,
        Plan(asked.pairs, asked.lags, asked.kind, asked.amounts),
        draws,
        lambda what, done: progress(what, share * done),
    )
    regularization = Regularization(asked.kind, float(maps.amounts.mean()))
    control = within_regions(ready.wide, regularization, generator)
    claims = LagClaims(
        asked.pairs,
        maps,
        1e3 * batch.layout.bin_width_s,
        _null(ready),
        _unknown(ready, asked),
        control,
        asked.limited,
    )
    found = claims.findings()
    if not mapped:
        return found
    profiles = []
    for place, pair in enumerate(asked.pairs):

        def further(what: str, done: float, place: int = place) -> None:
            progress(what, share + (1 - share) * (place + done) / len(asked.pairs))

        profile = _time_map(
            batch,
            ready,
            pair,
            draws,
            asked,
            Regularization(asked.kind, float(maps.amounts[place].mean())),
            further,
        )
        profiles.append(profile)
    return replace(found, profiles=(*found.profiles, *profiles))


def _time_map(
    batch: Batch,
    ready: Prepared,
    pair: tuple[str, str],
    draws: Draws,
    asked: Asked,
    regularization: Regularization,
    progress: Progress,
) -> Profile:
    """Return the map of each window of the trial in one region against each in another."""
    wide = ready.wide
    cut = {name: windows(wide.regions[name], wide.nuisance + wide.levels, asked.time_points) for name in pair}
    parts: Mapping[str, Tensor] = {name: z for name, (z, _) in cut.items()}
    observed, null = draw_time_maps(wide._replace(regions=parts), pair, draws, regularization, progress)
    level: np.ndarray | None = None
    if len(null):
        center = torch.cat([observed[None], null]).mean(0)
        level = (center + null_summary((null - center).flatten(1).max(1).values)[1]).numpy()
    bin_ms = 1e3 * batch.layout.bin_width_s
    return Profile(
        "time",
        *pair,
        statistic=CORRELATION,
        axes={f"time in {name} (ms)": (middle.numpy() + 0.5) * bin_ms for name, (_, middle) in cut.items()},
        value=observed.numpy(),
        null=level,
        note="each window of the trial in one region against each in the other, across trials; "
        "the null is that of the largest anywhere in the map",
    )


def _null(ready: Prepared) -> str:
    return "no null" if ready.surrogates is None else ready.surrogates.name


def _unknown(ready: Prepared, asked: Asked) -> str:
    """Return why nothing can be told; empty where it can."""
    if ready.unknown:
        return ready.unknown
    if not asked.permutations:
        return "there is no null, because model.permutations is 0"
    return too_few(asked.permutations) or ("" if asked.resamples else NO_INTERVAL)
