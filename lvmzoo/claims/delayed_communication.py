"""What processes with delays predict of one region from another in trials left out, and what chance predicts.

A model is fitted to the trials before each fold. Exchanging trials of one region against the other in the trials left
out changes nothing of the fits, so that the null costs no refit. Were a fold also among the trials that others are
predicted from, what two folds have in common by chance would count twice, and more often than chance allows.

Dawid (1984), Statistical theory: the prequential approach, Journal of the Royal Statistical Society A 147, 278-292.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.claims.nulls import permutations, without_drift
from lvmzoo.inference.delayed_beginning import fit_anew
from lvmzoo.inference.delayed_expectations import posterior_means
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings

__all__ = ["Exchange", "Predictions", "cross_validated", "exchange"]

PASSES = 60  # of each fit at most
GAIN = 0.5  # nats over five steps below which a fit is over
BLOCK = 10  # trials among which trials are exchanged


@dataclass(frozen=True)
class Predictions:
    """Of one region from another, by models of the folds before it; the first fold is not predicted."""

    explained: Float[Tensor, "fold number"]  # share of the variance, by number of processes across regions, from 0
    predicted: Float[Tensor, "trial bin unit"]  # by all of them, in private deviations
    target: Float[Tensor, "trial bin unit"]  # activity less its mean, in private deviations
    shown: Bool[Tensor, "trial bin unit"]


def shared_strength(model: DelayedProcesses, one: int, other: int) -> Float[Tensor, " across"]:
    """Return how much of each process across regions two regions share: the smaller of the variances it explains."""
    a = model.across
    parts = []
    for region in (one, other):
        units = model.regions[region]
        parts.append((model.readout[units, :a].square() / model.noise[units, None]).sum(0))
    return (parts[0] * parts[1]).sqrt()


def cross_validated(
    activity_of_fold: Callable[[Bool[Tensor, " trial"]], Float[Tensor, "trial bin unit"]],
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
    valid, observed : of all trials.
    fold : of each trial.
    shape : its numbers of processes and its regions are those of the fits.
    counts : whether the activity is.
    pairs : ordered.
    progress : is told the fraction done.
    """
    folds = int(fold.max()) + 1
    found: dict[tuple[int, int], Predictions] = {}
    size = (*valid.shape, observed.shape[2])
    whole = {
        pair: (valid.new_zeros(size, dtype=torch.float64), valid.new_zeros(size, dtype=torch.float64)) for pair in pairs
    }
    explained: dict[tuple[int, int], list[Tensor]] = {pair: [] for pair in pairs}
    for k in range(1, folds):
        held, before = fold == k, fold < k
        data = Recordings(activity_of_fold(before), valid, observed)
        model = fit_anew(data.some(before), shape.regions, shape.across, shape.within, counts, PASSES, GAIN)
        test = data.some(held)
        means: dict[int, Tensor] = {}
        for source, target in pairs:
            if source not in means:
                only = torch.zeros_like(test.observed)
                only[..., model.regions[source]] = test.observed[..., model.regions[source]]
                means[source] = posterior_means(model, test.activity, test.valid, only)
            units = model.regions[target]
            shown = (test.observed & test.valid[..., None])[..., units]
            scale = model.noise[units].sqrt()
            y = torch.where(shown, (test.activity[..., units] - model.offset[units]) / scale, 0.0)
            predicted = torch.zeros_like(y)
            left = [y.square().sum()]
            for j in shared_strength(model, source, target).argsort(descending=True).tolist():
                x = means[source][:, :, target, j, None]
                predicted = predicted + torch.where(shown, x * (model.readout[units, j] / scale), 0.0)
                left.append((y - predicted).square().sum())
            explained[source, target].append(1 - torch.stack(left) / left[0].clamp(min=1e-300))
            whole[source, target][0][held, :, units] = predicted
            whole[source, target][1][held, :, units] = y
        progress(k / (folds - 1))
    for source, target in pairs:
        units = shape.regions[target]
        predicted, y = (values[..., units] for values in whole[source, target])
        shown = (observed & valid[..., None] & (fold > 0)[:, None, None])[..., units]
        found[source, target] = Predictions(torch.stack(explained[source, target]), predicted, y, shown)
    return found


@dataclass(frozen=True)
class Exchange:
    """The correlation of predictions with the activity, both ways, and what it is when trials are exchanged."""

    observed: float
    null: Float[Tensor, " draw"]
    products: Float[Tensor, "way trial"]  # of predictions and activity, in each trial
    powers: Float[Tensor, "way trial two"]  # sums of squares of each

    def resampled(self, rows: Int[Tensor, " resample"]) -> float:
        """Return the correlation in a resample of trials."""
        powers = self.powers[:, rows].sum(1).clamp(min=1e-300)
        return float((self.products[:, rows].sum(1) / powers.prod(1).sqrt()).mean())


def exchange(
    there: Predictions,
    back: Predictions,
    fold: Int[Tensor, " trial"],
    condition: Int[Tensor, " trial"] | None,
    draws: int,
    generator: torch.Generator,
) -> Exchange:
    """Exchange trials of the second region against the first, within folds, conditions and blocks of neighbors.

    Slow drift over trials is removed from predictions and activity before.
    """
    tested = fold > 0
    fold, condition = fold[tested], None if condition is None else condition[tested]
    grams, products, powers = [], [], []
    for which in (there, back):
        shown, values = which.shown[tested], (which.predicted[tested], which.target[tested])
        clean = (without_drift(own, shown, condition=condition) for own in values)
        predicted, y = (torch.where(shown, own, 0.0).flatten(1) for own in clean)
        power = torch.stack([predicted.square().sum(1), y.square().sum(1)], 1)
        gram = predicted @ y.T
        grams.append(gram / power.sum(0).prod().sqrt().clamp(min=1e-300))
        products.append(gram.diagonal())
        powers.append(power)
    both = (grams[0] + grams[1].T) / 2  # trial of the first region, trial of the second
    trials = len(fold)
    here = torch.arange(trials, device=both.device)
    null = [float(both[here, _permuted(fold, condition, generator)].sum()) for _ in range(draws)]
    return Exchange(float(both.diagonal().sum()), both.new_tensor(null), torch.stack(products), torch.stack(powers))


def _permuted(fold: Tensor, condition: Tensor | None, generator: torch.Generator) -> Int[Tensor, " trial"]:
    """Return a permutation of trials that leaves folds, conditions and blocks of neighbors as they are."""
    kinds = 1 if condition is None else len(condition.unique())
    found = torch.empty_like(fold)
    for k in fold.unique():
        rows = (fold == k).nonzero()[:, 0]
        blocks = max(1, len(rows) // max(BLOCK, 5 * kinds))
        own = permutations(None if condition is None else condition[rows], len(rows), generator, blocks)
        found[rows] = rows[own.to(rows.device)]
    return found
