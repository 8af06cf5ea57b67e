"""How far regions act on each other in refits to the observed trials, to recombined ones, and to resamples.

The observed trials and those recombined by chance are fitted by the same protocol: from regions that do not act on each
other, by the same number of passes of EM over the dynamics, with what the units show as it is. Recombined trials bring
together what regions did in different trials of the same condition and of the same part of the session, or, in a long
session, at different times.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.claims.influence_channels import Channels, apart
from lvmzoo.claims.influence_measures import Influence, measure
from lvmzoo.claims.influence_surrogates import rearranged
from lvmzoo.claims.nulls import bootstrap
from lvmzoo.claims.surrogates import CircularShifts, TrialPermutations
from lvmzoo.findings import Progress, quiet_progress
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments, expectations
from lvmzoo.inference.maximization import solve_initial
from lvmzoo.inference.regional_maximization import solve_regional_dynamics
from lvmzoo.inference.regional_refits import Seen, refit_together
from lvmzoo.inference.regional_structure import Structure

__all__ = ["PASSES", "chance", "refit", "resampled"]

TOGETHER = 2**18  # elements of the states of all bins of the cases that are refitted together: 2 MB an array
REFITTED = ("dynamics", "dynamics_noise", "initial_mean", "initial_covariance")
PASSES = 15  # of EM, for the observed trials as for recombined ones


def chance(
    channels: Channels,
    structure: Structure,
    surrogates: TrialPermutations | CircularShifts | None,
    frequencies: Float[Tensor, " frequency"],
    draws: int,
    seed: int,
    progress: Progress = quiet_progress,
) -> tuple[Influence, Influence]:
    """Return what the observed trials say, as one case, and what recombined ones do; both by the same protocol."""
    generator = torch.Generator().manual_seed(seed)

    def cases() -> Iterator[Channels]:
        yield channels
        if surrogates is not None:
            yield from (rearranged(channels, surrogates, generator) for _ in range(draws))

    def told(fraction: float) -> None:
        progress("regions against chance", fraction)

    found = _measured(channels, cases(), draws + 1, structure, frequencies, told)
    return Influence(*(value[:1] for value in found)), Influence(*(value[1:] for value in found))


def resampled(
    channels: Channels,
    structure: Structure,
    frequencies: Float[Tensor, " frequency"],
    draws: int,
    seed: int,
    progress: Progress = quiet_progress,
) -> Influence | None:
    """Return what resamples of the trials say, by the protocol of the observed trials; None without any."""
    if not draws:
        return None
    generator = torch.Generator().manual_seed(seed)
    cases = (channels.trials(bootstrap(len(channels.valid), generator)) for _ in range(draws))

    def told(fraction: float) -> None:
        progress("resampling trials", fraction)

    return _measured(channels, cases, draws, structure, frequencies, told)


def _measured(
    channels: Channels,
    cases: Iterator[Channels],
    number: int,
    structure: Structure,
    frequencies: Float[Tensor, " frequency"],
    told: Callable[[float], None],
) -> Influence:
    """Return what the fit of each case from regions apart says, fitting as many of them at once as is quick.

    Cases have as many trials and bins as ``channels``.
    """
    start, allowed = _alone(channels, structure), structure.among(channels.regions)
    together = max(1, TOGETHER // max(1, channels.valid.numel() * structure.size))
    found: list[Influence] = []
    done = 0
    while chunk := list(itertools.islice(cases, together)):
        found.append(measure(*refit(start, chunk, structure, allowed, PASSES), channels, structure, frequencies))
        done += len(chunk)
        told(done / number)
    return Influence(*(torch.cat(values) for values in zip(*found, strict=True)))


def _alone(channels: Channels, structure: Structure) -> LinearGaussian:
    """Return the system of regions that do not act on each other; none depends on which trials belong together."""
    model, nothing = apart(channels.model, structure), structure.among(())
    for _ in range(PASSES):
        fitted, _ = refit(model, [channels], structure, nothing, 1)
        model = apart(fitted._replace(**{name: getattr(fitted, name)[0] for name in REFITTED}), structure)
    return model


def refit(
    model: LinearGaussian,
    cases: Sequence[Channels],
    structure: Structure,
    allowed: Bool[Tensor, "state state"],
    passes: int,
) -> tuple[LinearGaussian, Moments]:
    """Return the systems of all cases after some passes of EM over dynamics and start, and moments of the last pass.

    All cases begin with the same system, and have as many trials and bins.
    """
    seen = [_seen(model, case) for case in cases]
    whole = [each for each in seen if each is not None]
    if len(whole) == len(seen):
        return refit_together(model, whole, structure, allowed, passes)
    fits = [_refit_with_gaps(model, case, structure, allowed, passes) for case in cases]
    models, moments = zip(*fits, strict=True)
    stacked = {name: torch.stack([getattr(each, name) for each in models]) for name in REFITTED}
    return model._replace(**stacked), Moments(*(torch.stack(values) for values in zip(*moments, strict=True)))


def _seen(model: LinearGaussian, case: Channels) -> Seen | None:
    """Return what the trials tell of the latents; None where they have gaps."""
    falls = case.valid[:, 1:] <= case.valid[:, :-1]
    if not bool(falls.all()) or not torch.equal(case.observed, case.valid[..., None].expand_as(case.observed)):
        return None
    return Seen(case.activity @ model.readout, case.valid.sum(1))


def _refit_with_gaps(
    model: LinearGaussian,
    channels: Channels,
    structure: Structure,
    allowed: Bool[Tensor, "state state"],
    passes: int,
) -> tuple[LinearGaussian, Moments]:
    assert passes > 0
    for _ in range(passes):
        moments = expectations(model, channels.activity, channels.valid, channels.observed)
        A, _, Q = solve_regional_dynamics(model, moments, structure.regions, allowed, structure.rank, structure.columns)
        mean, covariance = solve_initial(model, moments)
        model = model._replace(dynamics=A, dynamics_noise=Q, initial_mean=mean, initial_covariance=covariance)
    return model, moments
