"""Starting values of processes with delays: covariances between regions at all lags, as sums of delayed bells.

Probabilistic canonical correlation at one lag cannot tell latents of equal correlation apart, and misses those whose
delay exceeds their timescale. Over many lags each latent has a profile of its own, and its directions, delay and
timescale follow together by least squares, from several starts: small problems of moments, where all signs of the
delays are tried. What latents across regions leave of the covariance within a region is factor-analyzed.

Bach & Jordan (2005), A probabilistic interpretation of canonical correlation analysis, UC Berkeley report 688.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.factor_analysis import maximum_likelihood
from lvmzoo.inference.lagged_moments import LaggedMoments

__all__ = ["Start", "starting_processes"]

STARTING = (0.02, 0.995)  # correlations one bin apart that a starting timescale is taken from
LARGEST = 0.98  # canonical correlation: beyond it nothing would be left to a region's own noise
TIMESCALES = (1.0, 3.0, 8.0)  # bins, that searches begin with
SHORT, LONG = 25, 300  # steps of each search, and of those that went best
KEPT = 3  # searches that are continued
ROUNDING = 1e-24  # variance, as a share of the squared mean, that sums of equal numbers leave
SPARE = 2  # dimensions of each region beyond the number of latents that searches look at


class Start(NamedTuple):
    """Starting values of one session."""

    timescales: Float[Tensor, " latent"]
    delays: Float[Tensor, "region across"]
    readout: Float[Tensor, "unit column"]
    noise: Float[Tensor, " unit"]


def starting_processes(
    moments: LaggedMoments,
    regions: Sequence[slice],
    across: int,
    within: int,
    floor: Float[Tensor, " unit"],
    longest_delay: float,
    shared: Start | None = None,
) -> Start:
    """Return starting values from the moments of one session.

    Parameters
    ----------
    moments : at lags from zero to as many as delays are looked for.
    regions : units of each; empty ones keep delays of zero.
    across, within : numbers of processes of all regions, and of each region.
    floor : smallest private variances.
    longest_delay : bins.
    shared : of another session, whose delays and timescales of processes across regions are taken as they are.
    """
    S = moments.covariance
    present = [m for m, units in enumerate(regions) if units.stop > units.start]
    rounding = ROUNDING * moments.mean.square()
    roots = {m: _roots(S[0][regions[m], regions[m]], float(rounding[regions[m]].max())) for m in present}
    delays = S.new_zeros(len(regions), across)
    timescales = S.new_full((across,), 3.0)
    loadings = {m: S.new_zeros(len(root), across) for m, (root, _) in roots.items()}
    if across and len(present) > 1:
        whiten = [roots[m][1] for m in present]
        problem = _Lagged(moments, [regions[m] for m in present], whiten, across, longest_delay)
        known = None if shared is None else (shared.delays[present], shared.timescales[:across])
        found = problem.solve(known)
        for place, m in enumerate(present):
            loadings[m] = roots[m][0] @ found.directions[place]
            delays[m] = found.delays[place]
        timescales = found.timescales
    elif across:
        for m in present:
            units = regions[m]
            loadings[m] = maximum_likelihood(S[0][units, units], across, floor[units], None, 50, 1e-6)[0]
    readout = S.new_zeros(S.shape[1], across + within)
    noise = torch.maximum(S[0].diagonal(), floor)
    own = S.new_full((len(regions), within), 3.0)
    for m in present:
        units = regions[m]
        readout[units, :across] = loadings[m]
        left = S[0][units, units] - loadings[m] @ loadings[m].T
        left = left + torch.diag((floor[units] - left.diagonal()).clamp(min=0))
        if not within:
            noise[units] = torch.maximum(left.diagonal(), floor[units])
            continue
        W, noise[units] = maximum_likelihood(left, within, floor[units], None, 50, 1e-6)
        bells = torch.exp(-0.5 / timescales.square())
        later = S[min(1, len(S) - 1)][units, units] - (loadings[m] * bells) @ loadings[m].T
        own[m], order = _timescales(W, noise[units], (later + later.T) / 2).sort(descending=True)
        readout[units, across:] = W[:, order]
    if shared is not None:
        delays = shared.delays
    return Start(torch.cat([timescales, own.flatten()]), delays, readout, noise)


def _roots(S: Float[Tensor, "own own"], rounding: float) -> tuple[Tensor, Tensor]:
    """Return the square root of a covariance, and its inverse; tiny directions are left out of that, and rounding."""
    values, vectors = torch.linalg.eigh(S)
    values = values.clamp(min=0)
    keep = values > (1e-9 * values[-1]).clamp(min=max(rounding, 1e-300))
    inverse = torch.where(keep, values.clamp(min=1e-300).rsqrt(), 0.0)
    return (vectors * values.sqrt()) @ vectors.T, (vectors * inverse) @ vectors.T


def _timescales(W: Tensor, noise: Tensor, later: Tensor) -> Float[Tensor, " within"]:
    """Return timescales from the correlation one bin apart along each factor."""
    weights = W / noise[:, None]
    shared = (W.T @ weights).square().sum(0).clamp(min=1e-300)
    correlation = torch.einsum("nj,nm,mj->j", weights, later, weights) / shared
    return (-2 * correlation.clamp(*STARTING).log()).rsqrt()


class _Found(NamedTuple):
    directions: list[Tensor]  # of each region, whitened: (unit, latent)
    delays: Tensor  # (region, latent), the first zero
    timescales: Tensor


class _Lagged:
    """Least squares on whitened covariances between regions by lag."""

    def __init__(
        self,
        moments: LaggedMoments,
        regions: Sequence[slice],
        whiten: Sequence[Tensor],
        across: int,
        longest_delay: float,
    ) -> None:
        S = moments.covariance
        used = int((moments.pairs > 0).sum())
        self.lags = np.arange(1.0 - used, used)
        self.across, self.longest = across, longest_delay
        self.pairs = list(itertools.combinations(range(len(regions)), 2))
        raw = {}
        for a, b in self.pairs:
            later = [whiten[a] @ S[k][regions[b], regions[a]].T @ whiten[b] for k in range(used)]
            earlier = [whiten[a] @ S[k][regions[a], regions[b]] @ whiten[b] for k in range(used - 1, 0, -1)]
            raw[a, b] = torch.stack([*earlier, *later])
        share = (moments.pairs[:used] / moments.pairs[0]).sqrt()
        weight = torch.cat([share[1:].flip(0), share])[:, None, None]
        self.spaces = []
        for m in range(len(regions)):
            seen = [C.transpose(1, 2) if b == m else C for (a, b), C in raw.items() if m in (a, b)]
            stacked = torch.cat([(C * weight).movedim(0, 1).flatten(1) for C in seen], 1)
            vectors = torch.linalg.svd(stacked, full_matrices=False)[0]
            self.spaces.append(vectors[:, : across + SPARE])
        self.weight = weight[:, :, 0].cpu().numpy()
        self.targets = {
            (a, b): (weight * (self.spaces[a].T @ C @ self.spaces[b])).cpu().numpy() for (a, b), C in raw.items()
        }

    def solve(self, known: tuple[Tensor, Tensor] | None = None) -> _Found:
        """Return the best of several searches; ``known`` are delays (region, latent) and timescales to keep."""
        from scipy.optimize import minimize

        low, high = np.log(0.3), np.log(2.0 * len(self.lags))
        free = sum(space.shape[1] for space in self.spaces) * self.across
        delays = (len(self.spaces) - 1) * self.across
        bounds = [(None, None)] * free + [(-self.longest, self.longest)] * delays + [(low, high)] * self.across
        starts = self._starts()
        if known is not None:
            shape = [*(known[0] - known[0][0])[1:].flatten().tolist(), *known[1].log().tolist()]
            bounds[free:] = [(value, value) for value in shape]
            starts = [np.concatenate([start[:free], shape]) for start in starts]

        def search(start: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
            found = minimize(self._error, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
            return float(found.fun), found.x

        tried = sorted((search(start, SHORT) for start in starts), key=lambda found: found[0])
        _, best = min((search(point, LONG) for _, point in tried[:KEPT]), key=lambda found: found[0])
        directions, D, log_tau = self._split(best)
        if len(directions) == 2:  # only the product of their lengths is known
            norms = [np.linalg.norm(u, axis=0).clip(1e-12) for u in directions]
            middle = np.sqrt(norms[0] * norms[1])
            directions = [u / n * middle for u, n in zip(directions, norms, strict=True)]
        whole = []
        for space, u in zip(self.spaces, directions, strict=True):
            left, s, right = torch.linalg.svd(space @ torch.from_numpy(u).to(space), full_matrices=False)
            whole.append((left * s.clamp(max=LARGEST)) @ right)
        return _Found(whole, *(torch.from_numpy(values).to(whole[0]) for values in (D, np.exp(log_tau))))

    def _starts(self) -> list[np.ndarray]:
        """Return canonical directions at lag zero with all delays of one sign or none, then random ones."""
        random = np.random.default_rng(0)
        middle = len(self.lags) // 2
        canonical = [np.zeros((space.shape[1], self.across)) for space in self.spaces]
        for (a, b), target in self.targets.items():
            u, s, v = np.linalg.svd(target[middle])
            for m, vectors in ((a, u), (b, v.T)):
                if not canonical[m].any():
                    width = min(self.across, len(s))
                    canonical[m][:, :width] = vectors[:, :width] * np.sqrt(s[:width])
        starts = []
        others = (len(self.spaces) - 1) * self.across
        for sign, common in itertools.product((0.0, 1.0, -1.0), TIMESCALES):
            shift = np.full(others, sign * min(common, self.longest))
            starts.append([*(u.ravel() for u in canonical), shift, np.full(self.across, np.log(common))])
        for _ in range(6 * self.across if self.across > 1 else 0):
            turned = [0.5 * random.normal(size=u.shape) / np.sqrt(len(u)) for u in canonical]
            tau = np.exp(random.uniform(np.log(TIMESCALES[0]), np.log(TIMESCALES[-1]), self.across))
            shift = np.tile(tau, len(self.spaces) - 1) * random.uniform(-1, 1, others)
            starts.append([*(u.ravel() for u in turned), shift.clip(-self.longest, self.longest), np.log(tau)])
        return [np.concatenate(parts) for parts in starts]

    def _split(self, point: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Return directions of each region, delays (region, latent) and log timescales."""
        sizes = [space.shape[1] * self.across for space in self.spaces]
        *flat, D, log_tau = np.split(point, np.cumsum([*sizes, (len(self.spaces) - 1) * self.across]))
        directions = [u.reshape(-1, self.across) for u in flat]
        return directions, np.concatenate([np.zeros((1, self.across)), D.reshape(-1, self.across)]), log_tau

    def _error(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the squared error and its gradient."""
        directions, D, log_tau = self._split(point)
        by_direction = [np.zeros_like(u) for u in directions]
        by_delay, by_tau = np.zeros_like(D), np.zeros_like(log_tau)
        error = 0.0
        for (a, b), target in self.targets.items():
            u, v = directions[a], directions[b]
            scaled = (self.lags[:, None] - (D[b] - D[a])) / np.exp(log_tau)
            bell = self.weight * np.exp(-0.5 * scaled**2)
            left = target - (bell[:, None, :] * u) @ v.T
            error += float(np.vdot(left, left))
            against_v = left @ v
            weighted = (against_v * bell[:, None, :]).sum(0)
            by_direction[a] -= 2 * weighted
            by_direction[b] -= 2 * (left.transpose(0, 2, 1) @ u * bell[:, None, :]).sum(0)
            by_bell = -2 * (against_v * u).sum(1) * bell
            pull = (by_bell * scaled).sum(0) / np.exp(log_tau)
            by_delay[b] += pull
            by_delay[a] -= pull
            by_tau += (by_bell * scaled**2).sum(0)
        return error, np.concatenate([*(g.ravel() for g in by_direction), by_delay[1:].ravel(), by_tau])
