r"""Stationary kernels of Gaussian processes, and features that they are Gram matrices of.

A process on the bins of a trial is written as :math:`x = \Phi w` with independent standard normal weights w. Two ways
to features, exact to a tolerance, without any approximation at the edges of a trial:

- *spectral*, for the squared exponential: the bins lie on a circle so large that the kernel, made periodic, equals the
  kernel on every lag of the trial; its features are cosines and sines, and fewer than bins where timescales are long;
- *dense*, for every kernel: the square root of the kernel matrix by its eigenvectors.

A stationary kernel on a complete trial does not change when time is reversed. In sums and differences of mirrored bins
it therefore falls into two parts of half the size, which the activity cannot couple, and all that is cubic in the
number of features costs a quarter. The features are also chosen such that the derivative of the kernel by the logarithm
of its timescale is diagonal in them.

Rasmussen, Williams (2006), Gaussian Processes for Machine Learning, doi:10.7551/mitpress/3206.001.0001.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "KERNELS",
    "Part",
    "feature_count",
    "fold",
    "kernel_features",
    "make_features",
    "merge",
    "spectral_features",
    "spectrum",
    "unfold",
]

TOLERANCE = 1e-10  # of the squared exponential and its spectrum: what is smaller is left out
RANK = 1e-13  # of the largest eigenvalue of a kernel matrix: smaller ones are left out


def _reach(tolerance: float) -> float:
    """Return the timescales after which the squared exponential is below it."""
    return math.sqrt(2 * math.log(1 / tolerance))


class Part(NamedTuple):
    """Features of all latents that the activity may couple; the features of a latent lie in slices."""

    values: Float[Tensor, "row feature"]  # a row is a bin, or the sum or difference of two mirrored ones
    owner: Int[Tensor, " feature"]  # latent
    slope: Float[Tensor, " feature"]  # derivative of the feature's variance by the log timescale, relative to it
    slices: tuple[tuple[int, slice], ...]  # (latent, its features)


def _squared_exponential(u: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.exp(-0.5 * u.square())
    return value, u.square() * value


def _matern12(u: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.exp(-u.abs())
    return value, u.abs() * value


def _matern32(u: Tensor) -> tuple[Tensor, Tensor]:
    v = math.sqrt(3) * u.abs()
    decay = torch.exp(-v)
    return (1 + v) * decay, v.square() * decay


def _matern52(u: Tensor) -> tuple[Tensor, Tensor]:
    v = math.sqrt(5) * u.abs()
    decay = torch.exp(-v)
    return (1 + v + v.square() / 3) * decay, v.square() * (1 + v) / 3 * decay


KERNELS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {  # of lag / timescale: value, slope by log timescale
    "squared_exponential": _squared_exponential,
    "matern12": _matern12,
    "matern32": _matern32,
    "matern52": _matern52,
}


def make_features(
    kernel: str, timescales: Float[Tensor, " latent"], bins: int, variance: float, engine: str = "auto"
) -> tuple[Part, ...]:
    """Return the folded features of a trial, (even, odd), by the engine that costs less.

    Parameters
    ----------
    kernel : a name in ``KERNELS``.
    timescales : of the latents, in bins.
    bins : length of the trial.
    variance : of each latent.
    engine : "dense", "spectral" (of the squared exponential only), or "auto".
    """
    if engine == "auto":
        spectral = kernel == "squared_exponential" and _spectral_is_cheaper(timescales.tolist(), bins)
        engine = "spectral" if spectral else "dense"
    if engine == "spectral":
        return spectral_features(timescales, bins, variance)
    return kernel_features(kernel, timescales, bins, variance)


def feature_count(timescales: Sequence[float], bins: int, tolerance: float = TOLERANCE) -> int:
    """Return the number of spectral features of a trial, for all latents together."""
    return sum(2 * _frequencies(tau, bins, _reach(tolerance)) - 1 for tau in timescales)


def _spectral_is_cheaper(timescales: Sequence[float], bins: int) -> bool:
    """Compare the floating-point operations of both ways; those of eigenvectors run at a quarter of the speed."""
    spectral = float(feature_count(timescales, bins))
    dense = sum(min(float(bins), _reach(TOLERANCE) * bins / (math.pi * tau) + 8) for tau in timescales)
    return 0.25 * spectral**3 < 0.25 * dense**3 + 20 * len(timescales) * bins**3


def _frequencies(timescale: float, bins: int, reach: float) -> int:
    return 1 + int(reach / timescale * (bins + reach * timescale) / (2 * math.pi))


def _positions(bins: int, like: Tensor) -> Tensor:
    """Return how far the later half of the bins is from the middle of the trial, the middle itself included."""
    return torch.arange((bins + 1) // 2, dtype=like.dtype, device=like.device) + (0.5 if bins % 2 == 0 else 0.0)


def spectrum(
    timescale: float, bins: int, variance: float, like: Float[Tensor, "*any"], tolerance: float = TOLERANCE
) -> tuple[Float[Tensor, " frequency"], Float[Tensor, " frequency"], Float[Tensor, " frequency"]]:
    """Return the squared exponential on a circle: angular frequencies per bin, variances, and their relative slopes.

    The kernel at a lag below ``bins`` is the sum over frequencies w of variance times cos(w lag), to ``tolerance``; the
    slopes are by the log timescale. The first frequency is zero.
    """
    reach = _reach(tolerance)
    circle = bins + reach * timescale
    index = torch.arange(_frequencies(timescale, bins, reach), dtype=like.dtype, device=like.device)
    w = (2 * math.pi / circle) * index
    squared = (w * timescale).square()
    power = (2 * variance * math.sqrt(2 * math.pi) * timescale / circle) * torch.exp(-0.5 * squared)
    power[0] *= 0.5
    return w, power, 1 - squared


def spectral_features(timescales: Float[Tensor, " latent"], bins: int, variance: float) -> tuple[Part, ...]:
    """Return cosines (even) and sines (odd) around the middle of the trial, scaled by the spectrum of the kernel."""
    u = _positions(bins, timescales)
    columns: tuple[list[Tensor], list[Tensor]] = ([], [])
    slopes: tuple[list[Tensor], list[Tensor]] = ([], [])
    for tau in timescales.tolist():
        w, power, slope = spectrum(tau, bins, variance, u)
        scale, angle = (2 * power).sqrt(), torch.outer(u, w)
        columns[0].append(torch.cos(angle) * scale)
        columns[1].append((torch.sin(angle) * scale)[bins % 2 :, 1:])
        slopes[0].append(slope)
        slopes[1].append(slope[1:])
    if bins % 2:
        for values in columns[0]:
            values[0] *= math.sqrt(0.5)
    return tuple(_part(c, s) for c, s in zip(columns, slopes, strict=True))


def kernel_features(kernel: str, timescales: Float[Tensor, " latent"], bins: int, variance: float) -> tuple[Part, ...]:
    """Return the square root of each kernel matrix, by its eigenvectors, rotated so that its derivative is diagonal."""
    u = _positions(bins, timescales)
    near, far = (
        KERNELS[kernel]((u[:, None] + sign * u) / timescales[:, None, None]) for sign in (-1, 1)
    )  # (value, slope), each (latent, row, row)
    middle = torch.ones_like(u)
    if bins % 2:
        middle[0] = math.sqrt(0.5)
    weight = variance * torch.outer(middle, middle)
    even = [(a + b) * weight for a, b in zip(near, far, strict=True)]
    odd = [variance * (a - b)[:, bins % 2 :, bins % 2 :] for a, b in zip(near, far, strict=True)]
    return tuple(_root(K, dK) for K, dK in (even, odd))


def _root(K: Float[Tensor, "latent row row"], dK: Float[Tensor, "latent row row"]) -> Part:
    columns, slopes = [], []
    values, vectors = torch.linalg.eigh(K)
    for s, U, derivative in zip(values, vectors, dK, strict=True):
        keep = s > RANK * s[-1] if len(s) else s > 0
        U, scale = U[:, keep], s[keep].sqrt()
        inside = U / scale
        slope, rotation = torch.linalg.eigh(inside.T @ derivative @ inside)
        columns.append((U * scale) @ rotation)
        slopes.append(slope)
    return _part(columns, slopes)


def _part(columns: Sequence[Tensor], slopes: Sequence[Tensor]) -> Part:
    slices, owner, first = [], [], 0
    for latent, slope in enumerate(slopes):
        slices.append((latent, slice(first, first + len(slope))))
        owner.append(torch.full((len(slope),), latent, device=slope.device))
        first += len(slope)
    return Part(torch.cat(list(columns), 1), torch.cat(owner), torch.cat(list(slopes)), tuple(slices))


def merge(parts: Sequence[Part], bins: int) -> Part:
    """Return folded features as one part, whose rows are the bins of the trial."""
    even, odd = parts
    nothing = [torch.zeros_like(part.values) for part in parts]
    values = torch.cat(
        [
            unfold([even.values.T[..., None], nothing[1].new_zeros(len(even.owner), len(odd.values), 1)])[..., 0],
            unfold([nothing[0].new_zeros(len(odd.owner), len(even.values), 1), odd.values.T[..., None]])[..., 0],
        ]
    ).T.contiguous()
    shift = len(even.owner)
    moved = tuple((latent, slice(s.start + shift, s.stop + shift)) for latent, s in odd.slices)
    return Part(values, torch.cat([even.owner, odd.owner]), torch.cat([even.slope, odd.slope]), (*even.slices, *moved))


def fold(values: Float[Tensor, "*other bin latent"]) -> list[Float[Tensor, "*other _row latent"]]:
    """Return sums and differences of mirrored bins, orthonormal; the middle of an odd number of bins is a sum."""
    bins = values.shape[-2]
    half = bins // 2
    left, right = values[..., :half, :].flip(-2), values[..., bins - half :, :]
    even, odd = (right + left) * math.sqrt(0.5), (right - left) * math.sqrt(0.5)
    if bins % 2:
        even = torch.cat([values[..., half : half + 1, :], even], -2)
    return [even, odd]


def unfold(parts: Sequence[Float[Tensor, "*other _row latent"]]) -> Float[Tensor, "*other bin latent"]:
    """Undo ``fold``."""
    even, odd = parts
    middle = even.shape[-2] - odd.shape[-2]
    sums = even[..., middle:, :]
    left, right = (sums - odd) * math.sqrt(0.5), (sums + odd) * math.sqrt(0.5)
    return torch.cat([left.flip(-2), even[..., :middle, :], right], -2)
