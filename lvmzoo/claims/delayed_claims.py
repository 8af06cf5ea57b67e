"""Whether delays differ from zero, and how sure they are: likelihood ratios, and refits to resamples of the trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.claims.delayed_communication import shared_strength
from lvmzoo.claims.nulls import bootstrap
from lvmzoo.inference.delayed_expectations import expectations
from lvmzoo.inference.delayed_fit import free_delays
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings, Refits, refine

__all__ = ["Draws", "Tested", "fisher_draws", "resampled", "test_delays"]

PASSES = 60  # of a fit to all trials at most
GAIN = 0.05  # nats over five steps below which it is over
CLOSE = 10.0  # twice the log of a likelihood ratio, below which the fit with all delays is looked for once more
QUICK = 8  # passes of a refit to resampled trials, once those before have told how the likelihood curves
LEARNERS, LEARNING = 5, 20  # refits that tell that at most, and their passes
FISHER_DRAWS = 1000


class Tested(NamedTuple):
    """The fit to all trials, and twice the log of the likelihood ratio of each delay against zero."""

    model: DelayedProcesses
    ratios: dict[tuple[int, int, int], float]  # (region, other region, latent)


def test_delays(
    model: DelayedProcesses,
    data: Recordings,
    counts: bool,
    pairs: list[tuple[int, int]],
    progress: Callable[[float], None],
) -> Tested:
    """Refit with each delay between two regions at zero, everything else free.

    Where a refit without a delay finds a likelihood above that of the fit with all delays, the search with all delays
    goes on from there: ratios compare the best of both.
    """
    full, highest = refine(model, data, counts, PASSES, GAIN)
    cases = [(a, b, j) for a, b in pairs for j in range(model.across)]
    found: dict[tuple[int, int, int], float] = {}
    for number, case in enumerate(cases):
        null, found[case] = _without(full, data, counts, case)
        if 2 * (highest - found[case]) < CLOSE:
            again, above = refine(null, data, counts, PASSES, GAIN)
            if above > highest:
                full, highest = again, above
        progress((number + 1) / len(cases))
    return Tested(full, {case: max(0.0, 2 * (highest - value)) for case, value in found.items()})


def _without(
    model: DelayedProcesses, data: Recordings, counts: bool, case: tuple[int, int, int]
) -> tuple[DelayedProcesses, float]:
    """Refit with no delay between two regions for one process."""
    one, other, latent = case
    across = model.across
    basis = free_delays(*model.delays.shape)
    kept, gone = one * across + latent, other * across + latent
    delays = model.delays.clone()
    if one == 0:
        basis = basis[:, basis[gone] == 0]
        delays[other, latent] = 0.0
    else:
        tied = basis[:, basis[kept] > 0] + basis[:, basis[gone] > 0]
        rest = (basis[kept] == 0) & (basis[gone] == 0)
        basis = torch.cat([basis[:, rest], tied], 1)
        delays[[one, other], latent] = delays[[one, other], latent].mean()
    return refine(model._replace(delays=delays), data, counts, PASSES, GAIN, 0, basis)


class Draws(NamedTuple):
    """What refits, or the curvature of the likelihood, say of parameters."""

    delays: Float[Tensor, "draw region across"]
    timescales: Float[Tensor, "draw across"]
    strengths: Float[Tensor, "draw pair across"]  # of what two regions share


def resampled(
    model: DelayedProcesses,
    data: Recordings,
    counts: bool,
    pairs: list[tuple[int, int]],
    resamples: int,
    generator: torch.Generator,
    progress: Callable[[float], None],
) -> Draws:
    """Refit to resamples of the trials, from the fit to all of them."""
    draws = [bootstrap(len(data.valid), generator).to(data.valid.device) for _ in range(resamples)]
    learners = draws[: min(LEARNERS, resamples // 4)]
    plan = [(rows, LEARNING) for rows in learners] + [(rows, QUICK) for rows in draws]
    refits, fits = Refits(model, data, counts), []
    for number, (rows, passes) in enumerate(plan):
        fits.append(refits(rows, passes))
        progress((number + 1) / len(plan))
    fits = fits[-resamples:]
    return Draws(
        torch.stack([fit.delays for fit in fits]),
        torch.stack([fit.timescales[: fit.across] for fit in fits]),
        torch.stack([torch.stack([shared_strength(fit, a, b) for a, b in pairs]) for fit in fits]),
    )


def fisher_draws(
    model: DelayedProcesses, data: Recordings, pairs: list[tuple[int, int]], generator: torch.Generator
) -> Draws:
    """Draw delays and timescales around the fit by their Fisher information, with readouts taken as known."""
    latents, across = len(model.timescales), model.across
    information = expectations(model, *data).information
    basis = torch.block_diag(torch.eye(latents, dtype=torch.float64), free_delays(*model.delays.shape)).to(information)
    reduced = basis.T @ information @ basis
    values, vectors = torch.linalg.eigh(reduced)
    spread = vectors * values.clamp(min=1e-8 * float(values.max())).rsqrt()
    noise = torch.randn(FISHER_DRAWS, len(values), generator=generator, dtype=torch.float64).to(information)
    change = noise @ spread.T @ basis.T
    delays = model.delays + change[:, latents:].unflatten(1, model.delays.shape)
    strengths = torch.stack([shared_strength(model, a, b) for a, b in pairs])
    return Draws(
        delays,
        model.timescales[:across] * change[:, :across].exp(),
        strengths.expand(FISHER_DRAWS, -1, -1),
    )
