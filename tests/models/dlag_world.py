"""Regions that see the same processes with planted delays, and how a model is fitted without a trainer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.inference.delayed_expectations import draw
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.models.multi_region.dlag import DLAG, DLAGConfig

BIN_S = 0.02


def simulate(
    seed: int,
    delays_ms: Sequence[Sequence[float]],
    timescales: Sequence[float],
    units: Sequence[int] = (25, 25),
    trials: int = 80,
    bins: int = 50,
    noise: float = 1.0,
    session: str = "planted",
) -> Batch:
    """Return trials of regions "A", "B", ...; ``delays_ms`` are those of all regions but the first.

    ``timescales`` are in bins: of the processes across regions, then of those within each.
    """
    generator = torch.Generator().manual_seed(seed)
    across = len(delays_ms[0])
    within = (len(timescales) - across) // len(units)
    edges = [sum(units[:k]) for k in range(len(units) + 1)]
    delays = torch.tensor([[0.0] * across, *delays_ms], dtype=torch.float64) / (1e3 * BIN_S)
    readout = torch.randn(sum(units), across + within, generator=generator, dtype=torch.float64)
    model = DelayedProcesses(
        torch.tensor(timescales, dtype=torch.float64),
        delays,
        readout,
        torch.zeros(sum(units), dtype=torch.float64),
        torch.full((sum(units),), noise, dtype=torch.float64),
        tuple(slice(a, b) for a, b in itertools.pairwise(edges)),
    )
    return batch(draw(model, trials, bins, seed)[1], units, session=session)


def batch(
    activity: Tensor, units: Sequence[int], lengths: Sequence[int] | None = None, session: str = "planted"
) -> Batch:
    """Return complete, or ragged, trials; NaN is not observed."""
    trials, bins, count = activity.shape
    valid = torch.ones(trials, bins, dtype=torch.bool)
    if lengths is not None:
        valid = torch.arange(bins) < torch.tensor(list(lengths))[:, None]
    layout = Layout(
        session,
        dict(zip("ABCDEFGH"[: len(units)], units, strict=True)),
        tuple(map(str, range(count))),
        Observation.CONTINUOUS,
        BIN_S,
        longest_bins=bins,
    )
    observed = valid[..., None] & ~activity.isnan()
    index = torch.arange(trials)
    return Batch(activity, valid, observed, {}, {}, index, torch.zeros_like(index), layout)


def fit(batches: Sequence[Batch], config: DLAGConfig, passes: int = 100, tolerance: float = 1e-6) -> DLAG:
    """Fit until the likelihood gains less than a fraction of itself."""
    model = DLAG(config, [one.layout for one in batches])
    model.prepare(batches)
    before = -float("inf")
    for _ in range(passes):
        parts = [model.statistics(one) for one in batches]
        total = type(parts[0])(*(torch.stack(leaves).sum(0) for leaves in zip(*parts, strict=True)))
        reached = float(model.update(total))
        if model.settled:
            if reached - before < tolerance * abs(reached):
                break
            before = reached
    model.finish()
    return model


def order(model: DLAG, timescales: Sequence[float]) -> list[int]:
    """Return which latent across regions is nearest to each of these timescales (bins)."""
    found = model.timescales[: model.across].log()
    return [int((found - torch.tensor(tau).log()).abs().argmin()) for tau in timescales]
