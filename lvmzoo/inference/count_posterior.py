"""The best Gaussian posterior of latents given counts: natural-gradient ascent of a lower bound on the likelihood.

The posterior is the prior times a Gaussian site in each bin (Khan, Lin 2017, Conjugate-computation variational
inference, https://arxiv.org/abs/1703.04265). The bound is concave in the mean and the root of the covariance (Challis,
Barber 2013, JMLR 14, 2239), so that there is one optimum, which each trial is taken to by itself: the result depends on
nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.count_emissions import Counts, Emission, of_shown, sites, starting_sites
from lvmzoo.inference.count_smoother import Chain, Sites, Smoothed, smooth

__all__ = ["best_sites", "divergence", "prior"]

TOLERANCE = 1e-6  # last step of the posterior, in its own standard deviations
STEPS = 100  # a trial needs about ten
SLACK = 1e-12  # part of the bound that is rounding
UNSOUND = 1e-8  # relative error at which a result is not believed
NEAR = 0.3  # distance at which the search is where its linear rate tells
CROWD = 0.75  # share of the trials still on their way at which the others are taken out


def prior(
    chain: Chain, bins: int
) -> tuple[Float[Tensor, "bin trial latent"], Float[Tensor, "bin group latent latent"]]:
    """Return the mean and covariance of each bin before anything is observed; the covariance may be one for all."""
    A, mean, covariance = chain.dynamics, chain.initial_mean, chain.initial_covariance
    if covariance.stride(0) == 0:
        covariance = covariance[:1]
    means, covariances = [mean], [covariance]
    for t in range(bins - 1):
        mean = mean @ A.T if chain.drive is None else mean @ A.T + chain.drive[t]
        covariance = A @ covariance @ A.T + chain.noise
        means.append(mean)
        covariances.append(covariance)
    return torch.stack(means), torch.stack(covariances)


class _State(NamedTuple):
    """Where the search stands: sites, their posterior, its bound, and the sites that it asks for; of what is shown."""

    sites: Sites
    mean: Tensor
    covariance: Tensor
    value: Tensor
    target: Sites


class _Pace(NamedTuple):
    """How long the steps of each trial are.

    Steps are halved where the bound would fall. Near the optimum, a whole step leaves a share of the distance, mostly
    on the other side of it: larger covariances ask for sharper evidence, which makes them smaller. Every other step is
    therefore as short as would have met the optimum.
    """

    limit: Tensor
    length_before: Tensor
    distance: Tensor  # to where the sites would go, at the step before
    overshoot: Tensor

    def length(self, turn: int) -> Float[Tensor, " trial"]:
        """Return the lengths of the next steps."""
        return self.limit / (1 + self.overshoot) if turn % 2 else self.limit

    def after(self, length: Tensor, distance: Tensor, better: Tensor) -> _Pace:
        """Return the pace after steps of these lengths, which began at these distances."""
        share = (distance / self.distance.clamp(min=1e-300)).clamp(max=1.0)
        measured = (self.length_before == 1) & (self.distance > 0) & (distance < NEAR)
        overshoot = torch.where(measured, share, self.overshoot)
        limit = torch.where(better, (2 * self.limit).clamp(max=1.0), self.limit / 2)
        return _Pace(limit, length, distance, torch.where(better, overshoot, 0.0))


def best_sites(chain: Chain, parts: Emission, counts: Counts) -> Sites:
    """Return the sites of the best posterior of each trial, of the first latents, up to the last that counts show."""
    bins, trials = counts.counts.shape[:2]
    parts = of_shown(parts)
    shown = parts.readout.shape[1]
    mean, covariance = prior(chain, bins)
    start = starting_sites(parts, counts, mean[..., :shown], covariance[..., :shown, :shown])
    result = Sites(start.precision.clone(), start.shift.clone())
    going = torch.arange(trials, device=start.shift.device)
    done = torch.zeros_like(going, dtype=torch.bool)
    state = _evaluate(chain, parts, counts, start)
    pace = _Pace(*state.value.new_ones(2, trials), *state.value.new_zeros(2, trials))
    for turn in range(STEPS):
        length = pace.length(turn)
        step = length[:, None]
        moved = Sites(
            torch.lerp(state.sites.precision, state.target.precision, step[..., None]),
            torch.lerp(state.sites.shift, state.target.shift, step),
        )
        new = _evaluate(chain, parts, counts, moved)
        better = new.value >= state.value - SLACK * (1 + state.value.abs()).nan_to_num(posinf=0.0)
        left_over = _distance(new, state) / length
        pace = pace.after(length, left_over, better)
        state = new if bool(better.all()) else _choose(better, new, state)
        finished = (left_over <= TOLERANCE) & ~done
        if bool(finished.any()):
            result.precision[:, going[finished]] = state.sites.precision[:, finished]
            result.shift[:, going[finished]] = state.sites.shift[:, finished]
            done |= finished
            left = ~done
            if not bool(left.any()):
                return result
            if int(left.sum()) <= CROWD * len(left):
                kept = left.nonzero()[:, 0]
                going, pace, done = going[kept], _Pace(*(values[kept] for values in pace)), done[kept]
                state, counts, chain = _select(state, kept), counts.of(kept), _trials(chain, kept)
    result.precision[:, going[~done]] = state.sites.precision[:, ~done]
    result.shift[:, going[~done]] = state.sites.shift[:, ~done]
    return result


def divergence(evidence: Sites, posterior: Smoothed) -> Float[Tensor, " trial"]:
    """Return the Kullback-Leibler divergence of each trial's posterior from its prior."""
    J, h = evidence
    m, V = posterior.shown(h.shape[-1])
    Jm = (J @ m[..., None])[..., 0]
    expectation = (h * m - 0.5 * Jm * m).sum((0, 2)) - 0.5 * (J * V).sum((0, 2, 3))
    return expectation - posterior.log_normalizer


def _evaluate(chain: Chain, parts: Emission, counts: Counts, evidence: Sites) -> _State:
    posterior = smooth(chain, evidence)
    mean, covariance = posterior.shown(evidence.shift.shape[-1])
    target, fit = sites(parts, counts, mean, covariance)
    distance = divergence(evidence, posterior)
    sound = distance > -UNSOUND * (1 + fit.abs())  # a divergence is not negative
    value = torch.where(sound, fit - distance, -torch.inf)
    return _State(evidence, mean, covariance, value, target)


def _distance(new: _State, old: _State) -> Tensor:
    """Return the largest change of the posterior in any bin, in units of what the evidence resolves."""
    moved, J = new.mean - old.mean, new.sites.precision
    mean = ((J @ moved[..., None])[..., 0] * moved).sum(-1).clamp(min=0).sqrt()
    spread = ((new.covariance - old.covariance) * J).sum((-1, -2)).abs()
    return (mean + spread).amax(0)


def _choose(better: Tensor, new: _State, old: _State) -> _State:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(better.view(-1, *(1,) * (a.ndim - 2)), a, b)

    return _State(
        Sites(*(pick(a, b) for a, b in zip(new.sites, old.sites, strict=True))),
        pick(new.mean, old.mean),
        pick(new.covariance, old.covariance),
        torch.where(better, new.value, old.value),
        Sites(*(pick(a, b) for a, b in zip(new.target, old.target, strict=True))),
    )


def _select(state: _State, trials: Tensor) -> _State:
    return _State(
        Sites(*(values[:, trials] for values in state.sites)),
        state.mean[:, trials],
        state.covariance[:, trials],
        state.value[trials],
        Sites(*(values[:, trials] for values in state.target)),
    )


def _trials(chain: Chain, trials: Tensor) -> Chain:
    return chain._replace(
        initial_mean=chain.initial_mean[trials],
        initial_covariance=chain.initial_covariance[trials],
        drive=None if chain.drive is None else chain.drive[:, trials],
    )
