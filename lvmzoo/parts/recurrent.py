"""Bidirectional recurrent encoders of trials with different lengths."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["BidirectionalEncoder", "lagged"]


class BidirectionalEncoder(nn.Module):
    """A GRU in each direction over the first bins of each trial; what comes after them is never looked at."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(channels, hidden, bidirectional=True)

    def forward(
        self, signal: Float[Tensor, "bin trial channel"], lengths: Int[Tensor, " trial"]
    ) -> tuple[Float[Tensor, "bin trial twice_hidden"], Float[Tensor, "trial twice_hidden"]]:
        """Return the states of both directions, 0 beyond a trial's length, and their last ones (``lengths`` >= 1)."""
        if bool((lengths == len(signal)).all()):
            states, last = self.recurrent(signal)
        else:
            packed, last = self.recurrent(pack_padded_sequence(signal, lengths.cpu(), enforce_sorted=False))
            states, _ = pad_packed_sequence(packed, total_length=len(signal))
        return states, torch.cat([last[0], last[1]], -1)


def lagged(states: Float[Tensor, "bin trial twice_hidden"]) -> Float[Tensor, "bin trial twice_hidden"]:
    """Return for each bin the forward state one bin earlier and the backward state one bin later, 0 at the ends.

    What a bin is told about thus never holds its own activity.
    """
    ahead, back = states.chunk(2, -1)
    nothing = torch.zeros_like(ahead[:1])
    return torch.cat([torch.cat([nothing, ahead[:-1]]), torch.cat([back[1:], nothing])], -1)
