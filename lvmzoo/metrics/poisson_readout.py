"""A Poisson readout from latents, for models that give no positive rates: a regularized generalized linear model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

__all__ = ["Coordinates", "PoissonReadout", "fit_readout", "thinned", "whitening"]

PENALTIES = tuple(10.0 ** np.arange(4, -3, -1))  # inverse prior variances of a readout weight
FOLDS, STRETCHES = 5, 5  # each fold is of stretches spread over the recording: drift is not to decide
FOLD_BINS, FOLD_UNITS = 2000, 32  # of each fold, that the choice of the penalty looks at
CLEARLY = 0.01  # share of the information by which latents in their own scale have to be better
LARGEST = 100_000  # bins that a readout is fitted on; longer recordings are thinned evenly
PSEUDO_SPIKES = 0.5  # keep the readout of a silent unit finite
CHUNK_ENTRIES = 1_000_000  # bins x units whose rates are held at once
CG_STEPS, CG_TOLERANCE = 50, 1e-3  # of the squared residual: the equations are solved to a thirtieth


class Coordinates(NamedTuple):
    """An affine map of latents."""

    center: Float[Tensor, " latent"]
    basis: Float[Tensor, "latent coordinate"]


@dataclass(frozen=True)
class PoissonReadout:
    """Log rates that are affine in latents."""

    center: Float[Tensor, " latent"]
    basis: Float[Tensor, "latent coordinate"]
    weights: Float[Tensor, "coordinate_and_one unit"]  # the last row is the intercept
    penalty: float
    whitened: bool

    def rates(self, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin unit"]:
        """Return expected counts per bin; positive."""
        return torch.exp(_design(torch.from_numpy(latents), self.center, self.basis) @ self.weights).numpy()

    @property
    def settings(self) -> str:
        """What was chosen on training bins, for people to read."""
        kind = "whitened latents" if self.whitened else "latents in their own scale"
        return f"Poisson readout from {kind}, penalty {self.penalty:g}"


@dataclass(frozen=True)
class _Data:
    """What weights are fitted to, or judged by."""

    design: Float[Tensor, "bin coordinate_and_one"]
    counts: Num[Tensor, "bin unit"]
    recorded: Bool[Tensor, "bin unit"] | None

    def at(self, bins: Tensor, units: slice) -> _Data:
        recorded = None if self.recorded is None else self.recorded[bins][:, units]
        return _Data(self.design[bins], self.counts[bins][:, units], recorded)

    def log_likelihood(self, weights: Tensor) -> float:
        log_rates = self.design @ weights
        nats = self.counts * log_rates - log_rates.exp()
        return float((nats if self.recorded is None else torch.where(self.recorded, nats, 0.0)).sum())


def fit_readout(
    latents: Float[np.ndarray, "bin latent"],
    counts: Num[Tensor, "bin unit"],
    recorded: Bool[Tensor, "bin unit"] | None = None,
    coordinates: Coordinates | None = None,
    penalty: float | None = None,
) -> PoissonReadout:
    """Fit a Poisson generalized linear model from latents to each unit, all units at once.

    The latents are whitened, so that the result does not depend on their gauge. One ridge penalty for all units is
    chosen by the log-likelihood on folds of the bins given (in long recordings, of some of them). Only where it gains
    clearly on these folds are latents left in their own scale, which then says what is noise: with a hundred smoothed
    units, the directions of little variance. Each unit has a pseudo-observation of half a spike at the mean rate, so
    that a silent one stays finite.

    Parameters
    ----------
    latents : training latents; without any, what is read out is the mean rate.
    counts : spikes per bin in the same bins.
    recorded : samples that count; None: all.
    coordinates : that are taken as they are; None: chosen as said above.
    penalty : the inverse prior variance of a weight, with ``coordinates``; None: chosen as said above.
    """
    thin = thinned(len(latents))
    x = torch.from_numpy(np.ascontiguousarray(latents[thin]))
    center = x.mean(0) if coordinates is None else coordinates.center
    choices = []
    for basis in _bases(x, center) if coordinates is None else [coordinates.basis]:
        data = _Data(_design(x, center, basis), counts[thin], None if recorded is None else recorded[thin])
        if penalty is not None:
            return PoissonReadout(center, basis, _newton(data, penalty), penalty, whitened=True)
        choices.append((basis, data, *_penalty(data)))
    whitened, own = choices[0], choices[-1]
    more = own[-1] - whitened[-1]
    clearly = len(more) > 1 and bool(  # of too few bins there are no folds that could tell
        more.mean() > max(more.std(ddof=1) / len(more) ** 0.5, CLEARLY * whitened[-1].mean())
    )
    basis, data, penalty, _ = own if clearly else whitened
    return PoissonReadout(center, basis, _newton(data, penalty), penalty, not clearly)


def thinned(bins: int) -> slice:
    """Return which of so many bins a readout is fitted on."""
    return slice(None, None, -(-bins // LARGEST) or 1)


def whitening(latents: Float[np.ndarray, "bin latent"]) -> Coordinates:
    """Return the map of latents to uncorrelated coordinates of unit variance."""
    x = torch.from_numpy(np.ascontiguousarray(latents[thinned(len(latents))]))
    return Coordinates(x.mean(0), next(iter(_bases(x, x.mean(0)))))


def _penalty(data: _Data) -> tuple[float, Float[np.ndarray, " fold"]]:
    """Return the penalty with the highest log-likelihood of the folds left out, and each fold's above mean rates.

    Penalties fall until the log-likelihood has fallen twice: below, fits are slow and worse.
    """
    units = slice(None, None, -(-data.counts.shape[1] // FOLD_UNITS) or 1)
    edges = np.linspace(0, len(data.counts), FOLDS * STRETCHES + 1).astype(int)
    stretches = [torch.arange(a, min(b, a + FOLD_BINS // STRETCHES)) for a, b in itertools.pairwise(edges)]
    folds = [torch.cat(stretches[i::FOLDS]) for i in range(FOLDS)]
    parts = []
    for held in folds:
        rest = torch.cat([fold for fold in folds if fold is not held])
        if len(held) and len(rest):
            parts.append((data.at(rest, units), data.at(held, units)))
    weights = [_mean_rates(train) for train, _ in parts]
    null = np.array([held.log_likelihood(start) for start, (_, held) in zip(weights, parts, strict=True)])
    best, gains, falls = PENALTIES[0], np.full(len(parts), -np.inf), 0
    for penalty in PENALTIES:
        weights = [
            _newton(train, penalty, start, tolerance=1e-4) for start, (train, _) in zip(weights, parts, strict=True)
        ]
        found = np.array([held.log_likelihood(w) for w, (_, held) in zip(weights, parts, strict=True)]) - null
        found = np.where(np.isfinite(found), found, -1e300)
        if found.sum() > gains.sum():
            best, gains, falls = penalty, found, 0
        else:
            falls += 1
        if falls == 2:
            break
    return best, gains


def _bases(
    x: Float[Tensor, "bin latent"], center: Float[Tensor, " latent"]
) -> Iterator[Float[Tensor, "latent coordinate"]]:
    """Give maps of centered latents to uncorrelated coordinates: first of unit variance, then in their own scale."""
    if not x.shape[1]:  # nothing to read from: mean rates
        yield x.new_zeros(0, 0)
        return
    x = x - center
    spread = x.square().mean(0).sqrt()
    varies = spread > 1e-12 * center.abs()  # else the deviations are rounding errors of the mean
    scaled = torch.where(varies, x / spread, 0.0)
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / max(len(x), 1))
    keep = values > 1e-9  # the others are empty
    yield torch.where(varies, 1 / spread, 0.0)[:, None] * vectors[:, keep] / values[keep].sqrt()
    values, vectors = torch.linalg.eigh(x.T @ x / max(len(x), 1))
    keep = values > 1e-12 * values[-1]
    yield vectors[:, keep] / values[-1].clamp_min(1e-300).sqrt()


def _design(x: Tensor, center: Tensor, basis: Tensor) -> Tensor:
    return torch.cat([(x - center) @ basis, x.new_ones(len(x), 1)], 1)


def _exposure(data: _Data) -> tuple[Tensor, Tensor, float]:
    """Return the spikes and the bins of each unit, and the bins of the pseudo-observation."""
    counts, recorded = data.counts, data.recorded
    if recorded is None:
        spikes, bins = counts.sum(0, dtype=torch.float64), data.design.new_full((counts.shape[1],), len(counts))
    else:
        spikes = torch.where(recorded, counts, 0).sum(0, dtype=torch.float64)
        bins = recorded.sum(0, dtype=torch.float64)
    pooled = (spikes.sum() / bins.sum().clamp_min(1)).clamp_min(1e-12)
    return spikes, bins, float(PSEUDO_SPIKES / pooled)


def _mean_rates(data: _Data) -> Float[Tensor, "feature unit"]:
    """Return the weights of a readout that ignores the latents."""
    spikes, bins, prior = _exposure(data)
    weights = data.design.new_zeros(data.design.shape[1], len(spikes))
    weights[-1] = ((spikes + PSEUDO_SPIKES) / (bins + prior)).log()
    return weights


def _newton(
    data: _Data,
    penalty: float,
    start: Float[Tensor, "feature unit"] | None = None,
    passes: int = 50,
    tolerance: float = 1e-8,
) -> Float[Tensor, "feature unit"]:
    """Minimize the penalized Poisson loss of each unit; a step that does not lower it is halved.

    Newton's equations are solved by conjugate gradients: on whitened latents the Hessian is nearly diagonal, and with
    many latents forming it would take most of the time.
    """
    prior = _exposure(data)[2]
    start = _mean_rates(data) if start is None else start
    group = max(1, CHUNK_ENTRIES // max(len(data.design), 1))
    solved = []
    for first in range(0, start.shape[1], group):
        here = slice(first, first + group)
        seen = None if data.recorded is None else data.recorded[:, here]
        loss = _Loss(_Data(data.design, data.counts[:, here], seen), penalty, prior)
        solved.append(loss.minimize(start[:, here], passes, tolerance))
    return torch.cat(solved, 1)


class _Loss:
    """The penalized Poisson losses of some units as functions of their weights."""

    def __init__(self, data: _Data, penalty: float, prior: float) -> None:
        self._design, self._recorded, self._prior = data.design, data.recorded, prior
        self._ridge = data.design.new_full((data.design.shape[1], 1), penalty)
        self._ridge[-1] = 0.0
        seen = data.counts if data.recorded is None else torch.where(data.recorded, data.counts, 0)
        self._target = data.design.T @ seen.to(data.design.dtype)  # all that the loss needs of the counts
        self._target[-1] += PSEUDO_SPIKES

    def minimize(self, weights: Tensor, passes: int, tolerance: float) -> Tensor:
        weights = weights.clone()
        active = torch.arange(weights.shape[1])
        loss, gradient, rates = self._expand(weights, active)
        shrink = torch.ones_like(loss)
        for _ in range(passes):
            step = self._solve(gradient, rates, weights[-1, active])
            promised = (step * gradient).sum(0)
            on = promised > tolerance * (1 + loss.abs())
            weights[:, active[~on]] -= step[:, ~on]  # the last step, too small to do harm
            if not bool(on.any()):
                break
            active, loss, gradient, rates, shrink, step = (
                leaf[..., on] for leaf in (active, loss, gradient, rates, shrink, step)
            )
            tried = weights[:, active] - shrink * step
            new_loss, new_gradient, new_rates = self._expand(tried, active)
            better = torch.isfinite(new_loss) & (new_loss <= loss + 1e-12 * loss.abs())
            weights[:, active] = torch.where(better, tried, weights[:, active])
            loss, gradient = torch.where(better, new_loss, loss), torch.where(better, new_gradient, gradient)
            rates = torch.where(better, new_rates, rates)
            shrink = torch.where(better, (2 * shrink).clamp_max(1.0), shrink / 2)
        return weights

    def _expand(self, weights: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, gradient and rates; what was not recorded has rate 0."""
        rates = (self._design @ weights).exp_()
        if self._recorded is not None:
            rates = torch.where(self._recorded[:, active], rates, 0.0)
        target = self._target[:, active]
        prior = self._prior * weights[-1].exp()
        loss = rates.sum(0) + prior + ((0.5 * self._ridge * weights - target) * weights).sum(0)
        gradient = self._design.T @ rates + self._ridge * weights - target
        gradient[-1] += prior
        return loss, gradient, rates

    def _solve(self, gradient: Tensor, rates: Tensor, intercept: Tensor) -> Tensor:
        """Return the Newton step by preconditioned conjugate gradients, to a thirtieth of the gradient."""
        prior = self._prior * intercept.exp()
        diagonal = (self._design.square().T @ rates + self._ridge).clamp_min(1e-12)
        diagonal[-1] += prior
        solution = torch.zeros_like(gradient)
        residual = gradient.clone()
        scaled = residual / diagonal
        direction = scaled.clone()
        size = (residual * scaled).sum(0)
        goal = CG_TOLERANCE * size
        for _ in range(CG_STEPS):
            image = self._design.T @ (rates * (self._design @ direction)) + self._ridge * direction
            image[-1] += prior * direction[-1]
            length = size / (direction * image).sum(0).clamp_min(1e-300)
            length = torch.where(size > goal, length, 0.0)
            solution += length * direction
            residual -= length * image
            scaled = residual / diagonal
            previous, size = size, (residual * scaled).sum(0)
            if not bool((size > goal).any()):
                break
            direction = scaled + size / previous.clamp_min(1e-300) * direction
        return solution
