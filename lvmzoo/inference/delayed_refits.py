"""Fits of processes with delays to one session that are no training run: claims are about these.

Refits to resamples of the trials all begin at the fit to all of them, where each tells the next how the likelihood
curves: latents turn slowly within their space, and what steps of one refit found of that holds for the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.inference.delayed_expectations import expectations
from lvmzoo.inference.delayed_fit import DelayedFitting, free_delays
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.gaussian_process_kernels import TOLERANCE

__all__ = ["Recordings", "Refits", "refine"]

REMEMBERED = 100  # steps of earlier refits
ROUGH = 1e-5  # tolerance of kernels: a tenth of a nat or so, and nothing of the parameters


class Recordings(NamedTuple):
    """Trials of one session, for fits that are no training run."""

    activity: Float[Tensor, "trial bin unit"]
    valid: Bool[Tensor, "trial bin"]
    observed: Bool[Tensor, "trial bin unit"]

    def some(self, rows: Tensor) -> Recordings:
        """Return some of the trials, in the order given; one may come more than once."""
        return Recordings(*(tensor[rows] for tensor in self))

    def only(self, units: slice) -> Recordings:
        """Return the same trials with all other units hidden."""
        observed = torch.zeros_like(self.observed)
        observed[..., units] = self.observed[..., units]
        return self._replace(observed=observed)


def refine(
    model: DelayedProcesses,
    data: Recordings,
    counts: bool,
    passes: int,
    gain: float,
    em: int = 0,
    basis: Float[Tensor, "delay free"] | None = None,
) -> tuple[DelayedProcesses, float]:
    """Raise the likelihood of one session from a model; return the parameters and their log-likelihood in nats.

    Parameters
    ----------
    model : of the session; its delays must be in the span of ``basis``.
    data : its trials.
    counts : whether the activity is, for the smallest private variances.
    passes : over the data at most.
    gain : nats over five steps, for all trials together, below which the search is over.
    em : passes of EM before the search.
    basis : of the delays, such as ``free_delays``; None: that.
    """
    basis = free_delays(*model.delays.shape) if basis is None else basis
    units, columns = model.readout.shape
    fitting = DelayedFitting(units, columns, basis, len(model.timescales)).to(model.offset.device)
    fitting.begin(int(data.valid.sum(1).max()))
    fitting.counts[4] = em
    sessions = [(slice(0, len(model.offset)), counts)]
    bins, before = float(data.valid.sum()), -math.inf
    for _ in range(passes):
        sums = expectations(model, *data, information=fitting.scoring, rough=True)
        model, reached = fitting.update(model, sums, sessions)
        if fitting.settled:
            if float(reached) * bins - before < gain:
                break
            before = float(reached) * bins
    return fitting.accepted(model), float(fitting.best) * bins


class Refits:
    """Refits to resamples of the trials of one session."""

    def __init__(self, model: DelayedProcesses, data: Recordings, counts: bool) -> None:
        """Begin all refits at ``model``, which fits ``data``."""
        (units, columns), basis = model.readout.shape, free_delays(*model.delays.shape)
        fitting = DelayedFitting(units, columns, basis, len(model.timescales), REMEMBERED)
        self._fitting = fitting.to(model.offset.device)
        self._fitting.begin(int(data.valid.sum(1).max()))
        self._fitting.counts[4] = 0
        self._model, self._data, self._counts = model._replace(tolerance=ROUGH), data, counts

    def __call__(self, rows: Int[Tensor, " trial"], passes: int) -> DelayedProcesses:
        """Return the fit to some trials, each as often as it comes, after that many passes over them."""
        data, fitting, model = self._data.some(rows), self._fitting, self._model
        fitting.again()
        sessions = [(slice(0, len(model.offset)), self._counts)]
        for _ in range(passes):
            sums = expectations(model, *data, information=fitting.scoring, rough=True)
            model, _ = fitting.update(model, sums, sessions)
        return fitting.accepted(model)._replace(tolerance=TOLERANCE)
