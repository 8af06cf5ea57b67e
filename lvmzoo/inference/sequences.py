"""The filter and the smoother over trials of activity, a stretch of bins at a time.

Memory beyond the data does not grow with their number: activity is converted block by block, and latents are kept for a
part of a long recording at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.kalman import covariances
from lvmzoo.inference.means import Means
from lvmzoo.inference.patterns import Known, Pattern, patterns, residual_blocks

__all__ = ["LinearGaussian", "Sequences", "Stretch", "filters", "together"]

KEPT = 2**20  # values of the latents that are kept between the filter and the smoother: 8 MB
TOGETHER = 2**18  # values of the latents of the trials that are filtered together
CHUNK = 2**17  # values of the latents that are worked on at a time: 1 MB, for the cache of the processor


class LinearGaussian(NamedTuple):
    """Parameters of one session, all float64."""

    dynamics: Float[Tensor, "latent latent"]  # A
    dynamics_noise: Float[Tensor, "latent latent"]  # Q
    initial_mean: Float[Tensor, " latent"]  # mu
    initial_covariance: Float[Tensor, "latent latent"]  # V
    readout: Float[Tensor, "unit latent"]  # C
    offset: Float[Tensor, " unit"]  # d
    noise: Float[Tensor, " unit"]  # r, variances
    drive: Float[Tensor, "latent channel"] | None = None  # B, of known inputs
    feedthrough: Float[Tensor, "unit channel"] | None = None  # D, of known inputs


class Stretch(NamedTuple):
    """What the filter knows of some bins."""

    start: int  # the first of them
    predicted: Float[Tensor, "trial latent"]  # mean of the first bin given all before it
    h: Float[Tensor, "bin trial latent"]  # C' R^-1 (y - d - D u), zero where nothing is observed
    m: Float[Tensor, "bin trial latent"]  # mean of each bin given those up to it
    drive: Float[Tensor, "bin trial latent"] | None  # B u of each bin that another follows
    squares: Float[Tensor, " trial"]  # sum of (y - d - D u)' R^-1 (y - d - D u), zero if nobody asked for it


class Sequences:
    """Trials of a batch that are filtered together, with their activity and known inputs.

    Parameters
    ----------
    model : parameters.
    activity, inputs : of all trials of the batch.
    part : which trials, and what is observed of them.
    means : the matrices of their filter.
    """

    def __init__(
        self,
        model: LinearGaussian,
        activity: Num[Tensor, "all_trials all_bins unit"],
        inputs: Float[Tensor, "all_trials all_bins channel"] | None,
        part: Pattern,
        means: Means,
    ) -> None:
        self.model, self.part, self.means = model, part, means
        self.activity = activity
        self.known: Known | None = None
        if inputs is not None and model.feedthrough is not None:
            rows = inputs[part.rows]
            lengths = torch.from_numpy(part.lengths).to(rows.device)
            self.known = Known(inputs, model.feedthrough)
            self._inputs = rows[:, : part.bins].transpose(0, 1).to(model.dynamics)
            self._inputs[torch.arange(part.bins, device=rows.device)[:, None] >= lengths] = 0.0
            self._ends = (lengths - 1, torch.arange(len(lengths), device=rows.device))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last bin (not included) of each stretch."""
        length = max(1, CHUNK // (len(self.part.lengths) * len(self.model.dynamics)))
        return [(start, min(start + length, self.part.bins)) for start in range(0, self.part.bins, length)]

    def inputs(self, start: int, stop: int) -> Float[Tensor, "bin trial channel"] | None:
        """Return the known inputs of some bins, zero after the end of a trial."""
        return None if self.known is None else self._inputs[start:stop]

    def residuals(self, start: int, stop: int) -> Iterator[tuple[slice, slice, Float[Tensor, "row unit"]]]:
        """Yield blocks of y - d - D u, see :func:`residual_blocks`."""
        return residual_blocks(self.activity, self.model.offset, self.part, start, stop, self.known)

    def filter(self, squares: bool = False) -> Iterator[Stretch]:
        """Yield one stretch after the other, with the squares of the activity if they are asked for."""
        predicted = self.model.initial_mean.expand(len(self.part.lengths), -1)
        for start, stop in self.spans:
            stretch = self._filter(start, stop, predicted, squares)
            yield stretch
            predicted = stretch.m[-1] @ self.model.dynamics.T
            if stretch.drive is not None:
                predicted += stretch.drive[-1]

    def smooth(
        self, quadratic: Float[Tensor, ""] | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "bin trial latent"], Float[Tensor, "trial latent"]]]:
        """Yield (first bin, smoothed means, smoothed mean of the bin after) of stretches from the last to the first.

        The filter's means of a long recording are not kept but computed once more, from the state before each stretch.
        Adds to ``quadratic`` that part of the likelihood's quadratic form that depends on the latents.
        """
        kept: list[tuple[Tensor, Tensor | None]] = []
        keep = self.part.bins * len(self.part.lengths) * len(self.model.dynamics) <= KEPT
        for stretch in self.filter():
            if quadratic is not None:
                for a, b in self.unexplained(stretch):
                    quadratic.add_(torch.dot(a.flatten(), b.flatten()))
            last = stretch.start + len(stretch.m) == self.part.bins
            kept.append((stretch.predicted, stretch.m if keep or last else None))
        following = torch.zeros_like(kept[0][0])
        for start, stop in reversed(self.spans):
            before, m = kept.pop()
            if m is None:
                m = self._filter(start, stop, before).m
            x = self.means.smooth(m, start, following, self.part.counts, self._drive(start, stop))
            yield start, x, following
            following = x[0]

    def unexplained(self, stretch: Stretch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return pairs whose inner products are the quadratic form; see :meth:`Means.unexplained`."""
        return self.means.unexplained(stretch.h, stretch.m, stretch.predicted, stretch.start, self.part, stretch.drive)

    def constant_terms(self) -> Float[Tensor, " trial"]:
        """Return the terms of each trial's log-likelihood that the activity does not enter."""
        per_sample = math.log(2 * math.pi) + self.model.noise.log()
        if self.part.mask is None:
            samples = self.part.seen.sum(1) * per_sample[self.part.units].sum()
        else:
            samples = self.part.mask.sum(1).to(per_sample) @ per_sample
        return -0.5 * (samples + self.means.log_determinants(self.part.lengths))

    def _filter(self, start: int, stop: int, predicted: Tensor, squares: bool = False) -> Stretch:
        weights = self.model.readout / self.model.noise[:, None]
        precision = 1 / self.model.noise
        h = weights.new_empty(stop - start, len(self.part.lengths), weights.shape[1])
        sums = weights.new_zeros(len(self.part.lengths))
        for who, when, block in self.residuals(start, stop):
            target = h[when.start - start : when.stop - start, who].transpose(0, 1)
            target.copy_((block @ weights).view(target.shape))
            if squares:
                sums[who] += (block.square_() @ precision).view(target.shape[:2]).sum(1)
        drive = self._drive(start, stop)
        return Stretch(
            start, predicted, h, self.means.filter(h, start, predicted, self.part.counts, drive), drive, sums
        )

    def _drive(self, start: int, stop: int) -> Float[Tensor, "bin trial latent"] | None:
        if self.known is None or self.model.drive is None:
            return None
        drive = self._inputs[start:stop] @ self.model.drive.T
        bins, trials = self._ends
        inside = (bins >= start) & (bins < stop)
        drive[bins[inside] - start, trials[inside]] = 0.0  # nothing follows the last bin of a trial
        return drive


def together(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Iterator[tuple[Pattern, Means, list[Sequences]]]:
    """Yield trials with the matrices of their filter, and the same trials in parts that fit the working memory."""
    for pattern, means, parts in filters(model, valid, observed):
        yield pattern, means, [Sequences(model, activity, inputs, part, means) for part in parts]


def filters(
    model: LinearGaussian, valid: Bool[Tensor, "trial bin"], observed: Bool[Tensor, "trial bin unit"]
) -> Iterator[tuple[Pattern, Means, list[Pattern]]]:
    """Yield what :func:`together` yields where the activity is not needed."""
    latents = len(model.dynamics)
    for pattern in patterns(valid, observed):
        if pattern.mask is None:
            yield pattern, _means(model, pattern), pattern.parts(max(1, TOGETHER // (pattern.bins * latents)))
        else:
            for part in pattern.parts(max(1, TOGETHER // (pattern.bins * latents**2))):
                yield part, _means(model, part), [part]


def _means(model: LinearGaussian, pattern: Pattern) -> Means:
    """Run the covariance recursion of trials that are filtered together."""
    C, weights = model.readout, model.readout / model.noise[:, None]
    A, Q, V = (matrix.cpu().numpy() for matrix in (model.dynamics, model.dynamics_noise, model.initial_covariance))
    if pattern.mask is None:
        information = C[pattern.units].T @ weights[pattern.units]
        J = information.cpu().numpy()[None]
        seen = pattern.seen[0].cpu().numpy()
        edges = [0, *(1 + np.flatnonzero(seen[1:] != seen[:-1])).tolist(), len(seen)]
        stretches = [(a, b, J * bool(seen[a])) for a, b in itertools.pairwise(edges)]
    else:
        products = (C[:, :, None] * weights[:, None, :]).flatten(1)
        information = torch.stack([frame.to(products) @ products for frame in pattern.mask.unbind(1)])
        information = information.unflatten(-1, A.shape)
        stretches = [(t, t + 1, J) for t, J in enumerate(information.cpu().numpy())]
    return Means(covariances(A, Q, V, stretches), information, model.dynamics, shared=pattern.mask is None)
