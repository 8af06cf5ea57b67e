"""Convolutional encoders with a short receptive field.

The offset encoders of Schneider, Lee & Mathis, "Learnable latent embeddings for joint behavioural and neural
analysis", Nature 617, 360-368 (2023), doi:10.1038/s41586-023-06031-6: a convolution of two bins, residual convolutions
of three, and a last convolution into the latents. Nothing is padded: each layer shortens the window.
"""

from __future__ import annotations

import math
from typing import Any

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
    nothing is unfolded. On a CPU this takes about half the time of ``conv1d``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs * kernel)  # as torch initializes Conv1d
        self.weight = nn.Parameter(torch.empty(kernel, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, signal: Float[Tensor, "bin window input"]) -> Float[Tensor, "shorter window output"]:
        """Return the convolution of every window."""
        operands: tuple[Tensor, ...] = (signal.contiguous(), self.weight, self.bias)
        device = signal.device.type
        if torch.is_autocast_enabled(device):  # sums in place take no part in autocasting
            operands = tuple(operand.to(torch.get_autocast_dtype(device)) for operand in operands)
        return _Convolve.apply(*operands)


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


class _Convolve(torch.autograd.Function):
    """Sums the taps in place; autograd alone would fill and add an array of the signal's size for each."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(signal, weight)
        shorter = signal.shape[0] - len(weight) + 1
        result = torch.addmm(bias, signal[:shorter].flatten(0, 1), weight[0])
        for tap in range(1, len(weight)):
            result.addmm_(signal[tap : tap + shorter].flatten(0, 1), weight[tap])
        return result.unflatten(0, (shorter, -1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        signal, weight = ctx.saved_tensors
        shorter, gradient = len(gradients[0]), gradients[0].flatten(0, 1)
        taps = [signal[tap : tap + shorter].flatten(0, 1) for tap in range(len(weight))]
        of_weight = torch.stack([tap.T @ gradient for tap in taps])
        of_signal = None
        if ctx.needs_input_grad[0]:
            of_signal = torch.zeros_like(signal)
            for tap in range(len(weight)):
                of_signal[tap : tap + shorter].flatten(0, 1).addmm_(gradient, weight[tap].T)
        return of_signal, of_weight, gradient.sum(0)
