"""Starting values of sessions that share timescales and delays, and have readouts of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lvmzoo.inference.delayed_beginning import moments_of, start_of
from lvmzoo.inference.delayed_dimension import RegionalData
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.factor_analysis import positive

__all__ = ["by_variance", "start_together"]


def start_together(sessions: Sequence[RegionalData], across: int, within: int) -> DelayedProcesses:
    """Return starting values for all units, session by session.

    The session that shows the most regions, and most of them, says delays and timescales; the directions of the others
    are looked for given these. Timescales within regions are means over sessions, slow ones first.
    """
    moments = [moments_of(data) for data, _, _ in sessions]
    regions = len(sessions[0].regions)

    def shows(k: int) -> tuple[int, int]:
        data, regions, _ = sessions[k]
        return sum(region.stop > region.start for region in regions), int(data.valid.sum()) * data.activity.shape[2]

    first = max(range(len(sessions)), key=shows)
    leading = start_of(
        sessions[first].data, moments[first], sessions[first].regions, across, within, sessions[first].counts
    )
    starts = [
        leading
        if k == first
        else start_of(session.data, moments[k], session.regions, across, within, session.counts, leading)
        for k, session in enumerate(sessions)
    ]
    own = leading.timescales[across:].view(regions, within).log()
    for m in range(regions):
        there = [
            start.timescales[across:].view(regions, within)[m].log()
            for start, session in zip(starts, sessions, strict=True)
            if session.regions[m].stop > session.regions[m].start
        ]
        own[m] = torch.stack(there).mean(0)
    return DelayedProcesses(
        torch.cat([leading.timescales[:across], own.exp().flatten()]),
        leading.delays,
        torch.cat([start.readout for start in starts]),
        torch.cat([moment.mean for moment in moments]),
        torch.cat([start.noise for start in starts]),
        (),
    )


def by_variance(model: DelayedProcesses, units: Sequence[Int[Tensor, " _own"]]) -> DelayedProcesses:
    """Order processes by the variance that they explain, in private variances; the largest readout is positive.

    Parameters
    ----------
    model : of all sessions.
    units : of each region, in all sessions.
    """
    a, within = model.across, model.within
    timescales, readout = model.timescales.clone(), model.readout.clone()
    strength = model.readout.square() / model.noise[:, None]
    order = strength[:, :a].sum(0).argsort(descending=True)
    timescales[:a], readout[:, :a] = timescales[:a][order], positive(readout[:, :a][:, order])
    for m, rows in enumerate(units):
        own = strength[rows, a:].sum(0).argsort(descending=True)
        mine = slice(a + m * within, a + (m + 1) * within)
        timescales[mine] = timescales[mine][own]
        readout[rows, a:] = positive(readout[rows, a:][:, own])
    return model._replace(timescales=timescales, delays=model.delays[:, order], readout=readout)
