"""Convolutional encoders with a short receptive field.

The encoders of Schneider, Lee & Mathis, "Learnable latent embeddings for joint behavioural and neural analysis",
Nature 617, 360-368 (2023), doi:10.1038/s41586-023-06031-6: an input layer that sees the units, residual convolutions of
three, and a last convolution into the latents. Nothing is padded: each layer shortens the window. Resampling encoders
halve the rate twice on the way in, so that the same body looks at four times as many bins.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lvmzoo.errors import UserError

__all__ = ["RATE", "BinConvolution", "Body", "OffsetEncoder", "ResampledInput", "input_layer", "kernels"]

RATE = 4  # bins that a resampling encoder makes one of


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

    def forward(
        self, signal: Float[Tensor, "bin window input"], stride: int = 1, dilation: int = 1
    ) -> Float[Tensor, "shorter window output"]:
        """Return the convolution of every window, at every ``stride``-th bin, of bins ``dilation`` apart."""
        operands: tuple[Tensor, ...] = (signal.contiguous(), self.weight, self.bias)
        device = signal.device.type
        if torch.is_autocast_enabled(device):  # sums in place take no part in autocasting
            operands = tuple(operand.to(torch.get_autocast_dtype(device)) for operand in operands)
        if not torch.is_grad_enabled():  # one bin at a time, what autograd would note down takes a third of the time
            rows = _rows(len(signal), len(self.weight), stride, dilation)
            return _convolved(operands[0], operands[1], operands[2], rows)
        return _Convolve.apply(*operands, stride, dilation)


class ResampledInput(nn.Module):
    """Input layer of a resampling encoder: two convolutions that each halve the rate, 8 bins in view.

    The second one sees the units as well, at every second bin.
    """

    def __init__(self, units: int, hidden: int) -> None:
        super().__init__()
        self.fine = BinConvolution(units, hidden, 4)
        self.coarse = BinConvolution(hidden + units, hidden, 3)

    def forward(
        self, activity: Float[Tensor, "bin window unit"], every_bin: bool = True
    ) -> Float[Tensor, "shorter window hidden"]:
        """Return what the layer sees of the bins from each bin on, or from every fourth one."""
        step, apart = (1, 2) if every_bin else (2, 1)
        fine = self.fine(activity, stride=step)
        return self.coarse(torch.cat([fine, activity[::step][: len(fine)]], -1), stride=step, dilation=apart)


class Body(nn.Module):
    """All of an encoder but its input layer, which alone depends on the units.

    Parameters
    ----------
    hidden : channels of the hidden layers.
    latents : channels of the output.
    kernels : bins of each convolution; all but the last are residual.
    """

    def __init__(self, hidden: int, latents: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        *middle, last = kernels
        self.middle = nn.ModuleList(BinConvolution(hidden, hidden, kernel) for kernel in middle)
        self.last = BinConvolution(hidden, latents, last)

    def forward(
        self, entered: Float[Tensor, "bin window hidden"], dilation: int = 1
    ) -> Float[Tensor, "shorter window latent"]:
        """Return the latents; the bins of each convolution lie ``dilation`` apart."""
        hidden = functional.gelu(entered)
        for layer in self.middle:
            deeper = functional.gelu(layer(hidden, dilation=dilation))
            crop = (hidden.shape[0] - deeper.shape[0]) // 2
            hidden = deeper + hidden[crop : crop + deeper.shape[0]]
        return self.last(hidden, dilation=dilation)


def input_layer(units: int, hidden: int, receptive_field_bins: int, resample: bool) -> BinConvolution | ResampledInput:
    """Return the input layer for a number of units."""
    if resample:
        return ResampledInput(units, hidden)
    return BinConvolution(units, hidden, kernels(receptive_field_bins)[0])


class OffsetEncoder(nn.Module):
    """Residual convolutions that turn each receptive field of activity into one vector.

    Parameters
    ----------
    units : channels of the input.
    hidden : channels of the hidden layers.
    latents : channels of the output.
    receptive_field_bins : bins that one output depends on.
    resample : look at them at a quarter of the rate; 20 and 40 bins are the published models.

    Raises
    ------
    UserError
        If ``resample`` is true and the receptive field is not a multiple of 4 bins, 8 or more.
    """

    def __init__(
        self, units: int, hidden: int, latents: int, receptive_field_bins: int, resample: bool = False
    ) -> None:
        super().__init__()
        if resample and (receptive_field_bins % RATE or receptive_field_bins < 2 * RATE):
            raise UserError(
                f"A resampling encoder cannot look at {receptive_field_bins} bins.",
                f"It makes one bin of {RATE}, so its receptive field is a multiple of {RATE}, {2 * RATE} or more.",
                "Set model.receptive_field_bins=20 or 40, or model.resample=false.",
            )
        self.resample, self.receptive_field_bins = resample, receptive_field_bins
        self.first = input_layer(units, hidden, receptive_field_bins, resample)
        self.body = Body(
            hidden, latents, kernels(receptive_field_bins // RATE if resample else receptive_field_bins)[1:]
        )

    def forward(self, activity: Float[Tensor, "bin window unit"]) -> Float[Tensor, "shorter window latent"]:
        """Return one vector for each bin whose whole receptive field lies in the window."""
        return encode(self.first, self.body, activity, self.receptive_field_bins)


def encode(
    first: BinConvolution | ResampledInput,
    body: Body,
    activity: Float[Tensor, "bin window unit"],
    receptive_field_bins: int,
) -> Float[Tensor, "shorter window latent"]:
    """Return what an input layer and a body make of each receptive field.

    A single receptive field is convolved at the lower rate of a resampling encoder. Of many that overlap every bin is
    needed: convolutions whose bins lie apart give the same vectors, without computing anything twice.
    """
    if isinstance(first, BinConvolution):
        return body(first(activity))
    if len(activity) == receptive_field_bins:
        return body(first(activity, every_bin=False))
    return body(first(activity), dilation=RATE)


class _Convolve(torch.autograd.Function):
    """Sums the taps in place; autograd alone would fill and add an array of the signal's size for each."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, bias: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(signal, weight)
        ctx.rows = _rows(len(signal), len(weight), stride, dilation)
        return _convolved(signal, weight, bias, ctx.rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        signal, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, 1)
        of_weight = torch.stack([signal[rows].flatten(0, 1).T @ gradient for rows in ctx.rows])
        of_signal = None
        if ctx.needs_input_grad[0]:
            of_signal = torch.zeros_like(signal)
            for rows, matrix in zip(ctx.rows, weight, strict=True):
                if rows.step == 1:  # a view: the product is added where it belongs
                    of_signal[rows].flatten(0, 1).addmm_(gradient, matrix.T)
                else:
                    of_signal[rows] += (gradient @ matrix.T).unflatten(0, gradients[0].shape[:2])
        return of_signal, of_weight, gradient.sum(0), None, None


def _convolved(signal: Tensor, weight: Tensor, bias: Tensor, rows: list[slice]) -> Tensor:
    result = torch.addmm(bias, signal[rows[0]].flatten(0, 1), weight[0])
    for tap in range(1, len(weight)):
        result.addmm_(signal[rows[tap]].flatten(0, 1), weight[tap])
    return result.unflatten(0, (-1, signal.shape[1]))


def _rows(bins: int, taps: int, stride: int, dilation: int) -> list[slice]:
    """Return the bins that each tap sees."""
    span = bins - (taps - 1) * dilation
    return [slice(tap * dilation, tap * dilation + span, stride) for tap in range(taps)]
