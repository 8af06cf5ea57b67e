"""A recurrent encoder of trials with bins that were not observed.

The reverse-time encoder of latent ODEs (Rubanova, Chen, Duvenaud 2019, Latent ODEs for irregularly-sampled time series,
doi:10.48550/arXiv.1907.03907), with the time since the last visit as a feature.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["ReverseEncoder"]


class ReverseEncoder(nn.Module):
    """A gated recurrent network that reads a trial from its end, and visits the bins in which something was observed.

    The first bin is visited in any case, so that what it returns refers to the beginning of the trial. Bins that are
    not visited, padding among them, change nothing; how many were passed over since the last visit is one more feature.

    Parameters
    ----------
    channels : features of a bin.
    hidden : size of the state.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.GRU(channels + 1, hidden, batch_first=True)

    def forward(
        self, features: Float[Tensor, "trial bin channel"], seen: Bool[Tensor, "trial bin"]
    ) -> Float[Tensor, "trial hidden"]:
        """Return the state after the visit to the first bin; ``features`` must be finite everywhere."""
        trials, bins = seen.shape
        visited = seen.clone()
        visited[:, 0] = True
        # Visited bins, last first, then the others, which the network passes too late to matter.
        when = torch.arange(bins, device=seen.device)
        order = torch.where(visited, -when, when + 1).argsort(dim=1)
        count = visited.sum(1)
        longest = int(count.max()) if trials else 1
        order = order[:, :longest]
        skipped = torch.zeros(trials, longest, 1, dtype=features.dtype, device=features.device)
        skipped[:, 1:, 0] = (order[:, :-1] - order[:, 1:] - 1).clamp(min=0).log1p()
        taken = features.gather(1, order.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        states = self.network(torch.cat([taken, skipped], -1))[0]
        return states[torch.arange(trials, device=seen.device), count - 1]
