r"""What a bin tells about the states of a linear system whose noise of state and activity is full and correlated.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad y_t = d + C x_t + D u_t + v_t, \quad
    \mathrm{Cov}(w, v) = [Q, S; S', R]

It enters through c = C' R^-1 e, s = S R^-1 e and J = C' R^-1 C, T = S R^-1 C of the units observed in the bin (e: what
the prediction leaves), so that recursions are of the size of the state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.kalman import condition

__all__ = ["Gains", "Observer", "System", "Told", "settled"]

STEADY = 1e-12  # largest relative change of a covariance that counts as none


class System(NamedTuple):
    """Parameters; without known inputs B and D have no columns."""

    dynamics: Float[Tensor, "latent latent"]  # A
    drive: Float[Tensor, "latent input"]  # B
    readout: Float[Tensor, "unit latent"]  # C
    offset: Float[Tensor, " unit"]  # d
    feedthrough: Float[Tensor, "unit input"]  # D
    state_noise: Float[Tensor, "latent latent"]  # Q
    cross: Float[Tensor, "latent unit"]  # S
    noise: Float[Tensor, "unit unit"]  # R, invertible
    predicted: Float[Tensor, "latent latent"]  # P, the covariance of the state given all bins before


class Told(NamedTuple):
    """What a set of units tells about the state of a bin."""

    to_c: Float[Tensor, "unit latent"]  # R^-1 C, zero for units that are not observed
    to_s: Float[Tensor, "unit latent"]  # R^-1 S'
    J: Float[np.ndarray, "latent latent"]
    T: Float[np.ndarray, "latent latent"]
    state_noise: Float[np.ndarray, "latent latent"]  # of w given v: Q - S R^-1 S'
    root: Float[Tensor, "unit unit"]  # F with F F' = R^-1
    log_determinant: float  # of R of these units
    units: int


class Observer:
    """What sets of units tell, computed when first asked for."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.A = system.dynamics.cpu().numpy()
        self.P = system.predicted.cpu().numpy()
        self._told: dict[bytes, Told] = {}
        self.everything = self.told(np.ones(len(system.offset), bool))
        self.steady = self.update(self.P, self.everything)
        closed, gain, V, keep = (
            torch.from_numpy(np.ascontiguousarray(m.T)).to(system.offset)
            for m in (self.steady.closed, self.steady.gain, self.steady.filtered, self.steady.keep)
        )
        told = self.everything
        self._from_state = torch.cat([closed, keep], 1)
        self._from_activity = torch.cat([told.to_c @ gain + told.to_s, told.to_c @ V], 1)

    def told(self, units: Bool[np.ndarray, " unit"]) -> Told:
        """Return what some units tell."""
        key = np.packbits(units).tobytes()
        if key not in self._told:
            if len(self._told) > 512:  # single samples are missing: hardly any set comes twice
                self._told = {}
            self._told[key] = self._compute(units)
        return self._told[key]

    def _compute(self, units: Bool[np.ndarray, " unit"]) -> Told:
        system = self.system
        seen = torch.from_numpy(np.flatnonzero(units)).to(system.offset.device)
        C, S, R = system.readout[seen], system.cross[:, seen], system.noise[seen][:, seen]
        L = torch.linalg.cholesky(R)
        whitened = torch.linalg.solve_triangular(L, torch.cat([C, S.T], 1), upper=False)
        weights = torch.linalg.solve_triangular(L.T, whitened, upper=True)
        n = C.shape[1]
        gram = (whitened.T @ whitened).cpu().numpy()
        to_both = system.readout.new_zeros(len(system.offset), 2 * n)
        to_both[seen] = weights
        root = torch.zeros_like(system.noise)
        identity = torch.eye(len(L), dtype=L.dtype, device=L.device)
        root[seen[:, None], seen] = torch.linalg.solve_triangular(L, identity, upper=False).T
        return Told(
            to_both[:, :n],
            to_both[:, n:],
            gram[:n, :n],
            gram[n:, :n],
            system.state_noise.cpu().numpy() - gram[n:, n:],
            root,
            2 * float(L.diagonal().log().sum()),
            len(seen),
        )

    def update(self, P: Float[np.ndarray, "latent latent"], told: Told) -> Gains:
        """Return the gains of a bin whose predicted covariance is P."""
        V, log_det = condition(P[None], told.J[None])
        V = V[0]
        keep = np.eye(len(P)) - V @ told.J
        through = self.A - told.T
        after = through @ V @ through.T + told.state_noise
        return Gains(P, V, keep, through @ keep, through @ V, (after + after.T) / 2, float(log_det[0]))

    def step(
        self,
        x: Float[Tensor, "trial latent"],
        covariance: Float[np.ndarray, "trial latent latent"] | None,
        y: Num[Tensor, "trial unit"],
        seen: Bool[Tensor, "trial unit"],
        u: Float[Tensor, "trial input"] | None,
    ) -> tuple[Float[Tensor, "trial latent"], Float[np.ndarray, "trial latent latent"] | None, Tensor]:
        """Return the prediction of the next bin and its covariance, and E(x_t | bins up to t), as recordings go on.

        Parameters
        ----------
        x, covariance : prediction of this bin; without a covariance it is the steady one.
        y, seen, u : activity, what of it is observed, and known inputs.
        """
        system, n = self.system, len(self.A)
        e = y - system.offset
        if u is not None and u.shape[1]:
            e = e - u @ system.feedthrough.T
        if covariance is None and bool(seen.all()):
            both = torch.addmm(x @ self._from_state, e, self._from_activity)
            after, mean, later = both[:, :n], both[:, n:], None
        else:
            after, later, mean = self._step_by_trial(x, covariance, e, seen)
        if u is not None and u.shape[1]:
            after = after + u @ system.drive.T
        return after, later, mean

    def _step_by_trial(
        self, x: Tensor, covariance: np.ndarray | None, e: Tensor, seen: Tensor
    ) -> tuple[Tensor, np.ndarray | None, Tensor]:
        after, mean = torch.empty_like(x), torch.empty_like(x)
        P = np.broadcast_to(self.P, (len(x), *self.P.shape)) if covariance is None else covariance
        later = np.empty_like(P)
        found: dict[tuple[bytes, bytes], tuple[Told, Gains]] = {}
        for i, units in enumerate(seen.cpu().numpy()):
            key = (units.tobytes(), P[i].tobytes())
            if key not in found:
                told = self.told(units)
                found[key] = told, self.update(P[i], told)
            told, gains = found[key]
            shown = torch.where(seen[i], e[i], 0.0)
            c, s = shown @ told.to_c, shown @ told.to_s
            L, G, V, J = (torch.from_numpy(m).to(x) for m in (gains.closed, gains.gain, gains.filtered, told.J))
            after[i] = L @ x[i] + G @ c + s
            mean[i] = x[i] + V @ (c - J @ x[i])
            later[i] = gains.after
        return after, None if settled(later, np.broadcast_to(self.P, later.shape)) else later, mean


class Gains(NamedTuple):
    """Matrices of one bin, all (latent, latent) but the last."""

    predicted: np.ndarray  # P
    filtered: np.ndarray  # V, covariance given the bin, too
    keep: np.ndarray  # I - V J
    closed: np.ndarray  # L: x_{t+1} = L x_t + G c_t + s_t, with c and s of the activity itself
    gain: np.ndarray  # G
    after: np.ndarray  # P of the bin after it
    log_determinant: float  # log |I + P J|


def settled(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two covariances are the same but for rounding."""
    return bool(np.abs(one - other).max() <= STEADY * np.abs(one).max())
