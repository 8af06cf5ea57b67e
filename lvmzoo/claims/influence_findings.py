"""Which regions of a fitted linear dynamical system drive each other: claims with nulls and intervals, and curves."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.claims.influence_channels import each_by_itself, region_channels
from lvmzoo.claims.influence_profiles import by_block, by_dimension, by_frequency, by_lag, by_time
from lvmzoo.claims.influence_refits import PASSES, chance, resampled
from lvmzoo.claims.influence_study import Study
from lvmzoo.claims.influence_surrogates import chance_of, stretched
from lvmzoo.claims.support import too_few
from lvmzoo.findings import Findings, Progress, quiet_progress
from lvmzoo.inference.emissions import Emissions
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.regional_structure import Structure

__all__ = ["influence"]

FREQUENCIES = 33  # from zero to the fastest that bins can show


def influence(
    model: LinearGaussian,
    structure: Structure,
    emissions: Emissions,
    batch: Batch,
    *,
    permutations: int,
    resamples: int,
    seed: int,
    progress: Progress = quiet_progress,
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Findings:
    """Return claims about every pair of regions of a session that the model connects, and the curves behind them.

    Parameters
    ----------
    model, structure, emissions : fitted parameters of the session, what belongs to whom, how latents show.
    batch : all training trials of the session, in the order of recording.
    permutations, resamples : numbers of recombinations of trials for the null, and of bootstrap samples; 0: none.
    seed : of both.
    progress : is told how far it is.
    inputs : known inputs, where the model has a drive.
    """
    # A pass over counts takes several steps of Newton's method, and a refit several passes: about as long.
    whole = PASSES + permutations + 1 + resamples

    def part(before: int, share: int) -> Progress:
        return lambda what, fraction: progress(what, (before + share * fraction) / whole)

    alone = each_by_itself(structure, emissions, batch, inputs, PASSES, part(0, PASSES))
    apart = region_channels(alone, structure, emissions, batch, inputs)
    neutral, surrogates, why = chance_of(apart, batch.condition, structure.max_lag)
    draws = 0 if surrogates is None else permutations
    copies = resamples if int((neutral.valid.sum(1) > 1).sum()) > 1 else 0
    frequencies = torch.linspace(0, 0.5, FREQUENCIES, dtype=torch.float64)
    observed, null = chance(neutral, structure, surrogates, frequencies, draws, seed, part(PASSES, permutations + 1))
    boot = resampled(neutral, structure, frequencies, copies, seed, part(whole - resamples, resamples))
    found = region_channels(model, structure, emissions, batch, inputs)
    study = Study(
        structure,
        tuple(found.regions),
        batch,
        frequencies,
        observed,
        null,
        boot,
        "" if surrogates is None else surrogates.name,
        why or _why_not(draws, copies),
    )
    claims = [study.communication(*pair) for pair in study.pairs]
    claims += [study.direction(*edge) for edge in study.edges]
    profiles = [by_frequency(study, *edge) for edge in study.edges]
    claims += [study.delay(*pair) for pair in study.pairs]
    if structure.max_lag > 1:
        profiles += [by_lag(study, *pair) for pair in study.pairs]
    claims += [study.dimensions(*edge) for edge in study.edges]
    profiles += [by_dimension(study, *edge) for edge in study.edges]
    # A long session is resampled in the stretches that its null is made of.
    same = found.valid.shape == neutral.valid.shape
    profiles += by_block(study, found, found if same else stretched(found, neutral.valid.shape[1]), seed)
    return Findings(tuple(claims), (*profiles, *by_time(study, found, model.readout)))


def _why_not(draws: int, copies: int) -> str:
    """Return why nothing can be told; nothing where it can."""
    if not draws:
        return "no null was asked for"
    return too_few(draws) or ("" if copies else "no resamples were asked for")
