"""Scoring counts under a Poisson likelihood, and the readout for models that give no positive rates.

A Gaussian model predicts negative rates. Clipping them makes the score a matter of the floor, so such a model is scored
through a generalized linear readout from its latents instead.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.spread import group_sums, ratio_sem

__all__ = ["bits_per_spike", "fit_readout", "score_counts"]

FLOOR = 1e-9  # nlb_tools' stand-in for a rate of zero
PENALTIES = tuple(10.0 ** np.arange(4, -3, -1))  # inverse prior variances of a readout weight on whitened latents
FOLDS = 5
FOLD_BINS, FOLD_UNITS = 2000, 128  # of each fold, that the choice of the penalty looks at
LARGEST = 100_000  # bins that a readout is fitted on; longer recordings are thinned evenly
PSEUDO_SPIKES = 0.5  # keep the readout of a silent unit finite
CHUNK_ENTRIES = 4_000_000


def information(
    rates: Float[np.ndarray, "bin unit"],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None = None,
) -> Float[np.ndarray, " bin"]:
    """Return the log-likelihood of each bin above that of the units' mean rates over these bins, in nats."""
    counts = counts.astype(np.float64)
    if recorded is None:
        mean = counts.mean(0)
    else:
        counts = np.where(recorded, counts, 0.0)
        mean = counts.sum(0) / np.maximum(recorded.sum(0), 1)
    mean, rates = np.where(mean == 0, FLOOR, mean), np.where(rates == 0, FLOOR, rates).astype(np.float64)
    gain = counts * np.log(rates / mean) - (rates - mean)
    return (gain if recorded is None else np.where(recorded, gain, 0.0)).sum(1)


def bits_per_spike(
    rates: Float[np.ndarray, "bin unit"],
    counts: Num[np.ndarray, "bin unit"],
    recorded: Bool[np.ndarray, "bin unit"] | None = None,
) -> float:
    """Return how much better than mean rates the rates predict the counts, in bits a spike.

    (NLL of the mean rates - NLL of the rates) / spikes / ln 2 with Poisson likelihoods, the mean of each unit taken
    over the bins given, and a rate of zero replaced by 1e-9, as in nlb_tools (Pei et al. 2021,
    doi:10.48550/arXiv.2109.04463).

    Parameters
    ----------
    rates : expected counts per bin.
    counts : spikes per bin.
    recorded : samples that count; None: all.
    """
    spikes = counts.sum() if recorded is None else counts[recorded].sum()
    return float(information(rates, counts, recorded).sum() / spikes / np.log(2))


@dataclass(frozen=True)
class PoissonReadout:
    """Log rates that are affine in latents."""

    center: Float[Tensor, " latent"]
    whitening: Float[Tensor, "latent white"]
    weights: Float[Tensor, "white_and_one unit"]  # the last row is the intercept
    penalty: float

    def rates(self, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin unit"]:
        """Return expected counts per bin; positive."""
        return torch.exp(_design(torch.from_numpy(latents), self.center, self.whitening) @ self.weights).numpy()


def fit_readout(
    latents: Float[np.ndarray, "bin latent"],
    counts: Num[Tensor, "bin unit"],
    recorded: Bool[Tensor, "bin unit"] | None = None,
) -> PoissonReadout:
    """Fit a Poisson generalized linear model from latents to each unit, all units at once.

    The latents are whitened, so that the result does not depend on their gauge. One ridge penalty for all units is
    chosen by the log-likelihood on contiguous folds of the bins given (in long recordings, of some of them); each
    unit has a pseudo-observation of half a spike at the mean rate, so that a silent one stays finite.

    Parameters
    ----------
    latents : training latents.
    counts : spikes per bin in the same bins.
    recorded : samples that count; None: all.
    """
    thin = slice(None, None, -(-len(latents) // LARGEST) or 1)
    x = torch.from_numpy(np.ascontiguousarray(latents[thin]))
    counts, recorded = counts[thin], None if recorded is None else recorded[thin]
    center, whitening = _whiten(x)
    design = _design(x, center, whitening)
    penalty = _penalty(design, counts, recorded)
    return PoissonReadout(center, whitening, _newton(design, counts, recorded, penalty, None), penalty)


def _penalty(design: Tensor, counts: Tensor, recorded: Tensor | None) -> float:
    """Return the penalty with the highest log-likelihood of the folds that were left out."""
    units = slice(None, None, -(-counts.shape[1] // FOLD_UNITS) or 1)
    edges = np.linspace(0, len(design), FOLDS + 1).astype(int)
    folds = [torch.arange(a, min(b, a + FOLD_BINS)) for a, b in itertools.pairwise(edges)]
    gains = np.zeros(len(PENALTIES))
    for held in folds:
        rest = torch.cat([fold for fold in folds if fold is not held])
        if not len(rest) or not len(held):
            continue
        seen = None if recorded is None else recorded[rest][:, units]
        train, weights = (design[rest], counts[rest][:, units], seen), None
        for i, penalty in enumerate(PENALTIES):
            weights = _newton(*train, penalty, weights)
            log_rates = design[held] @ weights
            gain = counts[held][:, units] * log_rates - log_rates.exp()
            if recorded is not None:
                gain = torch.where(recorded[held][:, units], gain, 0.0)
            gains[i] += float(gain.sum())
    return PENALTIES[int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))]


def _whiten(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean, and the map of centered latents to uncorrelated ones of unit variance."""
    center = x.mean(0)
    scale = (x - center).square().mean(0).sqrt()
    varies = scale > 1e-12 * center.abs()  # else the deviations are rounding errors of the mean
    scaled = torch.where(varies, (x - center) / scale, 0.0)
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / max(len(x), 1))
    keep = values > 1e-9  # the others are empty
    return center, torch.where(varies, 1 / scale, 0.0)[:, None] * vectors[:, keep] / values[keep].sqrt()


def _design(x: Tensor, center: Tensor, whitening: Tensor) -> Tensor:
    return torch.cat([(x - center) @ whitening, x.new_ones(len(x), 1)], 1)


def _newton(
    design: Float[Tensor, "bin feature"],
    counts: Num[Tensor, "bin unit"],
    recorded: Bool[Tensor, "bin unit"] | None,
    penalty: float,
    start: Float[Tensor, "feature unit"] | None,
    passes: int = 50,
    tolerance: float = 1e-8,
) -> Float[Tensor, "feature unit"]:
    """Minimize the penalized Poisson loss of each unit; a step that does not lower it is halved."""
    features, units = design.shape[1], counts.shape[1]
    if recorded is None:
        spikes, exposure = counts.sum(0, dtype=torch.float64), design.new_full((units,), len(design))
    else:
        counts = torch.where(recorded, counts, 0)
        spikes, exposure = counts.sum(0, dtype=torch.float64), recorded.sum(0, dtype=torch.float64)
    pooled = (spikes.sum() / exposure.sum().clamp_min(1)).clamp_min(1e-12)
    mean = (spikes + PSEUDO_SPIKES) / (exposure + PSEUDO_SPIKES / pooled)
    if start is None:
        start = torch.cat([design.new_zeros(features - 1, units), mean.log()[None]])
    ridge = design.new_full((features, 1), penalty)
    ridge[-1] = 0.0
    chunk = max(1, CHUNK_ENTRIES // max(features**2, units))
    upper = torch.triu_indices(features, features)

    def expand(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prior = PSEUDO_SPIKES / pooled * weights[-1].exp()
        loss = 0.5 * (ridge * weights**2).sum(0) + prior - PSEUDO_SPIKES * weights[-1]
        gradient = ridge * weights
        gradient[-1] += prior - PSEUDO_SPIKES
        packed = design.new_zeros(upper.shape[1], units)
        for first in range(0, len(design), chunk):
            here = slice(first, first + chunk)
            x, y = design[here], counts[here].to(design.dtype)
            log_rates = x @ weights
            rates = log_rates.exp()
            if recorded is not None:
                rates = torch.where(recorded[here], rates, 0.0)
            loss += (rates - y * log_rates).sum(0)
            gradient += x.T @ (rates - y)
            packed += (x[:, upper[0]] * x[:, upper[1]]).T @ rates
        hessian = design.new_zeros(units, features, features)
        hessian[:, upper[0], upper[1]] = packed.T
        hessian[:, upper[1], upper[0]] = packed.T
        hessian += torch.diag_embed(ridge[:, 0])
        hessian[:, -1, -1] += prior
        return loss, gradient, hessian

    weights = start
    loss, gradient, hessian = expand(weights)
    shrink = design.new_ones(units)
    for _ in range(passes):
        scale = hessian.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-12)
        jitter = 1e-12 * scale[:, None, None] * torch.eye(features, dtype=design.dtype)
        step = torch.linalg.solve(hessian + jitter, gradient.T.unsqueeze(-1)).squeeze(-1).T
        promised = (step * gradient).sum(0)
        if not bool((promised > tolerance * (1 + loss.abs())).any()):
            break
        tried = weights - shrink * step
        new_loss, new_gradient, new_hessian = expand(tried)
        better = torch.isfinite(new_loss) & (new_loss <= loss + 1e-12 * loss.abs())
        weights, loss = torch.where(better, tried, weights), torch.where(better, new_loss, loss)
        gradient = torch.where(better, new_gradient, gradient)
        hessian = torch.where(better[:, None, None], new_hessian, hessian)
        shrink = torch.where(better, (2 * shrink).clamp_max(1.0), shrink / 2)
    return weights


def score_counts(evaluation: Evaluation, units: tuple[int, ...], metric: str) -> list[Score]:
    """Return bits/spike of some units on the test part: from the model's rates, or through a readout.

    The spread is over trials or blocks; ``n`` counts spikes. No row without units or spikes.
    """
    counts = evaluation.activity("test", units).numpy()
    recorded = evaluation.recorded("test", units)
    seen = None if recorded is None else recorded.numpy()
    spikes = counts.sum(1, dtype=np.float64) if seen is None else np.where(seen, counts, 0).sum(1, dtype=np.float64)
    if not len(units) or not spikes.sum():
        return []
    if evaluation.positive_rates:
        rates, note = evaluation.rates("test")[:, list(units)], ""
    else:
        readout = evaluation.kept("readout", lambda: _fit_all(evaluation))
        rates = readout.rates(evaluation.latents("test"))[:, list(units)]
        note = f"Poisson readout from latents, penalty {readout.penalty:g}"
    gain = information(rates, counts, seen)
    groups: Int[np.ndarray, " bin"] = evaluation.groups("test")
    nats, total = group_sums(gain[:, None], groups), group_sums(spikes[:, None], groups)
    spread = ratio_sem(nats, total)
    return [
        Score(
            metric,
            float(nats.sum() / total.sum() / np.log(2)),
            evaluation.layout.session,
            unit="bits/spike",
            spread=None if spread is None else spread / float(np.log(2)),
            n=int(spikes.sum()),
            note=note,
        )
    ]


def _fit_all(evaluation: Evaluation) -> PoissonReadout:
    return fit_readout(evaluation.latents("train"), evaluation.activity("train"), recorded=evaluation.recorded("train"))
