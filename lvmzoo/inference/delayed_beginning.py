"""Fits of processes with delays to one session, from starting values that its likelihood chooses among."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lvmzoo.inference.delayed_fit import EM_PASSES
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings, refine
from lvmzoo.inference.delayed_start import Start, starting_processes
from lvmzoo.inference.lagged_moments import LaggedMoments, Recorded, lagged_moments
from lvmzoo.inference.maximization import noise_floor

__all__ = ["fit_anew", "moments_of", "start_of"]

LONGEST_LAG = 40  # bins at which starting values look for delays
TAPERS = (4.0, 1e6)  # bins over which the weight of a lag falls, that starting values are looked for with
TRIED = 5  # passes of EM that compare them


def fit_anew(
    data: Recordings, regions: Sequence[slice], across: int, within: int, counts: bool, passes: int, gain: float
) -> DelayedProcesses:
    """Fit one session from its own starting values; see ``refine`` for the last two parameters."""
    moments = moments_of(data)
    start = start_of(data, moments, regions, across, within, counts)
    model = DelayedProcesses(*start[:3], moments.mean, start.noise, tuple(regions))
    return refine(model, data, counts, passes, gain, EM_PASSES)[0]


def moments_of(data: Recordings) -> LaggedMoments:
    """Return the moments that starting values need: at lags up to half the longest trial."""
    trials, bins, units = data.activity.shape
    lags = 1 + min(bins // 2, LONGEST_LAG)
    recorded = Recorded(*data, torch.arange(trials, device=data.valid.device))
    return lagged_moments(lambda: [recorded], units, lags)


def start_of(
    data: Recordings,
    moments: LaggedMoments,
    regions: Sequence[slice],
    across: int,
    within: int,
    counts: bool,
    shared: Start | None = None,
) -> Start:
    """Return starting values of one session: those from which a few passes of EM go highest.

    Slow processes leave errors at all lags, among which a fast one is lost; weights that fall with the lag find it, but
    may miss a long delay.
    """
    floor = noise_floor(moments.covariance[0].diagonal(), counts)
    longest = float(data.valid.sum(1).max()) / 2

    def begin(taper: float) -> Start:
        fading = moments.pairs * torch.exp(-torch.arange(len(moments.pairs)).to(moments.pairs) / taper)
        return starting_processes(moments._replace(pairs=fading), regions, across, within, floor, longest, shared)

    if shared is not None or not across or len(moments.pairs) < 2:
        return begin(TAPERS[-1])
    found = []
    for taper in TAPERS:
        start = begin(taper)
        model = DelayedProcesses(*start[:3], moments.mean, start.noise, tuple(regions))
        found.append((refine(model, data, counts, TRIED, 0.0, TRIED)[1], start))
    return max(found, key=lambda pair: pair[0])[1]
