"""Convolutional encoders with a short receptive field.

The offset encoders of Schneider, Lee & Mathis, "Learnable latent embeddings for joint behavioural and neural
analysis", Nature 617, 360-368 (2023), doi:10.1038/s41586-023-06031-6: a convolution of two bins, residual convolutions
of three, and a last convolution into the latents. Nothing is padded: each layer shortens the window.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BinConvolution", "OffsetEncoder", "kernels"]


def kernels(receptive_field_bins: int) -> tuple[int, ...]:
    """Return the kernel sizes, in bins, of an encoder that looks at ``receptive_field_bins`` bins.

    For 5, 10, 15 and 36 bins these are the published offset models; one bin gives a network on each bin alone.
    """
    if receptive_field_bins == 1:
        return (1, 1, 1)
    last = 1 if receptive_field_bins == 2 else 3 - receptive_field_bins % 2
    return (2, *[3] * ((receptive_field_bins - 1 - last) // 2), last)


class BinConvolution(nn.Module):
    """Convolution over the leading axis, without padding.

    With bins first, the bins that one tap sees lie end to end in memory, so each tap is one matrix product on a view:
    nothing is unfolded. On a CPU this takes two thirds of the time of ``conv1d``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs * kernel)  # as torch initializes Conv1d
        self.weight = nn.Parameter(torch.empty(kernel, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, signal: Float[Tensor, "bin window input"]) -> Float[Tensor, "shorter window output"]:
        """Return the convolution of every window."""
        kernel, inputs, outputs = self.weight.shape
        shorter = signal.shape[0] - kernel + 1
        result: Tensor = self.bias
        for tap in range(kernel):
            result = torch.addmm(result, signal[tap : tap + shorter].reshape(-1, inputs), self.weight[tap])
        return result.view(shorter, -1, outputs)


class OffsetEncoder(nn.Module):
    """Residual convolutions that turn each receptive field of activity into one vector.

    Parameters
    ----------
    units : channels of the input.
    hidden : channels of the hidden layers.
    latents : channels of the output.
    receptive_field_bins : bins that one output depends on.
    """

    def __init__(self, units: int, hidden: int, latents: int, receptive_field_bins: int) -> None:
        super().__init__()
        first, *middle, last = kernels(receptive_field_bins)
        self.first = BinConvolution(units, hidden, first)
        self.middle = nn.ModuleList(BinConvolution(hidden, hidden, kernel) for kernel in middle)
        self.last = BinConvolution(hidden, latents, last)

    def forward(self, activity: Float[Tensor, "bin window unit"]) -> Float[Tensor, "shorter window latent"]:
        """Return one vector for each bin whose whole receptive field lies in the window."""
        hidden = functional.gelu(self.first(activity))
        for layer in self.middle:
            deeper = functional.gelu(layer(hidden))
            crop = (hidden.shape[0] - deeper.shape[0]) // 2
            hidden = deeper + hidden[crop : crop + deeper.shape[0]]
        return self.last(hidden)
