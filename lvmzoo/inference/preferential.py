r"""Preferential subspace identification, and plain subspace identification, from the moments of a Hankel matrix.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad y_t = C x_t + D u_t + v_t, \quad z_t = C_z x_t + D_z u_t + \epsilon_t

First the states are found through which the past of y predicts the future of the behavior z, then those through which
it predicts what they leave of its own future; so the first ones evolve by themselves. Known inputs u are projected out
obliquely, and A and C are estimated beside all future inputs, which leaves no bias of a finite horizon. Variables are
rows of coefficients over the window h, whose covariance is all that is known of the data.

Sani, Abbaspourazad, Wong, Pesaran, Shanechi (2021), Nature Neuroscience 24, 140-149, doi:10.1038/s41593-020-00733-0;
with inputs: Vahidi, Sani, Shanechi (2024), PNAS 121, e2212887121, doi:10.1073/pnas.2212887121; Van Overschee, De Moor
(1996), Subspace identification for linear systems, doi:10.1007/978-1-4613-0465-4, chapters 2 to 4.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Identified", "Subspaces", "Window", "whiten"]

RANK = 1e-10  # share of the largest, below which a variance counts as none


class Window(NamedTuple):
    """What lies where in a window of ``lags`` bins: in each bin units, then behavior, then known inputs."""

    units: int
    behavior: int
    inputs: int
    lags: int

    def places(self, start: int, stop: int, *parts: str) -> Int[Tensor, " place"]:
        """Return where some parts ("units", "behavior", "inputs") of the bins [start, stop) lie, bin by bin."""
        edges = {"units": (0, self.units), "behavior": (self.units, self.units + self.behavior)}
        edges["inputs"] = (self.units + self.behavior, self.columns)
        within = torch.cat([torch.arange(*edges[part]) for part in parts])
        return (torch.arange(start, stop)[:, None] * self.columns + within).flatten()

    @property
    def columns(self) -> int:
        """Columns of a bin."""
        return self.units + self.behavior + self.inputs


class Identified(NamedTuple):
    """Parameters of the system, the behavior-relevant states first."""

    dynamics: Float[Tensor, "latent latent"]  # A
    drive: Float[Tensor, "latent input"]  # B
    readout: Float[Tensor, "unit latent"]  # C
    feedthrough: Float[Tensor, "unit input"]  # D
    behavior: Float[Tensor, "behavior latent"]  # Cz
    behavior_feedthrough: Float[Tensor, "behavior input"]  # Dz
    state_noise: Float[Tensor, "latent latent"]  # Q, of w
    cross: Float[Tensor, "latent unit"]  # S, of w with v
    noise: Float[Tensor, "unit unit"]  # R, of v


class Stage(NamedTuple):
    """States through which the past predicts a future: O x, with x = B h."""

    observability: Float[Tensor, "future latent"]  # O
    states: Float[Tensor, "latent past"]  # coefficients of x over the past
    strength: Float[Tensor, " latent"]  # singular values of the projected future
    rank: int


class Subspaces:
    """The projections of one covariance with one horizon, which all state dimensions share.

    Parameters
    ----------
    covariance : of the window.
    window : what lies where.
    horizon : bins of the past before the middle of the window, and of the future after it.
    """

    def __init__(self, covariance: Float[Tensor, "place place"], window: Window, horizon: int) -> None:
        self.G, self.window, self.horizon = covariance, window, horizon
        self.middle = window.lags // 2
        self.past = window.places(self.middle - horizon, self.middle, "units", "inputs")
        self.inputs = window.places(self.middle, self.middle + horizon, "inputs")
        self.white_past = whiten(self._cov(self.past, self.past))
        self._left: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._given: dict[tuple[str, int], Tensor] = {}

    def future(self, part: str, skip: int = 0) -> Int[Tensor, " place"]:
        """Return where the future of a part lies, without its first bins."""
        return self.window.places(self.middle + skip, self.middle + self.horizon, part)

    @cached_property
    def _behavior_svd(self) -> tuple[Tensor, Tensor, Tensor]:
        return _svd(self.oblique(self.future("behavior"))[0])

    @cached_property
    def _units_oblique(self) -> Tensor:
        return self.oblique(self.future("units"))[0]

    def oblique(self, target: Int[Tensor, " place"]) -> tuple[Tensor, Tensor]:
        """Return the projection on the past, in white coordinates, along future inputs, and their coefficients."""
        W, U = self.white_past, self.inputs
        on_past = self._cov(target, self.past) @ W
        if not len(U):
            return on_past, on_past.new_zeros(len(target), 0)
        inputs_on_past = self._cov(U, self.past) @ W
        white = whiten(self._cov(U, U) - inputs_on_past @ inputs_on_past.T)
        along = (self._cov(target, U) - on_past @ inputs_on_past.T) @ white @ white.T
        return on_past - along @ inputs_on_past, along

    def first(self, relevant: int) -> Stage:
        """Return the states that predict behavior."""
        return self._stage(self._behavior_svd, relevant)

    def second(self, first: Stage, other: int) -> Stage:
        """Return the states that predict what the first ones leave of the activity."""
        relevant = len(first.states)
        if relevant not in self._left:
            left = self._units_oblique
            if relevant:
                left = left - self.readout_of(first) @ self._white(first)
            self._left[relevant] = _svd(left)
        return self._stage(self._left[relevant], other)

    def readout_of(self, first: Stage) -> Float[Tensor, "future latent"]:
        """Return the regression of future activity on the states."""
        W = self._white(first)
        return self._units_oblique @ torch.linalg.pinv(W)

    def _white(self, stage: Stage) -> Tensor:
        return stage.states @ self._cov(self.past, self.past) @ self.white_past

    def _stage(self, svd: tuple[Tensor, Tensor, Tensor], states: int) -> Stage:
        U, s, Vh = svd
        rank = int((s > RANK * s[:1].clamp(min=1e-300)).sum()) if len(s) else 0
        kept = min(states, rank)
        root = s[:kept].sqrt()
        return Stage(U[:, :kept] * root, (root[:, None] * Vh[:kept]) @ self.white_past.T, s, rank)

    def _cov(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self.G[rows][:, columns]

    def solve(self, relevant: int, latents: int) -> Identified:
        """Return the parameters with that many states, of which ``relevant`` predict behavior.

        There may be fewer of them, where the past does not predict so many dimensions.
        """
        first = self.first(relevant)
        second = self.second(first, latents - relevant)
        units = self.window.units
        read = self.readout_of(first) if len(first.states) else first.states.new_zeros(len(second.observability), 0)
        present: list[Tensor] = []
        coming: list[Tensor] = []
        for skip, kept in ((0, present), (1, coming)):
            z, y = self._predicted("behavior", skip), self._predicted("units", skip)
            x1 = torch.linalg.pinv(first.observability[: len(z)]) @ z
            kept += [x1, torch.linalg.pinv(second.observability[: len(y)]) @ (y - read[: len(y)] @ x1)]
        x, after = torch.cat(present), torch.cat(coming)
        n1, n = len(first.states), len(x)
        known = torch.eye(len(self.G), dtype=self.G.dtype, device=self.G.device)
        now = self.window.places(self.middle, self.middle + 1, "inputs")
        y_now = known[self.window.places(self.middle, self.middle + 1, "units")]
        z_now = known[self.window.places(self.middle, self.middle + 1, "behavior")]
        future = known[self.inputs]
        A = torch.zeros(n, n, dtype=x.dtype, device=x.device)
        beside = torch.cat([x[:n1], future])
        w = after.clone()
        if n1:
            theta = self._regress(after[:n1], beside)
            A[:n1, :n1] = theta[:, :n1]
            w[:n1] -= theta @ beside
        beside = torch.cat([x, future])
        theta = self._regress(torch.cat([after[n1:], y_now, z_now]), beside)
        A[n1:] = theta[: n - n1, :n]
        fitted = theta @ beside
        w[n1:] -= fitted[: n - n1]
        v = y_now - fitted[n - n1 : n - n1 + units]
        C, Cz = theta[n - n1 : n - n1 + units, :n], theta[n - n1 + units :, :n]
        B, D, Dz = self._input_parameters(first, second, A, C, Cz, y_now, z_now, known[now])
        wG = w @ self.G
        Q, R = _symmetric(wG @ w.T), _symmetric(v @ self.G @ v.T)
        return Identified(A, B, C, D, Cz, Dz, Q, wG @ v.T, R)

    def _predicted(self, part: str, skip: int) -> Float[Tensor, "future place"]:
        """Return the future given the past, which ``skip`` bins were added to, and future inputs."""
        if (part, skip) in self._given:
            return self._given[part, skip]
        target = self.future(part, skip)
        stop = self.middle + skip
        given = self.window.places(self.middle - self.horizon, stop, "units", "inputs")
        white = self._white_nested(given) if skip else self.white_past
        rest = self.window.places(stop, self.middle + self.horizon, "inputs")
        result = self.G.new_zeros(len(target), len(self.G))
        on_given = self._cov(target, given) @ white
        if len(rest):
            rest_on_given = self._cov(rest, given) @ white
            white_rest = whiten(self._cov(rest, rest) - rest_on_given @ rest_on_given.T)
            along = (self._cov(target, rest) - on_given @ rest_on_given.T) @ white_rest @ white_rest.T
            result[:, rest] = along
            on_given = on_given - along @ rest_on_given
        result[:, given] = on_given @ white.T
        self._given[part, skip] = result
        return result

    def _white_nested(self, given: Tensor) -> Tensor:
        """Return what whitens the past and the bin after it, in the coordinates of the past and some new ones."""
        old, W = len(self.past), self.white_past
        new = given[old:]
        on_past = self._cov(new, self.past) @ W
        white = whiten(self._cov(new, new) - on_past @ on_past.T)
        nested = W.new_zeros(len(given), W.shape[1] + white.shape[1])
        nested[:old, : W.shape[1]] = W
        nested[:old, W.shape[1] :] = -W @ (on_past.T @ white)
        nested[old:, W.shape[1] :] = white
        return nested

    def _regress(self, target: Tensor, on: Tensor) -> Tensor:
        """Return the coefficients of the regression of some variables on others."""
        covariance = on @ self.G
        white = whiten(covariance @ on.T)
        return (target @ covariance.T @ white) @ white.T

    def _input_parameters(
        self, first: Stage, second: Stage, A: Tensor, C: Tensor, Cz: Tensor, y: Tensor, z: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return B, D and Dz, roughly: from the states that the past alone tells, and the inputs of the bin."""
        n = len(A)
        if not len(u):
            return A.new_zeros(n, 0), C.new_zeros(len(C), 0), Cz.new_zeros(len(Cz), 0)
        x = torch.zeros(n, len(self.G), dtype=A.dtype, device=A.device)
        x[:, self.past] = torch.cat([first.states, second.states])
        theta = self._regress(torch.cat([y, z]) - torch.cat([C, Cz]) @ x, u)
        D, Dz = theta[: len(C)], theta[len(C) :]
        # B from the activity of the bin after it: y' = C A x + C B u + D u' + noise
        following = self.window.places(self.middle + 1, self.middle + 2, "units")
        known = torch.eye(len(self.G), dtype=A.dtype, device=A.device)
        next_u = known[self.window.places(self.middle + 1, self.middle + 2, "inputs")]
        response = self._regress(known[following] - C @ A @ x, torch.cat([u, next_u]))[:, : len(u)]
        return torch.linalg.lstsq(C, response, driver="gelsd").solution, D, Dz


def whiten(covariance: Float[Tensor, "place place"]) -> Float[Tensor, "place direction"]:
    """Return W with W' S W = I: the inverse of a Cholesky factor, or of the directions that have variance.

    The triangular factor nests: that of the first places is a part of that of all. Silent and duplicated units, and
    more places than samples, leave directions without variance, which are found by eigenvalues in units of each place.
    """
    scale = covariance.diagonal().clamp(min=0).sqrt()
    floor = 1e-150 + 1e-13 * (float(scale.max()) if len(scale) else 0.0)
    inverse = torch.where(scale > floor, 1 / scale.clamp(min=1e-300), 0.0)
    correlation = covariance * torch.outer(inverse, inverse)
    L, info = torch.linalg.cholesky_ex(correlation)
    if not len(scale) or (not int(info) and float(L.diagonal().square().min()) > RANK):
        identity = torch.eye(len(L), dtype=L.dtype, device=L.device)
        return inverse[:, None] * torch.linalg.solve_triangular(L, identity, upper=False).T
    values, vectors = torch.linalg.eigh(_symmetric(correlation))
    kept = values > RANK * values[-1].clamp(min=1e-300)
    return inverse[:, None] * vectors[:, kept] * values[kept].rsqrt()


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the decomposition whose left vectors have a positive largest element: signs are arbitrary otherwise."""
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    sign = torch.ones_like(s)
    if len(U):
        sign = torch.where(U.gather(0, U.abs().argmax(0, keepdim=True))[0] < 0, -1.0, 1.0)
    return U * sign, s, sign[:, None] * Vh


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
