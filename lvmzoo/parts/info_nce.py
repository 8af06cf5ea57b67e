"""The generalized InfoNCE loss, with negatives shared by the batch and gathered over processes.

Schneider, Lee & Mathis, Nature 617, 360-368 (2023), doi:10.1038/s41586-023-06031-6, after van den Oord, Li & Vinyals
(2018), arXiv:1807.03748. With similarity ``phi`` over temperature, references ``r``, positives ``p``, negatives ``n``:

    L = mean_i[ -phi(r_i, p_i) + log sum_j exp phi(r_i, n_j) ]

The positive is not in the sum, and the sum is not a mean: L is about ``log n`` where nothing is learned.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["InfoNCE", "gather", "goodness_of_fit"]


class InfoNCE(nn.Module):
    """The loss as two terms whose sum it is: alignment of positives and uniformity of negatives.

    Parameters
    ----------
    similarity : "cosine" (of vectors that are already on the unit sphere) or "euclidean" (minus the squared distance).
    temperature : divides the similarity.
    minimum_temperature : None keeps the temperature fixed; otherwise it is learned and never falls below this.
    """

    def __init__(self, similarity: str, temperature: float, minimum_temperature: float | None = None) -> None:
        super().__init__()
        self.similarity = similarity
        self.minimum_temperature = minimum_temperature
        start = torch.tensor(-math.log(temperature))
        if minimum_temperature is None:
            self.register_buffer("log_inverse_temperature", start)
        else:
            self.log_inverse_temperature = nn.Parameter(start)

    @property
    def inverse_temperature(self) -> Float[Tensor, ""]:
        """What the similarity is multiplied by; at the floor its gradient is zero."""
        inverse = self.log_inverse_temperature.exp()
        return inverse if self.minimum_temperature is None else inverse.clamp(max=1 / self.minimum_temperature)

    def forward(
        self,
        reference: Float[Tensor, "reference latent"],
        positive: Float[Tensor, "reference latent"],
        negative: Float[Tensor, "negative latent"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return alignment and uniformity, in nats."""
        aligned = (reference * positive).sum(-1)
        spread = reference @ negative.T
        if self.similarity == "euclidean":
            aligned = -(reference - positive).square().sum(-1)
            spread = 2 * spread - reference.square().sum(-1, keepdim=True) - negative.square().sum(-1)
        scale = self.inverse_temperature
        return -scale * aligned.mean(), (scale * spread).logsumexp(1).mean()

    def normalize(self, latents: Float[Tensor, "*bin latent"]) -> Float[Tensor, "*bin latent"]:
        """Return the vectors on the unit sphere if the similarity is a cosine."""
        return functional.normalize(latents, dim=-1) if self.similarity == "cosine" else latents


def goodness_of_fit(info_nce: float, negatives: int) -> float:
    """Return how much an InfoNCE in nats is below that of a constant embedding, in bits: higher is better."""
    return (math.log(negatives) - info_nce) / math.log(2)


def gather(rows: Float[Tensor, "row latent"]) -> Float[Tensor, "all_rows latent"]:
    """Return the rows of all processes, in order of rank; the rows themselves where there is one process.

    The gradient of a row is the sum of what every process sends back, so that with losses averaged over processes the
    gradient is that of one process with all rows. Every process must hold the same number of rows.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    return rows if torch.distributed.get_world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        everywhere = gradients[0].contiguous()
        torch.distributed.all_reduce(everywhere)
        return everywhere.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]
