"""The bins that an encoder looks at, updated as a recording goes on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["BinsInView", "nothing_yet"]


class BinsInView(NamedTuple):
    """The last bins of each trial; before its first valid bin, that bin is repeated."""

    session: str
    activity: Float[Tensor, "bin trial unit"]  # as the encoder sees it, the oldest bin first
    valid: Bool[Tensor, "recent trial"]  # of the bin that the encoder's output belongs to, and of those after it
    begun: Bool[Tensor, " trial"]  # has had a valid bin

    def after(self, newest: Float[Tensor, "1 trial unit"], valid: Bool[Tensor, " trial"]) -> BinsInView:
        """Return what is in view when one more bin has come."""
        activity = torch.cat([self.activity[1:], newest])
        if not bool(self.begun.all()):
            first = valid & ~self.begun
            activity[:, first] = newest[:, first]
        return BinsInView(self.session, activity, torch.cat([self.valid[1:], valid[None]]), self.begun | valid)


def nothing_yet(session: str, like: Float[Tensor, ...], bins: int, trials: int, units: int, lag: int) -> BinsInView:
    """Return the view before the first bin.

    Parameters
    ----------
    session : whose units these are.
    like : a tensor of the type and on the device of the activity.
    bins, trials, units : sizes of the view.
    lag : bins after the one that the encoder's output belongs to.
    """
    none = torch.zeros(lag + 1, trials, dtype=torch.bool, device=like.device)
    return BinsInView(session, like.new_zeros(bins, trials, units), none, none[0])
