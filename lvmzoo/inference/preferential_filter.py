r"""Kalman predictor, filter and smoother where the noise of state and activity is full and correlated.

A trial begins with the covariance that infinitely many earlier bins would have left and the mean zero. The smoother is
the one of de Jong (1989), which needs no inverse of a covariance: Journal of the American Statistical Association 84,
1085-1088, doi:10.2307/2290087. Bins that show the same units share their gains as soon as those are steady.
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

from lvmzoo.inference.patterns import Known, Pattern, patterns, residual_blocks
from lvmzoo.inference.preferential_gains import Gains, Observer, Told, settled
from lvmzoo.inference.preferential_scattered import Scattered
from lvmzoo.inference.scan import linear_recurrence

__all__ = ["Passed", "Stretch", "passes"]

TOGETHER = 2**24  # numbers of each quantity held at a time: 128 MB
SCATTERED = 4  # bins a stretch, on average, below which gains are computed bin by bin


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
) -> Iterator[Passed | Scattered]:
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
                edges = _runs(mask)
                if len(edges) * SCATTERED > part.bins:
                    yield Scattered.pass_over(observer, part, mask, activity, inputs)
                else:
                    parts.append((part, [(a, b, mask[a]) for a, b in edges]))
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
        steady = settled(gains.after, before)
        found.append(Stretch(t, stop if steady else t + 1, gains, told))
        before, t = gains.after, found[-1].stop
    return found, None if settled(before, observer.P) else before
