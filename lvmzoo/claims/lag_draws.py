"""Lag maps of pairs of regions as observed, under the null and over resamples of trials, all by the same protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.claims.lag_sums import Gathered, PairProducts, Wide
from lvmzoo.claims.nulls import bootstrap
from lvmzoo.claims.surrogates import Surrogates
from lvmzoo.findings import Progress
from lvmzoo.inference.canonical_correlation import Regularization
from lvmzoo.inference.lag_map import LagMap, Sums, best_amount, correlations, located, of_one_lag
from lvmzoo.inference.time_map import cross_validated_time_map

__all__ = ["Draws", "LagDraws", "Plan", "draw_lag_maps", "draw_time_maps", "draws_of", "within_regions"]

MOST_PAIRS = 10  # canonical pairs looked at
FLANK = 5  # lags beyond the longest, at which the flanks of a delay's peak are looked at
SPLITS = 25  # of a region into halves, for the control within it


class Plan(NamedTuple):
    """What is computed for each pair of regions."""

    pairs: Sequence[tuple[str, str]]
    lags: int
    kind: str  # of regularization
    amounts: Sequence[float]


class Draws(NamedTuple):
    """How regions are rearranged under the null, and how often trials count in each resample."""

    surrogates: Surrogates | None
    arrangements: Sequence[Mapping[str, Tensor]]
    weights: Sequence[Float[Tensor, " trial"]]


class LagDraws(NamedTuple):
    """Cross-validated canonical correlations; NaN beyond the pairs that two regions have."""

    observed: Float[Tensor, "pair lag component"]
    null: Float[Tensor, "draw pair lag component"]
    resampled: Float[Tensor, "resample pair lag component"]
    amounts: Float[Tensor, "pair fold"]  # of regularization
    delay: Float[Tensor, " pair"]  # in bins
    delays: Float[Tensor, "resample pair"]

    @property
    def center(self) -> Float[Tensor, "pair lag component"]:
        """The mean over the null, to which what is observed belongs, so that all draws are treated alike; or zero."""
        return torch.cat([self.observed[None], self.null]).mean(0) if len(self.null) else 0 * self.observed


def draws_of(
    regions: Sequence[str],
    trials: int,
    surrogates: Surrogates | None,
    permutations: int,
    resamples: int,
    generator: torch.Generator,
) -> Draws:
    """Draw everything that is random, before anything is computed: pairs of regions share it."""
    arrangements = []
    for _ in range(permutations if surrogates is not None else 0):
        assert surrogates is not None
        arrangements.append(dict(zip(regions, surrogates.draw(len(regions), generator), strict=True)))
    weights = [
        torch.bincount(bootstrap(trials, generator), minlength=trials).to(torch.float64) for _ in range(resamples)
    ]
    return Draws(surrogates, arrangements, weights)


def draw_lag_maps(wide: Wide, plan: Plan, draws: Draws, progress: Progress) -> LagDraws:
    """Compute every lag map; the amount of regularization of a fold is chosen once, in its training data."""
    lags, count = 2 * plan.lags + 1, MOST_PAIRS
    shape = (len(plan.pairs), lags, count)
    observed = torch.full(shape, torch.nan, dtype=torch.float64)
    null = torch.full((len(draws.arrangements), *shape), torch.nan, dtype=torch.float64)
    resampled = torch.full((len(draws.weights), *shape), torch.nan, dtype=torch.float64)
    amounts = torch.zeros(len(plan.pairs), wide.folds, dtype=torch.float64)
    delay = torch.zeros(len(plan.pairs), dtype=torch.float64)
    delays = torch.zeros(len(draws.weights), len(plan.pairs), dtype=torch.float64)
    made = LagDraws(observed, null, resampled, amounts, delay, delays)
    total = len(plan.pairs) * (1 + len(null) + len(resampled))
    done = 0
    bins = next(iter(wide.regions.values())).shape[1]
    flank = max(0, min(FLANK, bins - 1 - plan.lags))
    inner = slice(flank, flank + lags)
    for place, (first, second) in enumerate(plan.pairs):
        x, y = wide.regions[first], wide.regions[second]
        products = PairProducts(wide, y, plan.lags + flank)
        gathered = products.gathered(x)
        sums = gathered.sums
        chosen = [best_amount(_inner(rest, inner), wide.nuisance, plan.kind, plan.amounts) for rest in gathered.rests]
        amounts[place] = torch.tensor(chosen, dtype=torch.float64)
        regularization = Regularization(plan.kind, amounts[place])
        found = _map(gathered, inner, wide.nuisance, regularization, count)
        observed[place, :, : found.correlation.shape[1]] = found.correlation
        chance = sums
        for index, arrangement in enumerate(draws.arrangements):
            assert draws.surrogates is not None
            other = draws.surrogates.against(arrangement[first], arrangement[second], x)
            there = products.gathered(other)
            drawn = _map(there, inner, wide.nuisance, regularization, count).correlation
            null[index, place, :, : drawn.shape[1]] = drawn
            chance = Sums(*(one + another for one, another in zip(chance, there.sums, strict=True)))
            done += 1
            progress(f"null of {first} and {second}", done / total)
        chance = Sums(*(leaf * (1 / (1 + len(null)) if len(null) else 0.0) for leaf in chance))
        center = made.center[place, :, 0]
        delay[place] = _delay(found, center, sums, chance, wide.nuisance)
        for index, weight in enumerate(draws.weights):
            there = products.gathered(x, weight)
            again = _map(there, inner, wide.nuisance, regularization, count)
            resampled[index, place, :, : again.correlation.shape[1]] = again.correlation
            delays[index, place] = _delay(again, center, there.sums, chance, wide.nuisance)
            done += 1
            progress(f"resamples of {first} and {second}", done / total)
        done += 1
    return made


def _inner(sums: Sums, inner: slice) -> Sums:
    """Return sums without the flanks."""
    return sums._replace(cross=sums.cross[:, inner])


def _map(there: Gathered, inner: slice, nuisance: int, regularization: Regularization, pairs: int) -> LagMap:
    """Return canonical correlations by lag, without the flanks."""
    sums, training = _inner(there.sums, inner), _inner(there.training, inner)
    return correlations(sums, nuisance, regularization, pairs, training)


def _delay(found: LagMap, center: Float[Tensor, " lag"], sums: Sums, chance: Sums, nuisance: int) -> float:
    """Return the lag, in bins, around which the canonical pair of the peak covaries beyond what it does by chance.

    The sums hold more lags than the map, as many on either side.
    """
    top = int((found.correlation[:, 0] - center).argmax())
    profile = of_one_lag(found, top, sums, nuisance) - of_one_lag(found, top, chance, nuisance)
    longest = float(len(center) // 2)
    return min(max(located(profile, top + (len(profile) - len(center)) // 2), -longest), longest)


def draw_time_maps(
    wide: Wide, pair: tuple[str, str], draws: Draws, regularization: Regularization, progress: Progress
) -> tuple[Float[Tensor, "time_x time_y"], Float[Tensor, "draw time_x time_y"]]:
    """Return the time-resolved map of one pair, its regions already cut into windows, and the same under the null."""
    x, y = (wide.regions[name] for name in pair)
    # What conditions share is taken off as drift is, where courses are.
    columns = (wide.nuisance, wide.levels) if wide.course is None else (wide.nuisance + wide.levels, 0)
    observed = cross_validated_time_map(x, y, *columns, wide.fold, regularization)
    null = []
    for index, arrangement in enumerate(draws.arrangements):
        assert draws.surrogates is not None
        other = draws.surrogates.against(arrangement[pair[0]], arrangement[pair[1]], x)
        null.append(cross_validated_time_map(other, y, *columns, wide.fold, regularization))
        progress(f"time-resolved map of {pair[0]} and {pair[1]}", (index + 1) / len(draws.arrangements))
    return observed, torch.stack(null) if null else observed.new_zeros(0, *observed.shape)


def within_regions(
    wide: Wide, regularization: Regularization, generator: torch.Generator
) -> dict[str, Float[Tensor, " split"]]:
    """Return the canonical correlation between random halves of each region's own units, at lag zero.

    A region of one unit has none.
    """
    found = {}
    for name, z in wide.regions.items():
        if z.shape[-1] - wide.nuisance - wide.levels >= 2:
            gathered = PairProducts(wide, z, 0).gathered(z)
            halves = [_halves(gathered, wide, regularization, generator) for _ in range(SPLITS)]
            found[name] = torch.stack(halves)
    return found


def _halves(
    region: Gathered, wide: Wide, regularization: Regularization, generator: torch.Generator
) -> Float[Tensor, ""]:
    size = region.sums.x.shape[-1]
    units = size - wide.nuisance - wide.levels
    order, others = torch.randperm(units, generator=generator), torch.arange(units, size)
    a, b = (torch.cat([half, others]) for half in (order[: units // 2], order[units // 2 :]))
    parts = []
    for sums in (region.sums.x, region.training.x):
        cross = sums[:, a][..., b][:, None, : len(a) - wide.levels, : len(b) - wide.levels]
        parts.append(Sums(cross, sums[:, a][..., a], sums[:, b][..., b]))
    return correlations(parts[0], wide.nuisance, regularization, 1, parts[1]).correlation[0, 0]
