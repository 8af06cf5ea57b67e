"""Coordinated dropout: what the encoders see of a sample and what the readout learns from are disjoint.

Keshtkaran, Pandarinath (2019), Enabling hyperparameter optimization in sequential autoencoders for spiking neural data,
Advances in Neural Information Processing Systems 32, doi:10.48550/arXiv.1908.07896.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["blocked", "coordinated_dropout"]


def coordinated_dropout(
    signal: Float[Tensor, "*shape"], uniform: Float[Tensor, "*shape"], probability: float
) -> tuple[Float[Tensor, "*shape"], Bool[Tensor, "*shape"]]:
    """Return the signal with some entries 0 and the others scaled up, and which ones were kept.

    ``uniform`` holds draws between 0 and 1: an entry is dropped where its draw is below the probability.
    """
    keep = uniform >= probability
    return torch.where(keep, signal / (1 - probability), 0.0), keep


def blocked(
    values: Float[Tensor, "*shape"], learn: Bool[Tensor, "*shape"], gain: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Return the same values; gradients flow through those of ``learn`` alone, times ``gain``.

    With a gain of one over the fraction that is learned from, the gradient of a sum is on average that of all of it.
    """
    held = values.detach()
    return held + torch.where(learn, values - held, 0.0) * gain
