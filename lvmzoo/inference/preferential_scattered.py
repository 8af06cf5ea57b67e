"""Kalman predictor, filter and smoother of a trial in which single samples are missing: gains of a bin's own.

What each bin tells is computed for many bins at once; the recursions of the size of the state go bin by bin.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.inference.kalman import condition
from lvmzoo.inference.patterns import Known, Pattern, residual_blocks
from lvmzoo.inference.preferential_gains import Observer

__all__ = ["Scattered"]

BLOCK = 2**20  # numbers of the covariances that are factorized at a time: 8 MB


class _Told(NamedTuple):
    """What each bin tells about its state, and the bins' activity in those terms."""

    J: Float[np.ndarray, "bin latent latent"]
    T: Float[np.ndarray, "bin latent latent"]
    lost: Float[np.ndarray, "bin latent latent"]  # S R^-1 S', which the activity tells of w
    c: Float[np.ndarray, "bin latent"]
    s: Float[np.ndarray, "bin latent"]
    constant: Float[np.ndarray, " bin"]  # of the log-likelihood of the activity given the state


class Scattered(NamedTuple):
    """The predictor's pass over one trial; as ``preferential_filter.Passed``."""

    rows: Int[Tensor, " trial"] | slice  # of the batch
    x: Float[Tensor, "bin trial latent"]  # E(x_t | bins before t)
    c: Float[np.ndarray, "bin latent"]  # of what the prediction leaves
    predicted: Float[np.ndarray, "bin latent latent"]  # P
    given: Float[np.ndarray, "bin latent latent"]  # V, covariance given the bin, too
    keep: Float[np.ndarray, "bin latent latent"]  # I - V J
    closed: Float[np.ndarray, "bin latent latent"]
    J: Float[np.ndarray, "bin latent latent"]
    terms: Float[np.ndarray, " bin"]  # of the log-likelihood

    @classmethod
    def pass_over(
        cls,
        observer: Observer,
        part: Pattern,
        mask: Bool[np.ndarray, "own unit"],  # bins up to the last observed one, of which the batch may hold more
        activity: Num[Tensor, "trial bin unit"],
        inputs: Float[Tensor, "trial bin input"] | None,
    ) -> Scattered:
        """Run the predictor over a trial; ``mask`` says what is observed."""
        told = _told(observer, part, mask, activity, inputs)
        bins, n = told.c.shape
        A, noise = observer.A, observer.system.state_noise.cpu().numpy()
        drive = np.zeros((bins, n))
        if inputs is not None:
            drive = (inputs[part.rows, :bins][0].to(observer.system.drive) @ observer.system.drive.T).cpu().numpy()
        x, c, terms = np.zeros((bins, n)), told.c.copy(), told.constant
        predicted, given, keep, closed = (np.empty((bins, n, n)) for _ in range(4))
        state, P, identity = np.zeros(n), observer.P, np.eye(n)
        for t in range(bins):
            V, log_det = condition(P[None], told.J[t : t + 1])
            through = A - told.T[t]
            predicted[t], given[t], keep[t] = P, V[0], identity - V[0] @ told.J[t]
            closed[t] = through @ keep[t]
            x[t] = state
            terms[t] += told.c[t] @ state - 0.5 * (state @ told.J[t] @ state + log_det[0])
            c[t] -= told.J[t] @ state
            terms[t] += 0.5 * c[t] @ V[0] @ c[t]
            gain = through @ V[0]
            state = closed[t] @ state + gain @ told.c[t] + told.s[t] + drive[t]
            P = gain @ through.T + noise - told.lost[t]
            P = (P + P.T) / 2
        like = observer.system.offset
        return cls(part.rows, torch.from_numpy(x).to(like)[:, None], c, predicted, given, keep, closed, told.J, terms)

    def filtered(self) -> Float[Tensor, "bin trial latent"]:
        """Return E(x_t | bins up to t)."""
        return self.x + torch.from_numpy(np.einsum("tij,tj->ti", self.given, self.c)).to(self.x)[:, None]

    def smoothed(self) -> Float[Tensor, "bin trial latent"]:
        """Return E(x_t | all bins)."""
        told = np.einsum("tij,ti->tj", self.keep, self.c)
        r = np.zeros(told.shape[1])
        for t in range(len(told) - 1, -1, -1):
            told[t] += r @ self.closed[t]
            r = told[t]
        return self.x + torch.from_numpy(np.einsum("tij,tj->ti", self.predicted, told)).to(self.x)[:, None]

    def covariances(self, kind: str) -> Float[Tensor, "bin trial latent latent"]:
        """Return the covariances of the states given the bins before ("predictor"), up to now, or all ("smoother")."""
        result = self.predicted if kind == "predictor" else self.given
        if kind == "smoother":
            result, N = np.empty_like(self.predicted), np.zeros_like(self.predicted[0])
            for t in range(len(result) - 1, -1, -1):
                N = self.keep[t].T @ self.J[t] + self.closed[t].T @ N @ self.closed[t]
                result[t] = self.predicted[t] - self.predicted[t] @ N @ self.predicted[t]
        return torch.from_numpy(result).to(self.x)[:, None]

    def log_likelihood(self) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the trial, in nats."""
        return self.x.new_tensor([self.terms.sum()])


def _told(observer: Observer, part: Pattern, mask: np.ndarray, activity: Tensor, inputs: Tensor | None) -> _Told:
    """Factorize the noise of the units that each bin shows: their rows and columns, and the identity for the others."""
    system, bins, n = observer.system, part.bins, len(observer.A)
    known = None if inputs is None else Known(inputs, system.feedthrough)
    both = torch.cat([system.readout, system.cross.T], 1)
    seen = torch.from_numpy(mask).to(both.device)
    found = [np.empty((bins, *shape)) for shape in ((n, n), (n, n), (n, n), (n,), (n,), ())]
    step = max(1, BLOCK // len(both) ** 2)
    for _, when, block in residual_blocks(activity, system.offset, part, 0, bins, known):
        for start in range(when.start, when.stop, step):
            span = slice(start, min(start + step, when.stop))
            there = seen[span].to(both.dtype)
            R = system.noise * there[:, :, None] * there[:, None, :]
            R.diagonal(dim1=1, dim2=2).add_(1 - there)
            root = torch.linalg.cholesky(R)
            e = block[span.start - when.start : span.stop - when.start, :, None]
            right = torch.cat([both * there[..., None], e], 2)
            white = torch.linalg.solve_triangular(root, right, upper=False)
            gram = white.mT @ white
            constant = gram[:, -1, -1] + 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
            constant = -0.5 * (constant + math.log(2 * math.pi) * there.sum(1))
            parts = (
                gram[:, :n, :n], gram[:, n:-1, :n], gram[:, n:-1, n:-1], gram[:, :n, -1], gram[:, n:-1, -1], constant
            )  # fmt: skip
            for whole, values in zip(found, parts, strict=True):
                whole[span] = values.cpu().numpy()
    return _Told(*found)
