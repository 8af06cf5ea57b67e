"""What processes with delays predict of one region from another in trials left out.

A model is fitted to the trials before each fold. Exchanging trials of one region against the other in the trials left
out changes nothing of the fits, so that the null costs no refit (:mod:`lvmzoo.claims.delayed_exchange`). Were a fold
also among the trials that others are predicted from, what two folds have in common by chance would count twice, and
more often than chance allows.

Dawid (1984), Statistical theory: the prequential approach, Journal of the Royal Statistical Society A 147, 278-292.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.claims.delayed_exchange import Predicted, joined
from lvmzoo.claims.delayed_latents import latents_alone, same_latents, without_courses
from lvmzoo.inference.delayed_beginning import fit_anew
from lvmzoo.inference.delayed_expectations import posterior_means
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings

__all__ = ["Predictions", "cross_validated", "shared_strength"]

PASSES = 60  # of each fit at most
GAIN = 0.5  # nats over five steps below which a fit is over


@dataclass(frozen=True)
class Predictions:
    """Of one region from another, by models of the folds before it; trials of the first fold are not predicted."""

    fold: Int[Tensor, " tested"]  # of each trial with predictions
    left: Float[Tensor, "tested number"]  # sum of squares that is left, by number of processes across regions, from 0
    predicted: Predicted  # of the same trials, by all processes
    latents: Predicted  # each process across regions in place of a unit: as the first region tells it, and the second

    def explained(self, rows: Int[Tensor, " row"] | None = None) -> Float[Tensor, "fold number"]:
        """Return the share of the variance that is predicted in each fold; ``rows``: of a resample of the trials."""
        fold, left = (self.fold, self.left) if rows is None else (self.fold[rows], self.left[rows])
        sums = torch.stack([left[fold == k].sum(0) for k in self.fold.unique()])
        return 1 - sums / sums[:, :1].clamp(min=1e-300)


def shared_strength(model: DelayedProcesses, one: int, other: int) -> Float[Tensor, " across"]:
    """Return how much of each process across regions two regions share.

    It is the geometric mean of the variances that the process explains in the two, in private variances.
    """
    a = model.across
    parts = []
    for region in (one, other):
        units = model.regions[region]
        parts.append((model.readout[units, :a].square() / model.noise[units, None]).sum(0))
    return (parts[0] * parts[1]).sqrt()


def cross_validated(
    activity_of_fold: Callable[[Bool[Tensor, " trial"]], Float[Tensor, "trial bin unit"]],
    residual_of_fold: Callable[[Bool[Tensor, " trial"]], Float[Tensor, "trial bin unit"]] | None,
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    fold: Int[Tensor, " trial"],
    shape: DelayedProcesses,
    counts: bool,
    pairs: Sequence[tuple[int, int]],
    progress: Callable[[float], None],
) -> dict[tuple[int, int], Predictions]:
    """Return predictions of the second region of each pair from the first alone, by the folds of trials before.

    Parameters
    ----------
    activity_of_fold : activity as it is modeled, given which trials are for training.
    residual_of_fold : the same less the mean course of each condition; None: it is.
    valid, observed : of all trials.
    fold : of each trial.
    shape : its numbers of processes, their order and its regions are those of the fits.
    counts : whether the activity is.
    pairs : ordered.
    progress : is told the fraction done.
    """
    folds = int(fold.max()) + 1
    parts: dict[tuple[int, int], list[tuple[Tensor, Predicted, Predicted]]] = {pair: [] for pair in pairs}
    for k in range(1, folds):
        held, before = fold == k, fold < k
        data = Recordings(activity_of_fold(before), valid, observed)
        model = fit_anew(data.some(before), shape.regions, shape.across, shape.within, counts, PASSES, GAIN)
        test = data.some(held)
        order = same_latents(model, shape, data.some(before))
        rest, apart = data, model
        if residual_of_fold is not None:
            rest = Recordings(residual_of_fold(before), valid, observed)
            apart = without_courses(model, rest.some(before), counts)
        means, alone = {}, {}
        for region in sorted({region for pair in pairs for region in pair}):
            means[region] = posterior_means(model, *test.only(model.regions[region]))
            alone[region] = latents_alone(apart, rest.some(held), region, order)
        shown = test.valid[..., None].expand(-1, -1, shape.across)
        for source, target in pairs:
            whole = _predicted(model, test, means[source], source, target)
            own = Predicted(alone[source][:, :, target], alone[target][:, :, target], shown)
            parts[source, target].append((*whole, own))
        progress(k / (folds - 1))
    tested = fold[fold > 0]  # folds are contiguous: trials come in their order
    found = {}
    for pair, folded in parts.items():
        left, predicted, latents = zip(*folded, strict=True)
        found[pair] = Predictions(tested, torch.cat(left), joined(predicted), joined(latents))
    return found


def _predicted(
    model: DelayedProcesses, test: Recordings, means: Float[Tensor, "trial bin region column"], source: int, target: int
) -> tuple[Float[Tensor, "trial number"], Predicted]:
    """Return what is left of a region by number of processes, the strongest first, and what all of them predict."""
    units = model.regions[target]
    shown = (test.observed & test.valid[..., None])[..., units]
    scale = model.noise[units].sqrt()
    y = torch.where(shown, (test.activity[..., units] - model.offset[units]) / scale, 0.0)
    predicted = torch.zeros_like(y)
    left = [y.square().sum((1, 2))]
    for j in shared_strength(model, source, target).argsort(descending=True).tolist():
        predicted = predicted + torch.where(
            shown, means[:, :, target, j, None] * (model.readout[units, j] / scale), 0.0
        )
        left.append((y - predicted).square().sum((1, 2)))
    return torch.stack(left, 1), Predicted(predicted, y, shown)
