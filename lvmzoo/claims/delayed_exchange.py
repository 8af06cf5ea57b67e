"""What chance makes of predictions of one region from another: trials of the regions exchanged with each other.

Trials stay within their fold, whose model predicts them, within their condition, and among neighbors. Trials of unlike
length meet in the samples that both have. There a course that all trials of a condition repeat weighs otherwise than in
whole trials, and a correlation over fewer samples varies more. So each draw is compared with what the same trials give
in the same samples when each meets itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.claims.nulls import cells, permutations, without_drift

__all__ = ["Exchange", "Predicted", "exchange", "exchangeable", "joined", "orders"]

BLOCK = 10  # trials among which trials are exchanged
ROUNDING = 1e-12  # of correlations


@dataclass(frozen=True)
class Predicted:
    """The activity of one region in trials left out, and what another predicts of it."""

    prediction: Float[Tensor, "trial bin unit"]  # in private deviations
    target: Float[Tensor, "trial bin unit"]  # activity less its mean, in private deviations
    shown: Bool[Tensor, "trial bin unit"]

    def of(self, unit: int) -> Predicted:
        """Return those of one unit."""
        return Predicted(*(values[..., unit, None] for values in (self.prediction, self.target, self.shown)))


def joined(parts: Sequence[Predicted]) -> Predicted:
    """Return those of all trials, one part after the other."""
    return Predicted(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Predicted)))


@dataclass(frozen=True)
class Exchange:
    """The correlation of predictions with the activity, both ways, and what it is when trials are exchanged."""

    observed: float
    null: Float[Tensor, " draw"]  # as far from ``observed`` as each draw is from the same samples not exchanged
    products: Float[Tensor, "way trial"]  # of predictions and activity, in each trial
    powers: Float[Tensor, "way trial two"]  # sums of squares of each

    def resampled(self, rows: Int[Tensor, " resample"]) -> float:
        """Return the correlation in a resample of trials."""
        powers = self.powers[:, rows].sum(1).clamp(min=1e-300)
        return float((self.products[:, rows].sum(1) / powers.prod(1).sqrt()).mean())


def exchangeable(fold: Int[Tensor, " trial"], condition: Int[Tensor, " trial"] | None) -> Int[Tensor, " trial"]:
    """Return a number from zero up for each trial that it shares with those that it can be exchanged with, on the CPU.

    Those are of its fold, its condition and its block of neighbors; a trial of unknown condition (-1) is alone.
    """
    fold = fold.cpu()
    known = None if condition is None else condition.cpu()
    kinds = 1 if known is None else len(known[known >= 0].unique())
    found = torch.empty(len(fold), 2, dtype=torch.int64)
    for k in fold.unique():
        rows = (fold == k).nonzero()[:, 0]
        blocks = max(1, len(rows) // max(BLOCK, 5 * kinds))
        own = cells(None if known is None else known[rows], len(rows), blocks)
        found[rows] = torch.stack([k.expand(len(rows)), own], 1)
    return found.unique(dim=0, return_inverse=True)[1]


def orders(
    cell: Int[Tensor, " trial"], regions: Sequence[int], draws: int, generator: torch.Generator
) -> dict[int, Int[Tensor, "draw trial"]]:
    """Return random orders of the trials of each region, within cells.

    A draw is of all regions at once, so that the largest of several pairs is drawn, too; the first region keeps its
    own order.
    """
    own = torch.arange(len(cell)).expand(draws, -1)
    found = {region: torch.empty_like(own, memory_format=torch.contiguous_format) for region in regions[1:]}
    for draw in range(draws):
        for order in found.values():
            order[draw] = permutations(cell, len(cell), generator)
    return {**dict.fromkeys(regions[:1], own), **found}


def exchange(
    there: Predicted,
    back: Predicted,
    condition: Int[Tensor, " trial"] | None,
    first: Int[Tensor, "draw trial"],
    second: Int[Tensor, "draw trial"],
) -> Exchange:
    """Exchange trials of the second region against those of the first.

    Slow drift over trials is removed from predictions and activity before.

    Parameters
    ----------
    there, back : the second region predicted from the first, and the first from the second.
    condition : of each trial, whose means are no drift.
    first, second : orders of the trials of the first and the second region.
    """
    observed, null, products, powers = [], [], [], []
    for which, rows, columns in ((there, first, second), (back, second, first)):
        shown = which.shown
        clean = (without_drift(own, shown, condition=condition) for own in (which.prediction, which.target))
        prediction, y = (torch.where(shown, own, 0.0).flatten(1) for own in clean)
        seen = shown.to(y).flatten(1)
        # Of each trial's prediction with each trial's activity, and with its own where another trial has samples.
        gram, own = prediction @ y.T, (prediction * y) @ seen.T
        power = prediction.square() @ seen.T, y.square() @ seen.T
        product = (power[0].diagonal().sum() * power[1].diagonal().sum()).sqrt()
        observed.append(own.diagonal().sum() / product.clamp(min=1e-300))
        met = _ratio(gram[rows, columns], power[0][rows, columns], power[1][columns, rows])
        alone = _ratio(*(x[rows, columns] + x[columns, rows] for x in (own, *power)))
        apart = met - alone
        null.append(observed[-1] + torch.where(apart.abs() < ROUNDING, 0.0, apart))  # a draw of no exchange is a tie
        products.append(gram.diagonal())
        powers.append(torch.stack([power[0].diagonal(), power[1].diagonal()], 1))
    return Exchange(
        float(torch.stack(observed).mean()), torch.stack(null).mean(0), torch.stack(products), torch.stack(powers)
    )


def _ratio(
    products: Float[Tensor, "draw trial"], one: Float[Tensor, "draw trial"], other: Float[Tensor, "draw trial"]
) -> Float[Tensor, " draw"]:
    """Return the correlation of each draw, from the products of its trials and their sums of squares."""
    return products.sum(1) / (one.sum(1) * other.sum(1)).sqrt().clamp(min=1e-300)
