r"""Gaussian processes that several regions see, each with its own delay, and processes of single regions.

    y^m_t = C^m [x^m_t, w^m_t] + d^m + v^m_t,   x^m_jt = s_j(t - D_mj) + n^m_jt,   s_j ~ GP(0, (1 - e) k_j),

with v independent from unit to unit, n ~ N(0, e) from bin to bin and from region to region, and w of one region alone.

A process is features times white weights (see :mod:`lvmzoo.inference.gaussian_process_kernels`). On the circle a delay
is a phase: the features of a region are cos w (t - D) and sin w (t - D), so that one process has one set of weights for
all regions, and delays are real numbers. A process so fast that the circle needs more features than it has points is
the square root of its kernel matrix over the bins of all regions instead.

Gokcen et al. (2022) Nature Computational Science 2, 512, doi:10.1038/s43588-022-00282-5.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.gaussian_process_kernels import RANK, TOLERANCE, feature_count, spectrum

__all__ = ["DelayedProcesses", "Features", "Seen", "Slope", "features_of"]


class DelayedProcesses(NamedTuple):
    """Parameters of one session, all float64."""

    timescales: Float[Tensor, " latent"]  # bins: of the processes across regions, then of those within each region
    delays: Float[Tensor, "region across"]  # bins; a region sees a process that much later than the process itself
    readout: Float[Tensor, "unit column"]  # C: processes across regions, then those within the unit's region
    offset: Float[Tensor, " unit"]  # d
    noise: Float[Tensor, " unit"]  # r, variances
    regions: tuple[slice, ...]  # units of each region; empty: the session does not show it
    nugget: float = 1e-3  # e: share of a process's variance that is independent from bin to bin
    engine: str = "auto"  # "dense" and "spectral" are for tests
    tolerance: float = TOLERANCE  # of kernels

    @property
    def across(self) -> int:
        """Number of processes that all regions see."""
        return self.delays.shape[1]

    @property
    def within(self) -> int:
        """Number of processes of each region alone."""
        return self.readout.shape[1] - self.across

    def latent(self, region: int, column: int) -> int:
        """Return the process that a column of the readout is of, for the units of a region."""
        return column if column < self.across else column + region * self.within


class Seen(NamedTuple):
    """The features that a region sees."""

    values: Float[Tensor, "bin seen"]
    place: Int[Tensor, " seen"]  # of the feature among all
    owner: Int[Tensor, " seen"]  # column of the readout
    slices: tuple[slice, ...]  # of each column
    blocks: tuple[tuple[slice, slice], ...]  # (among all, here) of processes across regions, and of those within

    def take(self, matrix: Float[Tensor, "feature feature"]) -> Float[Tensor, "seen seen"]:
        """Return the part of a matrix of all features that is about these."""
        return torch.cat([torch.cat([matrix[row, column] for column, _ in self.blocks], 1) for row, _ in self.blocks])


@dataclass(frozen=True)
class Slope:
    """Derivative of the features of one process by its log timescale, or by its delay to one region."""

    latent: int
    values: tuple[tuple[int, Float[Tensor, "bin own"]], ...]  # (region, derivative of what it sees)


class Features:
    """Features of trials of one length."""

    def __init__(self, model: DelayedProcesses, bins: int) -> None:
        self._model, self.bins = model, bins
        self._longer: Features | None = None  # of a longer trial, which these are the first rows of
        regions, across = len(model.delays), model.across
        self.of: list[Float[Tensor, "row bin own"]] = []  # of each process; a row is a region that sees it
        self.slices: list[slice] = []  # of each process among all features
        self._dense: dict[int, tuple[Tensor, Tensor]] = {}
        self._frequencies: dict[int, Tensor] = {}
        first = 0
        for latent in range(len(model.timescales)):
            values = self._make(latent, model.delays[:, latent] if latent < across else model.delays.new_zeros(1))
            self.of.append(values)
            self.slices.append(slice(first, first + values.shape[2]))
            first += values.shape[2]
        self.count = first
        self.shared = self.slices[across].start if across < len(self.slices) else first  # of processes across regions
        self.seen = [self._seen(region) for region in range(regions)]

    def cut(self, bins: int) -> Features:
        """Return the features of trials that end earlier: a process on the first bins of a longer trial."""
        shorter = copy.copy(self)
        shorter.bins = bins
        shorter.of = [values[:, :bins] for values in self.of]
        shorter.seen = [seen._replace(values=seen.values[:bins]) for seen in self.seen]
        shorter.__dict__.pop("slopes", None)
        shorter._longer = self
        return shorter

    def rows(self, latent: int) -> list[tuple[int, int, int]]:
        """Return (row, region, column) of each place where a process is seen."""
        across, within = self._model.across, self._model.within
        if latent < across:
            return [(region, region, latent) for region in range(len(self._model.delays))]
        region, column = divmod(latent - across, within)
        return [(0, region, across + column)]

    def _seen(self, region: int) -> Seen:
        columns, across = self._model.readout.shape[1], self._model.across
        device = self._model.timescales.device
        values, index, owner, slices, first = [], [], [], [], 0
        for column in range(columns):
            latent = self._model.latent(region, column)
            own = self.of[latent][region if column < across else 0]
            values.append(own)
            index.append(torch.arange(self.slices[latent].start, self.slices[latent].stop, device=device))
            owner.append(torch.full((own.shape[1],), column, device=device))
            slices.append(slice(first, first + own.shape[1]))
            first += own.shape[1]
        place, blocks = torch.cat(index), []
        for here in (slice(0, self.shared), slice(self.shared, first)):
            if here.stop > here.start:
                start = int(place[here.start])
                blocks.append((slice(start, start + here.stop - here.start), here))
        return Seen(torch.cat(values, 1), place, torch.cat(owner), tuple(slices), tuple(blocks))

    def _make(self, latent: int, delays: Float[Tensor, " row"]) -> Float[Tensor, "row bin own"]:
        model, bins = self._model, self.bins
        tau = float(model.timescales[latent])
        circle = bins + _span(delays)
        dense = feature_count([tau], circle, model.tolerance) > bins * len(delays)
        if dense if model.engine == "auto" else model.engine == "dense":
            return self._root(latent, tau, delays)
        w, power, _ = spectrum(tau, circle, 1 - model.nugget, model.timescales, model.tolerance)
        angle = (torch.arange(bins).to(w) - delays[:, None])[..., None] * w
        self._frequencies[latent], scale = w, power.sqrt()
        return torch.cat([torch.cos(angle) * scale, torch.sin(angle[..., 1:]) * scale[1:]], -1)

    def _root(self, latent: int, tau: float, delays: Float[Tensor, " row"]) -> Float[Tensor, "row bin own"]:
        """Return the square root of the kernel matrix over bins and regions, by its eigenvectors."""
        K = (1 - self._model.nugget) * torch.exp(-0.5 * (_lags(self.bins, delays) / tau).square())
        values, vectors = torch.linalg.eigh(K)
        keep = values > RANK * values[-1]
        scale = values[keep].sqrt()
        self._dense[latent] = (K, vectors[:, keep] / scale)
        return (vectors[:, keep] * scale).unflatten(0, (len(delays), -1))

    @cached_property
    def slopes(self) -> list[Slope]:
        """By the log timescales, then by the delays, region by region."""
        if self._longer is not None:
            whole, bins = self._longer.slopes, self.bins
            return [Slope(one.latent, tuple((m, values[:bins]) for m, values in one.values)) for one in whole]
        model, regions = self._model, len(self._model.delays)
        found = [self._by_timescale(latent) for latent in range(len(model.timescales))]
        return found + [self._by_delay(j, m) for m in range(regions) for j in range(model.across)]

    def _by_timescale(self, latent: int) -> Slope:
        tau, rows = float(self._model.timescales[latent]), self.rows(latent)
        if latent in self._dense:
            K, inside = self._dense[latent]
            delays = self._model.delays[:, latent] if len(rows) > 1 or latent < self._model.across else None
            lags = _lags(self.bins, K.new_zeros(1) if delays is None else delays)
            values = _of_root(K * (lags / tau).square(), inside, len(rows))
        else:
            w = self._frequencies[latent]
            values = self.of[latent] * (0.5 * (1 - (torch.cat([w, w[1:]]) * tau).square()))
        return Slope(latent, tuple((region, values[row]) for row, region, _ in rows))

    def _by_delay(self, latent: int, region: int) -> Slope:
        model, bins = self._model, self.bins
        if latent in self._dense:
            K, inside = self._dense[latent]
            pull = K * _lags(bins, model.delays[:, latent]) / float(model.timescales[latent]) ** 2
            here = slice(region * bins, (region + 1) * bins)
            derivative = torch.zeros_like(K)
            derivative[here] += pull[here]
            derivative[:, here] -= pull[:, here]
            return Slope(latent, tuple(enumerate(_of_root(derivative, inside, len(model.delays)))))
        w = self._frequencies[latent]
        cosines, sines = self.of[latent][region].split([len(w), len(w) - 1], 1)
        turned = torch.cat([cosines[:, :1] * 0.0, sines * w[1:], -cosines[:, 1:] * w[1:]], 1)
        return Slope(latent, ((region, turned),))


def features_of(model: DelayedProcesses, bins: int) -> int:
    """Return the number of features of all processes in trials of that many bins."""
    rows = [model.delays[:, j] for j in range(model.across)]
    rows += [model.delays.new_zeros(1)] * (len(model.timescales) - model.across)
    return sum(
        min(feature_count([tau], bins + _span(delays)), bins * len(delays))
        for tau, delays in zip(model.timescales.tolist(), rows, strict=True)
    )


def _of_root(
    derivative: Float[Tensor, "point point"], inside: Float[Tensor, "point own"], rows: int
) -> Float[Tensor, "row bin own"]:
    """Return dV of V V' = K, given dK and V times the inverse of V' V: what of dK lies outside of V counts once."""
    half = derivative @ inside
    within, _ = torch.linalg.qr(inside)
    return (half - 0.5 * within @ (within.T @ half)).unflatten(0, (rows, -1))


def _span(delays: Float[Tensor, " row"]) -> int:
    """Return by how many bins delays make the largest lag longer."""
    return math.ceil(float(delays.max() - delays.min())) if len(delays) else 0


def _lags(bins: int, delays: Float[Tensor, " row"]) -> Float[Tensor, "point point"]:
    """Return differences of time, less the delay, between the bins of all regions."""
    when = (torch.arange(bins).to(delays) - delays[:, None]).flatten()
    return when[:, None] - when
