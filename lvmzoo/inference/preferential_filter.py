r"""Kalman predictor, filter and smoother where the noise of state and activity is full and correlated.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad y_t = d + C x_t + D u_t + v_t, \quad
    \mathrm{Cov}(w, v) = [Q, S; S', R]

What a bin tells enters through c = C' R^-1 e, s = S R^-1 e and J = C' R^-1 C, T = S R^-1 C of the units observed in it
(e: what the prediction leaves), so that recursions are of the size of the state. A trial begins with the covariance
that infinitely many earlier bins would have left and the mean zero. The smoother is the one of de Jong (1989), which
needs no inverse of a covariance: Journal of the American Statistical Association 84, 1085-1088, doi:10.2307/2290087.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.inference.kalman import condition
from lvmzoo.inference.patterns import Known, Pattern, patterns, residual_blocks
from lvmzoo.inference.scan import linear_recurrence

__all__ = ["Observer", "Passed", "Stretch", "System", "Told", "passes"]

STEADY = 1e-12  # largest relative change of a covariance that counts as none
TOGETHER = 2**24  # numbers of each quantity held at a time: 128 MB


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
        return after, None if _close(later, np.broadcast_to(self.P, later.shape)) else later, mean


class Gains(NamedTuple):
    """Matrices of one bin, all (latent, latent) but the last."""

    predicted: np.ndarray  # P
    filtered: np.ndarray  # V, covariance given the bin, too
    keep: np.ndarray  # I - V J
    closed: np.ndarray  # L: x_{t+1} = L x_t + G c_t + s_t, with c and s of the activity itself
    gain: np.ndarray  # G
    after: np.ndarray  # P of the bin after it
    log_determinant: float  # log |I + P J|


class Stretch(NamedTuple):
    """Bins [start, stop) with the same gains."""

    start: int
    stop: int
    gains: Gains
    told: Told

    def rows(self, name: str, like: Tensor) -> Tensor:
        """Return a matrix of the gains, or J, transposed: states are rows."""
        matrix = self.told.J if name == "J" else getattr(self.gains, name)
        return torch.from_numpy(np.ascontiguousarray(matrix.T)).to(like)


class Passed(NamedTuple):
    """The predictor's pass over some trials that share a pattern of observation; bins lie first."""

    rows: Int[Tensor, " trial"] | slice  # of the batch
    lengths: Int[Tensor, " trial"]
    stretches: list[Stretch]
    x: Float[Tensor, "bin trial latent"]  # E(x_t | bins before t)
    c: Float[Tensor, "bin trial latent"]  # of what the prediction leaves; zero after a trial's end
    squares: Float[Tensor, "bin trial"] | None  # e' R^-1 e, if it was asked for; zero after a trial's end

    def filtered(self) -> Float[Tensor, "bin trial latent"]:
        """Return E(x_t | bins up to t)."""
        result = self.x.clone()
        for stretch in self.stretches:
            span = slice(stretch.start, stretch.stop)
            result[span] += self.c[span] @ stretch.rows("filtered", result)
        return result

    def smoothed(self) -> Float[Tensor, "bin trial latent"]:
        """Return E(x_t | all bins)."""
        result = self.x.clone()
        r = torch.zeros_like(result[0])
        for stretch in reversed(self.stretches):
            span = slice(stretch.start, stretch.stop)
            told = self.c[span] @ torch.from_numpy(stretch.gains.keep).to(r)
            closed = torch.from_numpy(stretch.gains.closed).to(r)
            if stretch.stop - stretch.start > 1:
                told = linear_recurrence(told, closed, r, reverse=True)
            else:
                told = told + r @ closed
            r = told[0]
            result[span] += told @ stretch.rows("predicted", r)
        return result

    def covariances(self, kind: str) -> Float[Tensor, "bin trial latent latent"]:
        """Return the covariances of the states given the bins before ("predictor"), up to now, or all ("smoother")."""
        bins, trials, n = self.x.shape
        result = self.x.new_zeros(bins, 1 if kind != "smoother" else trials, n, n)
        if kind != "smoother":
            for stretch in self.stretches:
                chosen = stretch.gains.predicted if kind == "predictor" else stretch.gains.filtered
                result[stretch.start : stretch.stop] = torch.from_numpy(chosen).to(result)
            return result.expand(bins, trials, n, n)
        N = np.zeros((trials, n, n))
        lengths = self.lengths.cpu().numpy()[:, None, None]
        for stretch in reversed(self.stretches):
            P, L = stretch.gains.predicted, stretch.gains.closed
            told = stretch.gains.keep.T @ stretch.told.J
            for t in range(stretch.stop - 1, stretch.start - 1, -1):
                N = np.where(lengths > t, told + L.T @ N @ L, 0.0)
                result[t] = torch.from_numpy(P - P @ N @ P).to(result)
        return result

    def log_likelihood(self) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of each trial, in nats; needs ``squares``."""
        assert self.squares is not None
        total = -0.5 * self.squares.sum(0)
        for stretch in self.stretches:
            span = slice(stretch.start, stretch.stop)
            c = self.c[span]
            total += 0.5 * ((c @ stretch.rows("filtered", c)) * c).sum((0, 2))
            constant = stretch.told.units * math.log(2 * math.pi) + stretch.told.log_determinant
            constant += stretch.gains.log_determinant
            reached = (self.lengths - stretch.start).clamp(0, stretch.stop - stretch.start)
            total -= 0.5 * constant * reached.to(total)
        return total


def passes(
    observer: Observer,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin input"] | None = None,
    squares: bool = False,
) -> Iterator[Passed]:
    """Run the predictor over the trials of a batch, those with the same pattern of observation together."""
    latents = len(observer.system.dynamics)
    for pattern in patterns(valid, observed):
        if pattern.mask is None:
            seen = pattern.seen[0].cpu().numpy()
            units = pattern.units.cpu().numpy()
            runs = [(a, b, units & bool(seen[a])) for a, b in _runs(seen[:, None])]
            parts = [(part, runs) for part in pattern.parts(max(1, TOGETHER // (pattern.bins * 2 * latents)))]
        else:
            parts = []
            for part in pattern.parts(1):
                assert part.mask is not None
                mask = part.mask[0].cpu().numpy()
                parts.append((part, [(a, b, mask[a]) for a, b in _runs(mask)]))
        for part, runs in parts:
            cut = [(a, min(b, part.bins), units) for a, b, units in runs if a < part.bins]
            yield _predict(observer, part, cut, activity, inputs, squares)


def _runs(mask: Bool[np.ndarray, "bin unit"]) -> list[tuple[int, int]]:
    """Return the stretches of bins with the same pattern."""
    edges = [0, *(1 + np.flatnonzero((mask[1:] != mask[:-1]).any(1))).tolist(), len(mask)]
    return list(itertools.pairwise(edges))


def _predict(
    observer: Observer,
    part: Pattern,
    runs: list[tuple[int, int, np.ndarray]],
    activity: Tensor,
    inputs: Tensor | None,
    squares: bool,
) -> Passed:
    system = observer.system
    n, trials = len(system.dynamics), len(part.lengths)
    x = system.offset.new_zeros(part.bins, trials, n)
    c = torch.zeros_like(x)
    square = x.new_zeros(part.bins, trials) if squares else None
    known = None if inputs is None else Known(inputs, system.feedthrough)
    stretches: list[Stretch] = []
    P: np.ndarray | None = None  # None: as infinitely many bins leave it
    state = x[0]
    for start, stop, units in runs:
        told = observer.told(units)
        s = x.new_zeros(stop - start, trials, n)
        to_both = torch.cat([told.to_c, told.to_s], 1)
        for who, when, block in residual_blocks(activity, system.offset, part, start, stop, known):
            shape = (who.stop - who.start, when.stop - when.start)
            both = (block @ to_both).view(*shape, 2 * n).transpose(0, 1)
            c[when, who], s[when.start - start : when.stop - start, who] = both[..., :n], both[..., n:]
            if square is not None:
                square[when, who] = (block @ told.root).square_().sum(1).view(shape).T
        if inputs is not None:
            s += inputs[part.rows, start:stop].to(s).transpose(0, 1) @ system.drive.T
        pieces, P = _stretches(observer, told, start, stop, P)
        for piece in pieces:
            span = slice(piece.start, piece.stop)
            inner = s[piece.start - start : piece.stop - start]
            inner += c[span] @ piece.rows("gain", x)
            closed = piece.rows("closed", x)
            if piece.stop - piece.start > 1:
                inner = linear_recurrence(inner, closed, state)
            else:
                inner += state @ closed
            x[piece.start] = state
            x[piece.start + 1 : piece.stop] = inner[:-1]
            state = inner[-1].clone()
            if square is not None:
                half = x[span] @ piece.rows("J", x)
                square[span] += (x[span] * (half - 2 * c[span])).sum(-1)
            c[span] -= x[span] @ piece.rows("J", x)
        stretches += pieces
    lengths = torch.from_numpy(part.lengths).to(x.device)
    over = torch.arange(part.bins, device=x.device)[:, None] >= lengths
    if bool(over.any()):
        c[over] = 0.0
        if square is not None:
            square[over] = 0.0
    return Passed(part.rows, lengths, stretches, x, c, square)


def _stretches(
    observer: Observer, told: Told, start: int, stop: int, P: np.ndarray | None
) -> tuple[list[Stretch], np.ndarray | None]:
    """Return the gains of bins that show the same units, and the predicted covariance of the bin after them."""
    if told is observer.everything and P is None:
        return [Stretch(start, stop, observer.steady, told)], None
    found: list[Stretch] = []
    before = observer.P if P is None else P
    t = start
    while t < stop:
        gains = observer.update(before, told)
        settled = _close(gains.after, before)
        found.append(Stretch(t, stop if settled else t + 1, gains, told))
        before, t = gains.after, found[-1].stop
    return found, None if _close(before, observer.P) else before


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() <= STEADY * np.abs(one).max())
