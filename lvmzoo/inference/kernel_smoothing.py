"""Gaussian kernel averages over time, within trials and over what was observed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["smooth", "widths_bins"]

WIDTHS_S = (0.02, 0.03, 0.045, 0.0675, 0.1, 0.15, 0.225, 0.34, 0.51, 0.77)  # standard deviations to choose from
REACH = 3.0  # the kernel ends at so many standard deviations
LEAST = 5e-3  # of the kernel's peak: with less of it, there is nothing to average
LONGEST = 512  # bins up to which a product with a matrix is faster than Fourier transforms


def widths_bins(bin_width_s: float) -> list[float]:
    """Return the standard deviations to choose from that are at least half a bin, in bins."""
    return [width / bin_width_s for width in WIDTHS_S if width >= 0.5 * bin_width_s] or [0.5]


def smooth(
    values: Float[Tensor, "trial bin unit"],
    seen: Bool[Tensor, "trial bin unit"],
    width_bins: float,
    leave_out: bool = False,
) -> tuple[Float[Tensor, "trial bin unit"], Bool[Tensor, "trial bin unit"]]:
    """Return kernel-weighted means of what was seen, and where there are any; elsewhere zeros.

    Parameters
    ----------
    values : of any kind where they were not seen.
    seen : samples to average over.
    width_bins : standard deviation of the Gaussian; 0 leaves the values as they are.
    leave_out : give the sample itself no weight: what its neighbors say about it.
    """
    values = torch.where(seen, values, 0.0)
    if width_bins == 0:
        return values, seen & (not leave_out)
    reach = max(1, math.ceil(min(REACH * width_bins, values.shape[1])))
    kernel = torch.exp(-0.5 * (torch.arange(reach + 1, dtype=values.dtype, device=values.device) / width_bins) ** 2)
    # A tiny width still has neighbors when the sample itself is left out.
    kernel[1:] = kernel[1:].clamp(min=1e-3 if leave_out and reach == 1 else 0.0)
    if leave_out:
        kernel[0] = 0.0
        kernel = kernel / kernel[1]
    bins, units = seen.any(2, keepdim=True), seen.any(1, keepdim=True).any(0, keepdim=True)
    alike = bool((seen == (bins & units)).all())  # the usual case: units are seen in the same bins, or not at all
    weight = _average((bins if alike else seen).to(values.dtype), kernel)
    there = (weight > LEAST) & units
    return torch.where(there, _average(values, kernel) / weight.clamp(min=LEAST), 0.0), there


def _average(values: Float[Tensor, "trial bin channel"], kernel: Float[Tensor, " lag"]) -> Tensor:
    """Return the sums over time weighted by a symmetric kernel, given from lag 0 on."""
    bins = values.shape[1]
    if bins <= LONGEST:
        lag = torch.arange(bins, device=values.device)
        lag = (lag[:, None] - lag).abs()
        return torch.where(lag < len(kernel), kernel[lag.clamp(max=len(kernel) - 1)], 0.0) @ values
    length = 2 ** math.ceil(math.log2(bins + len(kernel)))
    wrapped = kernel.new_zeros(length)
    wrapped[: len(kernel)] = kernel
    wrapped[length - len(kernel) + 1 :] = kernel[1:].flip(0)
    spectrum = torch.fft.rfft(values, length, dim=1) * torch.fft.rfft(wrapped)[:, None]
    return torch.fft.irfft(spectrum, length, dim=1)[:, :bins]
