"""Posterior means of the Kalman filter and smoother, given the matrices that :mod:`lvmzoo.inference.kalman` computed.

Latents lie bins first, so that one step of all trials is one product of contiguous matrices. Trials are sorted longest
first: those that reach a bin are the first rows, and nothing is masked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.kalman import Covariances
from lvmzoo.inference.patterns import Pattern
from lvmzoo.inference.scan import linear_recurrence

__all__ = ["Means"]

SCAN_BINS = 64  # shorter stretches are not worth a scan
SCAN_SIZE = 4096  # trials x latents^2 above which a product of all trials is efficient by itself


class Means:
    """The matrices of a covariance recursion as tensors, for rows of latents: transposed.

    Shared matrices are (step, latent, latent), those of single trials (step, trial, latent, latent).
    """

    def __init__(
        self,
        matrices: Covariances,
        information: Float[Tensor, "*bin_and_trial latent latent"],
        dynamics: Float[Tensor, "latent latent"],
        shared: bool,
    ) -> None:
        A = dynamics.cpu().numpy()
        identity = np.eye(len(A))

        def rows(stack: np.ndarray) -> Tensor:
            transposed = np.ascontiguousarray(stack.swapaxes(-1, -2))
            return torch.from_numpy(transposed[:, 0] if shared else transposed).to(dynamics)

        self.matrices, self.information, self.shared = matrices, information, shared
        self.dynamics = dynamics.T.contiguous()
        self.filtered = rows(matrices.filtered)
        self.precision = rows(np.linalg.inv(matrices.prior))
        self.keep = rows(matrices.update)  # of the predicted mean
        self.forward = rows(matrices.update @ A)
        self.backward = rows(matrices.gain)
        self.stay = rows(identity - matrices.gain @ A)

    def filter(
        self,
        h: Float[Tensor, "bin trial latent"],
        start: int,
        predicted: Float[Tensor, "trial latent"],
        counts: Int[np.ndarray, " all_bins"],
        drive: Float[Tensor, "bin trial latent"] | None = None,
    ) -> Float[Tensor, "bin trial latent"]:
        """Return E(x_t | bins up to t) of a chunk that begins at bin ``start``.

        Parameters
        ----------
        h : C' R^-1 (y - d), zero where nothing is observed.
        predicted : mean of the first bin of the chunk given all before it.
        counts : number of trials that reach each bin.
        drive : what known inputs add to the mean of the bin after; zero in the last bin of a trial.
        """
        stop = start + len(h)
        m = self.apply(h, self.filtered, start)
        if drive is not None:
            m[1:] += self.apply(drive[:-1], self.keep, start + 1)
        n = int(counts[start])
        _add_product(m[0, :n], predicted[:n], self.keep[int(self.matrices.steps(np.array([start]))[0])])
        for a, b, step, steady in self._stretches(start, stop, counts):
            n, first = int(counts[a]), max(a, start + 1)
            if self._scans(b - first, n, steady):
                states = linear_recurrence(
                    m[first - start : b - start, :n], self.forward[step], m[first - start - 1, :n]
                )
                m[first - start : b - start, :n] = states
                continue
            for t in range(first, b):
                k = step if steady else step + t - a
                _add_product(m[t - start, :n], m[t - start - 1, :n], self.forward[k])
        return m

    def smooth(
        self,
        m: Float[Tensor, "bin trial latent"],
        start: int,
        following: Float[Tensor, "trial latent"],
        counts: Int[np.ndarray, " all_bins"],
        drive: Float[Tensor, "bin trial latent"] | None = None,
        noise: Float[Tensor, "bin trial latent"] | None = None,
    ) -> Float[Tensor, "bin trial latent"]:
        """Return E(x_t | all bins) of a chunk, given the filter's means and the smoothed mean of the bin after it.

        With the noise of each bin given the one after it, this is a draw from the posterior instead of its mean.
        """
        stop = start + len(m)
        after = np.append(counts[1:], 0)
        x = self.apply(m, self.stay, start)
        if drive is not None:
            x -= self.apply(drive, self.backward, start)
        for t in (start + np.flatnonzero(counts[start:stop] > after[start:stop])).tolist():
            ending = slice(int(after[t]), int(counts[t]))
            x[t - start, ending] = m[t - start, ending]
        if noise is not None:
            x += noise
        for a, b, step, steady in reversed(list(self._stretches(start, stop, after))):
            n = int(after[a])
            if not n:
                continue
            if self._scans(b - a, n, steady):
                beyond = following if b == stop else x[b - start]
                states = linear_recurrence(x[a - start : b - start, :n], self.backward[step], beyond[:n], reverse=True)
                x[a - start : b - start, :n] = states
                continue
            for t in range(b - 1, a - 1, -1):
                beyond = following if t + 1 == stop else x[t + 1 - start]
                k = step if steady else step + t - a
                _add_product(x[t - start, :n], beyond[:n], self.backward[k])
        return x

    def unexplained(
        self,
        h: Float[Tensor, "bin trial latent"],
        m: Float[Tensor, "bin trial latent"],
        predicted: Float[Tensor, "trial latent"],
        start: int,
        part: Pattern,
        drive: Float[Tensor, "bin trial latent"] | None = None,
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return two pairs whose inner products add up to m'J m - 2 h'm + (m - mp)' P^-1 (m - mp), by bin and trial.

        With (y - d)' R^-1 (y - d) this is the quadratic form of the likelihood. Unlike forms with fewer products it
        does not change to first order with an error of the filtered mean m, which matters where R is tiny. Uses up h.

        Parameters
        ----------
        predicted : mean mp of the first bin of the chunk given all before it.
        """
        stop, latents = start + len(m), m.shape[-1]
        jump = torch.empty_like(m)
        jump[0] = predicted
        torch.mm(m[:-1].reshape(-1, latents), self.dynamics, out=jump[1:].view(-1, latents))
        if drive is not None:
            jump[1:] += drive[:-1]
        torch.sub(m, jump, out=jump)
        over = np.flatnonzero(part.lengths < stop)  # trials that ended in an earlier bin, or end in this chunk
        for t, b in zip(np.maximum(part.lengths[over] - start, 0).tolist(), over.tolist(), strict=True):
            jump[t, b] = 0.0
        h.mul_(-2)
        if self.shared:
            seen = part.seen[:, start:stop]
            h.flatten(0, 1).addmm_(m.flatten(0, 1), self.information)
            if not bool(seen.all()):
                h[~seen.T] = 0.0
        else:
            h.add_(torch.matmul(m.unsqueeze(-2), self.information[start:stop]).squeeze(-2))
        return (h, m), (self.apply(jump, self.precision, start), jump)

    def log_determinants(self, lengths: Int[np.ndarray, " trial"]) -> Float[Tensor, " trial"]:
        """Return the sum over each trial's bins of log |I + P_t J_t|."""
        column = np.zeros(len(lengths), np.int64) if self.shared else np.arange(len(lengths))
        values = self.matrices.log_determinant
        total = np.zeros(len(lengths))
        for start, stop, step, steady in self.matrices.pieces:
            within = np.clip(lengths - start, 0, stop - start)
            if steady:
                total += within * values[step, column]
            else:
                along = np.cumsum(values[step : step + stop - start], axis=0)
                total += np.concatenate([np.zeros((1, values.shape[1])), along])[within, column]
        return torch.from_numpy(total).to(self.filtered)

    def _scans(self, bins: int, trials: int, steady: bool) -> bool:
        return steady and self.shared and bins >= SCAN_BINS and trials * self.filtered.shape[-1] ** 2 <= SCAN_SIZE

    def _stretches(self, start: int, stop: int, counts: np.ndarray) -> Iterator[tuple[int, int, int, bool]]:
        """Yield (start, stop, step, steady) within a chunk, where the number of trials is constant."""
        edges = start + 1 + np.flatnonzero(counts[start + 1 : stop] != counts[start : stop - 1])
        for piece in self.matrices.pieces:
            a, b = max(piece.start, start), min(piece.stop, stop)
            if a >= b:
                continue
            within = [a, *edges[(edges > a) & (edges < b)].tolist(), b]
            for u, v in itertools.pairwise(within):
                yield u, v, piece.step if piece.steady else piece.step + u - piece.start, piece.steady

    def apply(
        self, x: Float[Tensor, "bin trial latent"], stack: Float[Tensor, "step *group latent latent"], start: int
    ) -> Float[Tensor, "bin trial latent"]:
        """Return the rows of each bin, the first of which is ``start``, times that bin's matrix."""
        result = torch.empty_like(x)
        stop = start + len(x)
        for piece in self.matrices.pieces:
            a, b = max(piece.start, start), min(piece.stop, stop)
            if a >= b:
                continue
            source, target = x[a - start : b - start], result[a - start : b - start]
            if piece.steady:
                used = stack[piece.step]
            else:
                used = stack[piece.step + a - piece.start : piece.step + b - piece.start]
            if not self.shared:
                target.copy_(torch.matmul(source.unsqueeze(-2), used).squeeze(-2))
            elif piece.steady:
                torch.mm(source.flatten(0, 1), used, out=target.view(-1, x.shape[-1]))
            else:
                torch.bmm(source, used, out=target)
        return result


def _add_product(target: Tensor, rows: Tensor, matrix: Tensor) -> None:
    """Add rows @ matrix to the target, in place; a matrix a row where there are three dimensions."""
    if matrix.dim() == 2:
        target.addmm_(rows, matrix)
    else:
        target.add_(torch.matmul(rows.unsqueeze(-2), matrix[: len(rows)]).squeeze(-2))
