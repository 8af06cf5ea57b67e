"""What processes with delays say about pairs of regions: claims with nulls and intervals, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.claims.delayed_directions import delay_claims, direction_claims, lag_profiles
from lvmzoo.claims.delayed_study import LEVEL, Settings, Study, around
from lvmzoo.claims.nulls import bootstrap, holm, null_summary, p_value
from lvmzoo.findings import Claim, Findings, Profile, Progress, Question
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.gaussian_process_dimension import fewest_within_one_error

__all__ = ["Settings", "delayed_findings"]


@torch.no_grad()
def delayed_findings(
    model: DelayedProcesses,
    batch: Batch,
    names: Sequence[str],
    settings: Settings,
    activity: Float[Tensor, "trial bin unit"],
    seed: int,
    progress: Progress,
) -> Findings:
    """Return claims about every pair of regions that the session shows.

    Parameters
    ----------
    model : fitted, of this session.
    batch : all training trials.
    names : of the model's regions.
    settings : of tests and intervals.
    activity : of the batch, as it is modeled.
    seed : of permutations and resamples.
    progress : is told how far the work is.
    """
    study = Study(model, batch, names, settings, activity, seed, progress)
    communication = _communication(study)
    shared = {pair: claim.p for pair, claim in communication.items()}
    dimensions, useful, curves = _dimensions(study)
    delays = delay_claims(study, shared, useful)
    claims = [*communication.values(), *direction_claims(study, delays), *delays.values(), *dimensions]
    return Findings(tuple(claims), (*lag_profiles(study), *curves))


def _communication(study: Study) -> dict[tuple[int, int], Claim]:
    """Ask whether each region predicts the other in trials left out, better than after trials were exchanged."""
    settings = study.settings
    ps = [p_value(found.observed, found.null) for found in study.exchanges.values()]
    corrected = dict(zip(study.exchanges, holm(ps), strict=True))
    claims = {}
    for pair in study.pairs:
        found = study.exchanges.get(pair)
        value = found.observed if found is not None else float("nan")
        claim = Claim(
            Question.COMMUNICATION,
            *study.called(pair),
            value,
            "correlation of each region, predicted from the other by latents across them, with its activity",
        )
        if not study.enough or found is None:
            claims[pair] = replace(claim, note=f"too short to tell: {study.trials} trials")
            continue
        tested, resamples = settings.permutations > 0, settings.resamples
        p = corrected[pair] if tested else None
        samples = [found.resampled(bootstrap(found.powers.shape[1], study.generator)) for _ in range(resamples)]
        note = f"{int(study.fold.max()) + 1} folds, each but the first predicted by the trials before it"
        if tested:
            note += "; null: trials of one region exchanged within condition and among neighbors" + _pairs(corrected)
        claims[pair] = replace(
            claim,
            p=p,
            null=null_summary(found.null) if tested else None,
            interval=around(value, samples) if resamples else None,
            evidence=p <= LEVEL if p is not None and resamples else None,
            note=note,
        )
    return claims


def _dimensions(study: Study) -> tuple[list[Claim], dict[tuple[int, int], int], list[Profile]]:
    """Return the fewest latents within one standard error of the best, the number of the best, and curves."""
    claims, useful, curves = [], {}, []
    for pair in study.pairs:
        if not study.predictions:
            useful[pair] = study.model.across
            continue
        folds = torch.stack([study.predictions[way].explained for way in (pair, pair[::-1])]).mean(0).cpu().numpy()
        numbers = list(range(folds.shape[1]))
        useful[pair] = int(folds.mean(0).argmax())
        chosen = fewest_within_one_error(-folds, numbers) if len(folds) > 1 else useful[pair]
        note = "latents across regions, each region predicted from the other in trials left out, one-SE rule"
        if chosen == study.model.across:
            note += f"; all {chosen} that were fitted: there may be more"
        claims.append(Claim(Question.DIMENSIONS, *study.called(pair), float(chosen), "by cross-validation", note=note))
        mean = folds.mean(0)
        error = folds.std(0, ddof=1) / len(folds) ** 0.5 if len(folds) > 1 else np.zeros_like(mean)
        curves.append(
            Profile(
                "rank",
                *study.called(pair),
                "variance of trials left out that is predicted",
                {"latents across regions": np.array(numbers, float)},
                mean,
                mean - error,
                mean + error,
                marks={"1-SE number": float(chosen)},
                note="mean of both ways; standard error over folds",
            )
        )
    return claims, useful, curves


def _pairs(corrected: dict[tuple[int, int], float]) -> str:
    return f", corrected for {len(corrected)} pairs by Holm" if len(corrected) > 1 else ""
