"""All trials of a session side by side, for fits that go over them again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.inference.delayed_refits import Recordings

__all__ = ["trials_of"]


def trials_of(layout: Layout, batches: Iterable[Batch], activity_of: Callable[[Batch], Tensor]) -> Recordings:
    """Return the trials of one session that have a valid bin; bins beyond a trial's end are not valid.

    Parameters
    ----------
    layout : of the session.
    batches : of any sessions.
    activity_of : a batch's activity as it is modeled (trial, bin, unit).
    """
    own = [batch for batch in batches if batch.layout.session == layout.session]
    size = (sum(batch.n_trials for batch in own), max((batch.n_bins for batch in own), default=1))
    device = own[0].activity.device if own else None
    activity = torch.zeros(*size, layout.n_units, dtype=torch.float64, device=device)
    valid = torch.zeros(size, dtype=torch.bool, device=device)
    observed = torch.zeros(activity.shape, dtype=torch.bool, device=device)
    first = 0
    for batch in own:
        rows, when = slice(first, first + batch.n_trials), slice(0, batch.n_bins)
        activity[rows, when], valid[rows, when] = activity_of(batch), batch.valid
        observed[rows, when] = batch.observed
        first += batch.n_trials
    used = valid.any(1)
    return Recordings(activity[used], valid[used], observed[used])
