"""What regressions between the regions of a session say of them: claims and curves."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.claims.nulls import band, interval, outwards
from lvmzoo.claims.regression_dimensions import Control, Dimensions, dimensions, subspace_of
from lvmzoo.claims.regression_lag_claims import lag_claims
from lvmzoo.claims.regression_recording import RegionRecording
from lvmzoo.claims.regression_sources import source_claims
from lvmzoo.claims.support import Questions
from lvmzoo.findings import Claim, Findings, Profile, Progress, Question
from lvmzoo.inference.communication_subspace import subspace_angles
from lvmzoo.parts.regression_session import RegressionSession
from lvmzoo.parts.residuals import Residuals

__all__ = ["regression_findings"]


def regression_findings(
    batch: Batch,
    residuals: Residuals,
    session: RegressionSession,
    questions: Questions,
    seed: int,
    progress: Progress,
) -> Findings:
    """Return claims and curves about every pair of regions.

    Parameters
    ----------
    batch : all training trials of the session.
    residuals : takes condition means off them, or nothing.
    session : the fitted regression, for its settings and folds.
    questions : what is asked.
    seed : of permutations, resamples and splits.
    progress : is told how far this is.
    """
    groups = residuals.groups(batch) if residuals.wanted else None
    recording = RegionRecording(
        batch, residuals(batch), session.folds(batch), session.route.folds, groups, session.groups
    )
    names = [name for name in batch.layout.units if name != questions.control]
    generator = torch.Generator().manual_seed(seed)

    def part(start: float, stop: float) -> Progress:
        return lambda what, fraction: progress(what, start + (stop - start) * fraction)

    lags = lag_claims(recording, names, questions, generator, part(0.0, 0.75))
    evidence = {frozenset((c.source, c.target)): c.evidence for c in lags.claims if c.question == "communication"}
    ranks = _dimension_claims(recording, names, session, questions, generator, evidence, part(0.75, 0.9))
    sources = source_claims(recording, session.route, questions, generator, part(0.9, 1.0))
    return Findings((*lags.claims, *sources, *ranks.claims), (*ranks.profiles, *lags.profiles))


def _dimension_claims(
    recording: RegionRecording,
    names: list[str],
    session: RegressionSession,
    questions: Questions,
    generator: torch.Generator,
    evidence: dict[frozenset[str], bool | None],
    progress: Progress,
) -> Findings:
    route = session.route
    claims, profiles, found = [], [], {}
    pairs = list(itertools.permutations(names, 2))
    apart = {source: questions.control for source in route.sources if questions.control is not None}
    pairs += [(source, control) for source, control in apart.items() if control is not None]
    for number, (source, target) in enumerate(pairs):
        progress(f"dimensions of {source} to {target}", number / len(pairs))
        own = source not in apart
        made = dimensions(recording, route, source, target, questions.resamples, generator, own)
        if made is not None:
            found[source, target] = made
    for (source, target), made in found.items():
        if target == questions.control:
            continue
        beside = found.get((source, apart[source])) if source in apart else None
        claims.append(_claim(source, target, made, beside, questions, evidence.get(frozenset((source, target)))))
        profiles += _profiles(source, target, made, beside)
    return Findings(tuple(claims), (*profiles, *_angles(session, found)))


def _claim(
    source: str,
    target: str,
    made: Dimensions,
    beside: Dimensions | None,
    questions: Questions,
    evidence: bool | None,
) -> Claim:
    control: float | None = None
    bounds: tuple[float, float] | None = None
    notes = []
    if beside is not None:
        control, bounds = float(beside.curve.rank), beside.interval
        notes.append(f"the control is {source} to {questions.control}")
    elif made.control is not None:
        control = float(made.control.rank.median())
        bounds = outwards(interval(made.control.rank), control)
        size = made.control.size
        notes.append(
            f"the control predicts {size} units of {source} from {size} others, {len(made.control.rank)} times; "
            f"as many units of {target} take {float(made.control.between_rank.median()):g}"
        )
    if evidence is False:
        notes.append("there is no evidence that the regions share activity, so the number says nothing")
    elif evidence is None:
        notes.append("whether the regions share activity at all cannot be told")
    return Claim(
        Question.DIMENSIONS,
        source,
        target,
        float(made.curve.rank),
        "predictive dimensions by cross-validation",
        interval=made.interval,
        evidence=evidence,
        control=control,
        control_interval=bounds,
        note="; ".join(notes),
    )


def _profiles(source: str, target: str, made: Dimensions, beside: Dimensions | None) -> list[Profile]:
    curve = made.curve
    ranks = len(curve.explained)
    control = low = high = None
    if beside is not None:
        other = beside.curve
        control, low, high = (
            _padded(values, ranks)
            for values in (other.explained, other.explained - other.error, other.explained + other.error)
        )
    elif made.control is not None:
        within = made.control.within
        control, low, high = (_padded(values, ranks) for values in (within.mean(0), *band(within)))
    found = [
        Profile(
            "rank",
            source,
            target,
            "1 - NSE",
            {"dimensions": np.arange(ranks)},
            curve.explained.numpy(),
            (curve.explained - curve.error).numpy(),
            (curve.explained + curve.error).numpy(),
            control=control,
            control_low=low,
            control_high=high,
            marks={"1-SE rank": float(curve.rank)},
            note="one standard error over folds",
        )
    ]
    if made.factors is not None:
        factors = made.factors
        found.append(
            Profile(
                "rank",
                source,
                target,
                "1 - NSE",
                {"dimensions": np.arange(len(factors.explained))},
                factors.explained.numpy(),
                (factors.explained - factors.error).numpy(),
                (factors.explained + factors.error).numpy(),
                marks={"1-SE rank": float(factors.rank)},
                item="factor regression",
                note="one standard error over folds",
            )
        )
    return found if made.control is None else [*found, _matched(source, target, made.control)]


def _matched(source: str, target: str, control: Control) -> Profile:
    """Return what as many units of the target as the control has are predicted by, beside the control."""
    value, (low, high) = control.between.mean(0), band(control.between)
    within, (within_low, within_high) = control.within.mean(0), band(control.within)
    return Profile(
        "rank",
        source,
        target,
        "1 - NSE",
        {"dimensions": np.arange(len(value))},
        value.numpy(),
        low.numpy(),
        high.numpy(),
        control=within.numpy(),
        control_low=within_low.numpy(),
        control_high=within_high.numpy(),
        marks={"1-SE rank": float(control.between_rank.median())},
        item=f"{control.size} units from {control.size}, as the control",
        note=f"mean and 95 % of {len(control.rank)} random choices of units",
    )


def _angles(session: RegressionSession, found: dict[tuple[str, str], Dimensions]) -> list[Profile]:
    """Return the angles between the subspaces of a source that predict two targets."""
    profiles = []
    for (source, one), (again, other) in itertools.combinations(found, 2):
        if source != again:
            continue
        bases = [
            subspace_of(found[source, to].windows, session.route, source, to, found[source, to].curve)
            for to in (one, other)
        ]
        angles = subspace_angles(*bases)
        if len(angles):
            profiles.append(
                Profile(
                    "rank",
                    source,
                    one,
                    "principal angle (deg)",
                    {"dimensions": np.arange(1, len(angles) + 1)},
                    angles.numpy(),
                    item=f"against the subspace that predicts {other}",
                )
            )
    return profiles


def _padded(values: Tensor, size: int) -> np.ndarray:
    """Return the values by rank, NaN for ranks that there are not."""
    kept = np.full(size, np.nan)
    shown = values[:size].numpy()
    kept[: len(shown)] = shown
    return kept
