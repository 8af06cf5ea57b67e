"""What processes with delays say about pairs of regions: claims with nulls and intervals, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.claims.delayed_directions import delay_claims, direction_claims, lag_profiles
from lvmzoo.claims.delayed_study import Settings, Study, around
from lvmzoo.claims.nulls import bootstrap, interval, null_summary, outwards
from lvmzoo.claims.support import Measured, corrected, judged
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
    dimensions, useful, curves = _dimensions(study, communication)
    delays = delay_claims(study, communication, useful)
    claims = [*communication.values(), *direction_claims(study, delays), *delays.values(), *dimensions]
    return Findings(tuple(claims), (*lag_profiles(study, delays), *curves))


def _communication(study: Study) -> dict[tuple[int, int], Claim]:
    """Ask whether each region predicts the other in trials left out, better than after trials were exchanged."""
    tested = not study.unknown
    ps = corrected(
        [Measured(found.observed, found.null.tolist()) for found in study.exchanges.values()] if tested else []
    )
    claims = {}
    for number, pair in enumerate(study.pairs):
        found = study.exchanges.get(pair)
        claim = Claim(
            Question.COMMUNICATION,
            *study.called(pair),
            found.observed if found is not None else float("nan"),
            "correlation of each region, predicted from the other by latents across them, with its activity",
            note=study.unknown,
        )
        if found is not None:
            trials, resamples = found.powers.shape[1], study.settings.resamples
            samples = [found.resampled(bootstrap(trials, study.generator)) for _ in range(resamples)]
            claim = replace(claim, interval=around(claim.value, samples) if resamples else None)
        if found is not None and tested:
            claim = replace(
                claim,
                p=ps[number],
                null=null_summary(found.null),
                evidence=judged(claim.value, ps[number], claim.interval),
                note=_method(study),
            )
        claims[pair] = claim
    return claims


def _method(study: Study) -> str:
    """Return how communication was tested."""
    many = f", corrected for {len(study.pairs)} pairs by their maximum" if len(study.pairs) > 1 else ""
    return (
        f"{int(study.fold.max()) + 1} folds, each but the first predicted by a model of the trials before it; null: "
        f"trials of one region exchanged with each other, within condition and among neighbors{many}; there is no "
        "control within a region to compare with" + (f"; {study.unjudged}" if study.unjudged else "")
    )


def _dimensions(
    study: Study, communication: dict[tuple[int, int], Claim]
) -> tuple[list[Claim], dict[tuple[int, int], int], list[Profile]]:
    """Return the fewest latents within one standard error of the best, the number of the best, and curves.

    Where no communication is found, there is nothing to count.
    """
    claims, useful, curves = [], {}, []
    for pair in study.pairs:
        shared, many = communication[pair].evidence, study.model.across
        claim = Claim(Question.DIMENSIONS, *study.called(pair), float("nan"), "by cross-validation", evidence=shared)
        if not study.predictions:
            useful[pair] = many
            claims.append(replace(claim, note=communication[pair].note))
            continue
        folds = _explained(study, pair)
        useful[pair] = int(folds.mean(0).argmax())
        chosen = _fewest(folds)
        if shared:
            note = "the fewest latents that predict trials left out within one standard error of the best number"
            if chosen == many:
                note += "; as many as were fitted: there may be more"
            samples = [float(_fewest(_explained(study, pair, _rows(study)))) for _ in range(study.settings.resamples)]
            spread = outwards(interval(samples), float(chosen)) if samples else None
            note += "; interval: resampled trials, predicted by the same fits"
            claim = replace(claim, value=float(chosen), interval=spread, note=note)
        elif shared is None:
            claim = replace(claim, note=study.unjudged)
        else:
            claim = replace(claim, note="nothing is counted where no communication is found")
        claims.append(claim)
        mean = folds.mean(0)
        error = folds.std(0, ddof=1) / len(folds) ** 0.5 if len(folds) > 1 else np.zeros_like(mean)
        curves.append(
            Profile(
                "rank",
                *study.called(pair),
                "variance of trials left out that is predicted",
                {"latents across regions": np.arange(many + 1.0)},
                mean,
                mean - error,
                mean + error,
                marks={"1-SE number": float(chosen)} if shared else {},
                note="mean of both ways; standard error over folds",
            )
        )
    return claims, useful, curves


def _explained(study: Study, pair: tuple[int, int], rows: Tensor | None = None) -> Float[np.ndarray, "fold number"]:
    """Return the share of the variance that is predicted, the mean of both ways, in the trials or a resample."""
    ways = [study.predictions[way].explained(rows) for way in (pair, pair[::-1])]
    return torch.stack(ways).mean(0).cpu().numpy()


def _fewest(folds: Float[np.ndarray, "fold number"]) -> int:
    """Return the fewest latents within one standard error of the best; where regions communicate, at least one."""
    number, some = list(range(1, folds.shape[1])), folds[:, 1:]
    return fewest_within_one_error(-some, number) if len(folds) > 1 else 1 + int(some.mean(0).argmax())


def _rows(study: Study) -> Int[Tensor, " trial"]:
    """Return a resample of the trials that are predicted, fold by fold."""
    fold = study.fold[study.fold > 0].cpu()
    parts = [(fold == k).nonzero()[:, 0] for k in fold.unique()]
    return torch.cat([rows[bootstrap(len(rows), study.generator)] for rows in parts]).to(study.fold.device)
