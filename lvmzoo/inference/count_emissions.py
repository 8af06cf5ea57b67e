r"""Counts given Gaussian latents: expected log-likelihoods, the sites they amount to, and sums for the M-step.

Log rates are affine in the latents, :math:`\eta = C x + d + D u`. Under :math:`x \sim N(m, V)` the expected rate is
:math:`\lambda = \exp(C m + d + D u + \tfrac12 \mathrm{diag}(C V C'))`, and the expected log-likelihood of Poisson
counts is :math:`y \, E\eta - \lambda - \log y!`.

Negative binomial counts of mean r have the variance r + a r^2, with the overdispersion a; a = 0 is Poisson. They are
Poisson counts whose rates are multiplied by a hidden Gamma gain of mean 1 and variance a, one for each sample. Their
expectations over the log rate, a Gaussian number, are taken by Gauss-Hermite quadrature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.count_smoother import Sites
from lvmzoo.inference.sequences import LinearGaussian

__all__ = [
    "Counts",
    "Emission",
    "Expected",
    "constants",
    "emission",
    "expected",
    "log_rates",
    "of_shown",
    "pairs",
    "row_blocks",
    "sites",
    "starting_sites",
]

BLOCK = 2**17  # samples that are worked on at a time: 1 MB, for the cache of the processor
LARGEST = 100.0  # log rate at which a step of the inference, which is then rejected, is cut off: exp must stay finite
SHARPEST = 5e8  # rate, about exp(20), above which the search for the posterior takes no sharper evidence
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class Emission(NamedTuple):
    """How counts of one session depend on the latents."""

    readout: Float[Tensor, "unit latent"]  # C
    offset: Float[Tensor, " unit"]  # d
    overdispersion: Float[Tensor, " unit"] | None  # a; None: Poisson
    feedthrough: Float[Tensor, "unit channel"] | None  # D
    products: Float[Tensor, "unit pair"]  # c_i c_j, i >= j
    rows: Tensor  # i of each pair
    columns: Tensor  # j of each pair
    place: Tensor  # of each element of a matrix among the pairs


class Counts(NamedTuple):
    """Counts of some trials, of equal length by padding."""

    counts: Float[Tensor, "bin trial unit"]  # zero where not observed
    shown: Float[Tensor, "bin trial unit"] | None  # 1 where observed, else 0; None: all are
    inputs: Float[Tensor, "bin trial channel"] | None

    def of(self, trials: Tensor) -> Counts:
        """Return some of the trials."""
        shown = None if self.shown is None else self.shown[:, trials]
        return Counts(self.counts[:, trials], shown, None if self.inputs is None else self.inputs[:, trials])

    def at(self, bin: int) -> Counts:
        """Return one bin."""
        when = slice(bin, bin + 1)
        shown = None if self.shown is None else self.shown[when]
        return Counts(self.counts[when], shown, None if self.inputs is None else self.inputs[when])


class Expected(NamedTuple):
    """Expectations of the counts of some bins, in rows, under Gaussian latents; zero where nothing is observed.

    The expected log-likelihood has the derivatives y - drawn with respect to the mean of eta, and -curvature / 2 with
    respect to its variance.
    """

    fit: Float[Tensor, " row"]  # expected log-likelihood without terms that the latents do not enter
    drawn: Float[Tensor, "row unit"]  # Poisson: the rate; else (the expected gain given the count) times the rate
    curvature: Float[Tensor, "row unit"]  # Poisson: the rate
    fall: Float[Tensor, "row unit"] | None = None  # E log(1 + a rate); Poisson: None


def emission(model: LinearGaussian, poisson: bool) -> Emission:
    """Return what inference needs of the parameters; ``model.noise`` is the overdispersion unless they are Poisson."""
    return _of(model.readout, model.offset, None if poisson else model.noise, model.feedthrough)


def of_shown(parts: Emission) -> Emission:
    """Return the same of the first latents alone, up to the last that shows in any count."""
    shown = int((parts.readout != 0).any(0).nonzero().amax()) + 1 if bool(parts.readout.any()) else 1
    if shown == parts.readout.shape[1]:
        return parts
    return _of(parts.readout[:, :shown].contiguous(), parts.offset, parts.overdispersion, parts.feedthrough)


def _of(readout: Tensor, offset: Tensor, overdispersion: Tensor | None, feedthrough: Tensor | None) -> Emission:
    latents = readout.shape[1]
    rows, columns = torch.tril_indices(latents, latents, device=readout.device)
    place = torch.zeros(latents, latents, dtype=torch.long, device=readout.device)
    place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=place.device)
    products = readout[:, rows] * readout[:, columns]
    return Emission(readout, offset, overdispersion, feedthrough, products, rows, columns, place.flatten())


def pairs(parts: Emission, covariance: Float[Tensor, "*group latent latent"]) -> Float[Tensor, "*group pair"]:
    """Return the lower triangles of covariances, elements beside the diagonal doubled: c'Vc = products . pairs."""
    doubled = torch.where(parts.rows == parts.columns, 1.0, 2.0).to(covariance)
    return covariance[..., parts.rows, parts.columns] * doubled


def row_blocks(rows: int, units: int) -> Iterator[slice]:
    """Yield stretches of rows that fit the cache."""
    step = max(1, BLOCK // max(1, units))
    yield from (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def log_rates(
    parts: Emission, counts: Counts, mean: Float[Tensor, "row latent"], block: slice
) -> Float[Tensor, "block unit"]:
    """Return the expected log rates of some of the rows (bin, trial)."""
    eta = torch.addmm(parts.offset, mean[block], parts.readout.T)
    if counts.inputs is not None and parts.feedthrough is not None:
        eta.addmm_(counts.inputs.flatten(0, 1)[block], parts.feedthrough.T)
    return eta


def expected(
    parts: Emission, counts: Counts, mean: Float[Tensor, "row latent"], pair: Float[Tensor, "row pair"], block: slice
) -> Expected:
    """Return the expectations of some of the rows (bin, trial); ``pair``: of their covariances."""
    y = counts.counts.flatten(0, 1)[block]
    eta = log_rates(parts, counts, mean, block)
    fit = torch.linalg.vecdot(y, eta)
    shown = None if counts.shown is None else counts.shown.flatten(0, 1)[block]
    if parts.overdispersion is None:
        rate = torch.addmm(eta, pair[block], parts.products.T, alpha=0.5).clamp_(max=LARGEST).exp_()
        if shown is not None:
            rate *= shown
        return Expected(fit - rate.sum(1), rate, rate)
    a = parts.overdispersion
    spread = (pair[block] @ parts.products.T).clamp_(min=1e-24).sqrt_()
    fall, drawn, curvature = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y)
    eta += a.log()
    for node, weight in zip(NODES.tolist(), WEIGHTS.tolist(), strict=True):
        odds = torch.addcmul(eta, spread, spread.new_tensor(node)).clamp_(max=LARGEST).exp_()
        fall.add_(torch.log1p(odds), alpha=weight)
        share = odds / (1 + odds)
        drawn.add_(share, alpha=weight)
        curvature.add_(share, alpha=weight * node)
    scale = y + 1 / a
    if shown is not None:
        scale = scale * shown
    return Expected(fit - torch.linalg.vecdot(scale, fall), drawn.mul_(scale), curvature.mul_(scale).div_(spread), fall)


def constants(parts: Emission, counts: Counts) -> Float[Tensor, " trial"]:
    """Return the terms of each trial's log-likelihood that the latents do not enter."""
    y, a = counts.counts.flatten(0, 1), parts.overdispersion
    rows = y.new_empty(len(y))
    for block in row_blocks(*y.shape):
        values = -torch.lgamma(y[block] + 1)
        if a is not None:
            values += torch.lgamma(y[block] + 1 / a) - torch.lgamma(1 / a) + y[block] * a.log()
        rows[block] = values.sum(1)
    return rows.view(counts.counts.shape[:2]).sum(0)


def sites(
    parts: Emission,
    counts: Counts,
    mean: Float[Tensor, "bin trial latent"],
    covariance: Float[Tensor, "bin trial latent latent"],
) -> tuple[Sites, Float[Tensor, " trial"]]:
    """Return the sites that a posterior asks for, and the expected log-likelihood of each trial without constants.

    They are the natural gradient of the expected log-likelihood: J = C' diag(curvature) C, h = C'(y - drawn) + J m.
    """
    m, pair, y = mean.flatten(0, 1), pairs(parts, covariance).flatten(0, 1), counts.counts.flatten(0, 1)
    precision, shift, value = torch.empty_like(pair), torch.empty_like(m), m.new_empty(len(m))
    for block in row_blocks(*y.shape):
        at = expected(parts, counts, m, pair, block)
        value[block] = at.fit
        precision[block] = at.curvature.clamp_(max=SHARPEST) @ parts.products
        shift[block] = (y[block] - at.drawn.clamp_(max=SHARPEST)) @ parts.readout
    J = precision[:, parts.place].view(covariance.shape)
    h = torch.baddbmm(shift[..., None], J.flatten(0, 1), m[..., None]).view(mean.shape)
    return Sites(J, h), value.view(mean.shape[:2]).sum(0)


def starting_sites(
    parts: Emission,
    counts: Counts,
    mean: Float[Tensor, "bin trial latent"],
    covariance: Float[Tensor, "bin group latent latent"],  # one group, or each trial its own
) -> Sites:
    """Return sites to start from, given the prior mean and covariance of each bin.

    The rate of each sample is first taken from its own count alone, with a Gamma prior that has the moments of the
    rate's own prior; the site is the second-order expansion there.
    """
    m, y = mean.flatten(0, 1), counts.counts.flatten(0, 1)
    pair = pairs(parts, covariance.expand(-1, mean.shape[1], -1, -1)).flatten(0, 1)
    precision, shift = torch.empty_like(pair), torch.empty_like(m)
    for block in row_blocks(*y.shape):
        variance = (pair[block] @ parts.products.T).clamp_(1e-6, 50.0)
        eta = log_rates(parts, counts, m, block)
        shape = 1 / torch.expm1(variance)
        rate = (eta + 0.5 * variance).clamp_(max=LARGEST).exp_()
        level = ((y[block] + shape) * rate / (rate + shape)).clamp_(1e-30, SHARPEST)
        weight = torch.ones_like(level) if parts.overdispersion is None else 1 / (1 + parts.overdispersion * level)
        if counts.shown is not None:
            weight *= counts.shown.flatten(0, 1)[block]
        change = level.log() - eta  # of the log rate, from the prior mean
        precision[block] = (weight * level) @ parts.products
        shift[block] = (weight * (y[block] - level + level * change)) @ parts.readout
    J = precision[:, parts.place].view(*mean.shape, -1)
    h = torch.baddbmm(shift[..., None], J.flatten(0, 1), m[..., None]).view(mean.shape)
    return Sites(J, h)
