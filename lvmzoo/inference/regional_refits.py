r"""EM over the dynamics of many systems at once, which see the same latents through the same units.

What activity tells of the latents is :math:`h_t = C'R^{-1}(y_t - d)`, of precision :math:`C'R^{-1}C` in every bin, so
that all systems go through a bin together, in batches of small matrices. A trial is observed up to its end, without
gaps: its covariances are then those of any other trial until it ends, and the sum :math:`S_t` of them over the trials
that reach bin t obeys :math:`S_t = n_t V_t + G_t (S_{t+1} - n_{t+1} P_{t+1}) G_t'`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.inference.count_smoother import root_of
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments
from lvmzoo.inference.maximization import solve_initial
from lvmzoo.inference.regional_maximization import solve_regional_dynamics
from lvmzoo.inference.regional_structure import Structure

__all__ = ["Seen", "refit_together"]

STEADY = 1e-14  # largest relative change of covariances that counts as none


class Seen(NamedTuple):
    """What the trials of one system tell of the latents."""

    evidence: Float[Tensor, "trial bin state"]  # h; zero after a trial's end
    lengths: Int[Tensor, " trial"]  # bins, all of them observed


class _Filter(NamedTuple):
    """Matrices of the filter and the smoother; of the bins after the last, they are those of the last."""

    filtered: Float[Tensor, "step case state state"]  # V_t: covariance given the bins up to t
    predicted: Float[Tensor, "step case state state"]  # P_{t+1} = A V_t A' + Q
    forward: Float[Tensor, "step case state state"]  # (I - V_t J) A
    gain: Float[Tensor, "step case state state"]  # G_t = V_t A' P_{t+1}^-1


def refit_together(
    model: LinearGaussian,
    cases: list[Seen],
    structure: Structure,
    allowed: Bool[Tensor, "state state"],
    passes: int,
) -> tuple[LinearGaussian, Moments]:
    """Return dynamics and starts after some passes of EM, and the moments of the last pass, both of all cases.

    Parameters
    ----------
    model : where every case starts, of one system; its readout and noise stay.
    cases : their trials, as many bins in each.
    structure, allowed : regions of the state, and the elements of the dynamics that are free.
    passes : at least one.
    """
    assert passes > 0
    number = len(cases)
    information = model.readout.T @ (model.readout / model.noise[:, None])
    h = torch.stack([case.evidence for case in cases]).permute(2, 0, 1, 3).contiguous()  # bin, case, trial, state
    lengths = torch.stack([case.lengths for case in cases])
    every = model._replace(
        dynamics=model.dynamics.expand(number, -1, -1),
        dynamics_noise=model.dynamics_noise.expand(number, -1, -1),
        initial_mean=model.initial_mean.expand(number, -1),
        initial_covariance=model.initial_covariance.expand(number, -1, -1),
    )
    for _ in range(passes):
        moments = _moments(every, information, h, lengths)
        A, _, Q = solve_regional_dynamics(every, moments, structure.regions, allowed, structure.rank, structure.columns)
        mean, covariance = solve_initial(every, moments)
        every = every._replace(dynamics=A, dynamics_noise=Q, initial_mean=mean, initial_covariance=covariance)
    return every, moments


def _moments(
    model: LinearGaussian,
    information: Float[Tensor, "state state"],
    h: Float[Tensor, "bin case trial state"],
    lengths: Int[Tensor, "case trial"],
) -> Moments:
    """Return the sums over each case's trials that its M-step needs; those about units are left out."""
    bins, cases, _, state = h.shape
    run = _run(model, information, bins)
    step = torch.arange(bins).clamp(max=len(run.gain) - 1)
    inside = torch.arange(bins, device=h.device)[:, None, None] < lengths  # bin, case, trial
    x = _smoothed(model, information, run, step, h, inside)
    reach = inside.sum(-1).to(h)  # bin, case
    total, first, last, cross = _summed(run, step, reach)
    rows = x.transpose(0, 1).flatten(1, 2)  # case, bin and trial
    second = rows.mT @ rows
    ending = x.gather(0, (lengths - 1).clamp(min=0)[None, :, :, None].expand(1, -1, -1, state))[0]
    start = x[0]
    following = x[1:].transpose(0, 1).flatten(1, 2).mT @ x[:-1].transpose(0, 1).flatten(1, 2)
    none = h.new_zeros(cases, 0)
    return Moments(
        log_likelihood=h.new_zeros(cases),
        bins=reach.sum(0),
        trials=reach[0],
        transitions=reach[1:].sum(0),
        initial_sum=start.sum(1),
        initial_moment=start.mT @ start + first,
        before=second - ending.mT @ ending + total - last,
        after=second - start.mT @ start + total - first,
        cross=following + cross,
        squares=none,
        activity=none[..., None],
        readout=none[..., None, None],
    )


def _run(model: LinearGaussian, information: Float[Tensor, "state state"], bins: int) -> _Filter:
    A, Q, P = model.dynamics, model.dynamics_noise, model.initial_covariance
    identity = torch.eye(A.shape[-1]).to(A)
    filtered, predicted = [], []
    for _ in range(bins):
        root = root_of(P)
        K = torch.linalg.cholesky(identity + root.mT @ information @ root)
        half = torch.linalg.solve_triangular(K, root.mT, upper=False)
        through = half @ A.mT
        after = Q + through.mT @ through
        filtered.append(half.mT @ half)
        predicted.append(after)
        change = (after - P).abs().amax((1, 2)) > STEADY * after.abs().amax((1, 2))
        P = after
        if not bool(change.any()):
            break
    V, P = torch.stack(filtered), torch.stack(predicted)
    return _Filter(V, P, (identity - V @ information) @ A, torch.linalg.solve(P, A @ V).mT)


def _smoothed(
    model: LinearGaussian,
    information: Float[Tensor, "state state"],
    run: _Filter,
    step: Int[Tensor, " bin"],
    h: Float[Tensor, "bin case trial state"],
    inside: Bool[Tensor, "bin case trial"],
) -> Float[Tensor, "bin case trial state"]:
    """Return E(x_t | all bins), zero after a trial's end."""
    V, at = run.filtered, step.tolist()
    m = h @ V[step]
    m[0] += (model.initial_mean[:, None] - (model.initial_mean @ information)[:, None] @ V[0]).expand_as(m[0])
    forward, back = run.forward.mT.contiguous(), run.gain.mT.contiguous()
    for t in range(1, len(h)):
        m[t].baddbmm_(m[t - 1], forward[at[t]])
    predicted = model.dynamics.mT @ back  # what a bin by itself says of the bin after it, brought back
    m[:-1] -= (m[:-1] @ predicted[step[:-1]]) * inside[1:, ..., None]
    m *= inside[..., None]
    for t in range(len(h) - 2, -1, -1):
        m[t].baddbmm_(m[t + 1], back[at[t]])
    return m


def _summed(run: _Filter, step: Int[Tensor, " bin"], reach: Float[Tensor, "bin case"]) -> tuple[Tensor, ...]:
    """Return the sums of covariances over bins and trials: of all bins, the first, the last; of a bin with the next."""
    V, P, G = run.filtered, run.predicted, run.gain
    after = torch.cat([reach[1:], torch.zeros_like(reach[:1])])
    fresh = reach[..., None, None] * V[step] - after[..., None, None] * (G @ P @ G.mT)[step]
    S = torch.empty_like(fresh)
    S[-1] = fresh[-1]
    back = G.mT.contiguous()
    cross = torch.zeros_like(S[0])
    for t in range(len(S) - 2, -1, -1):
        k = int(step[t])
        carried = S[t + 1] @ back[k]
        cross += carried
        S[t] = fresh[t] + G[k] @ carried
    last = ((reach - after)[..., None, None] * V[step]).sum(0)
    return S.sum(0), S[0], last, cross
