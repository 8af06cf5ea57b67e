"""Lag maps of pairs of regions as observed, under the null and over resamples of trials, all by the same protocol.

For the sides of lag zero and for the delay there is a second map, of the covariance less what trials of one region give
with other trials of the same condition and neighborhood (the shift predictor of Perkel, Gerstein & Moore 1967,
doi:10.1016/S0006-3495(67)86597-4). Taking it off correlations would not do: a course that conditions repeat with a lag
of its own leaves less room for the rest on its side of lag zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.claims.lag_sums import Gathered, PairProducts, Wide
from lvmzoo.claims.nulls import bootstrap
from lvmzoo.claims.surrogates import Surrogates, TrialPermutations
from lvmzoo.findings import Progress
from lvmzoo.inference.canonical_correlation import Regularization
from lvmzoo.inference.lag_map import LagMap, Sums, best_amount, correlations, located, of_one_lag
from lvmzoo.inference.time_map import cross_validated_time_map

__all__ = ["Beyond", "Draws", "LagDraws", "Plan", "draw_lag_maps", "draw_time_maps", "draws_of", "within_regions"]

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


class Beyond(NamedTuple):
    """First canonical correlations of what trials share beyond others of their condition and neighborhood."""

    observed: Float[Tensor, "pair lag"]
    null: Float[Tensor, "draw pair lag"]
    resampled: Float[Tensor, "resample pair lag"]

    @property
    def center(self) -> Float[Tensor, "pair lag"]:
        """The mean over the null, with what is observed; or zero."""
        return _center(self.observed, self.null)


class LagDraws(NamedTuple):
    """Cross-validated canonical correlations; NaN beyond the pairs that two regions have."""

    observed: Float[Tensor, "pair lag component"]
    null: Float[Tensor, "draw pair lag component"]
    resampled: Float[Tensor, "resample pair lag component"]
    beyond: Beyond
    amounts: Float[Tensor, "pair fold"]  # of regularization
    delay: Float[Tensor, " pair"]  # in bins
    delays: Float[Tensor, "resample pair"]

    @property
    def center(self) -> Float[Tensor, "pair lag component"]:
        """The mean over the null, to which what is observed belongs, so that all draws are treated alike; or zero."""
        return _center(self.observed, self.null)


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
    beyond = Beyond(*(part[..., 0].clone() for part in (observed, null, resampled)))
    made = LagDraws(observed, null, resampled, beyond, amounts, delay, delays)
    total = len(plan.pairs) * (1 + len(null) + len(resampled))
    done = 0
    bins = next(iter(wide.regions.values())).shape[1]
    flank = max(0, min(FLANK, bins - 1 - plan.lags))
    inner = slice(flank, flank + lags)
    for place, (first, second) in enumerate(plan.pairs):
        x, y = wide.regions[first], wide.regions[second]
        products = PairProducts(wide, y, plan.lags + flank)
        gathered = products.gathered(x)
        chosen = [best_amount(_inner(rest, inner), wide.nuisance, plan.kind, plan.amounts) for rest in gathered.rests]
        amounts[place] = torch.tensor(chosen, dtype=torch.float64)
        regularization = Regularization(plan.kind, amounts[place])
        maps = _Maps(products, _apart(draws.surrogates, wide), inner, wide.nuisance, regularization)
        every, found, sums = maps.of(x, gathered)
        observed[place, :, : every.correlation.shape[1]] = every.correlation
        beyond.observed[place] = found.correlation[:, 0]
        for index, arrangement in enumerate(draws.arrangements):
            assert draws.surrogates is not None
            other = draws.surrogates.against(arrangement[first], arrangement[second], x)
            every, drawn, _ = maps.of(other, products.gathered(other))
            null[index, place, :, : every.correlation.shape[1]] = every.correlation
            beyond.null[index, place] = drawn.correlation[:, 0]
            done += 1
            progress(f"null of {first} and {second}", done / total)
        center = beyond.center[place]
        delay[place] = _delay(found, center, sums, wide.nuisance)
        for index, weight in enumerate(draws.weights):
            every, again, sums = maps.of(x, products.gathered(x, weight), weight)
            resampled[index, place, :, : every.correlation.shape[1]] = every.correlation
            beyond.resampled[index, place] = again.correlation[:, 0]
            delays[index, place] = _delay(again, center, sums, wide.nuisance)
            done += 1
            progress(f"resamples of {first} and {second}", done / total)
        done += 1
    return made


class _Maps(NamedTuple):
    """Makes the two maps of any first region with one second region."""

    products: PairProducts
    apart: Callable[[Tensor], Tensor] | None
    inner: slice
    nuisance: int
    regularization: Regularization

    def of(
        self, x: Float[Tensor, "trial bin all"], there: Gathered, weight: Float[Tensor, " trial"] | None = None
    ) -> tuple[LagMap, LagMap, Sums]:
        """Return the map of all canonical pairs, that beyond exchangeable trials, and the sums of the latter."""
        every = self._map(there, MOST_PAIRS)
        if self.apart is None:
            return every, every, there.sums
        left = self.products.instead(there, self.apart(x), weight)
        return every, self._map(left, 1), left.sums

    def _map(self, there: Gathered, pairs: int) -> LagMap:
        sums, training = _inner(there.sums, self.inner), _inner(there.training, self.inner)
        return correlations(sums, self.nuisance, self.regularization, pairs, training)


def _center(observed: Tensor, null: Tensor) -> Tensor:
    return torch.cat([observed[None], null]).mean(0) if len(null) else 0 * observed


def _apart(surrogates: Surrogates | None, wide: Wide) -> Callable[[Tensor], Tensor] | None:
    """Return what takes the mean of exchangeable trials off a region; None where courses are taken off anyway."""
    if not isinstance(surrogates, TrialPermutations) or wide.course is not None:
        return None
    return lambda z: surrogates.apart(z, wide.nuisance + wide.levels)


def _inner(sums: Sums, inner: slice) -> Sums:
    """Return sums without the flanks."""
    return sums._replace(cross=sums.cross[:, inner])


def _delay(found: LagMap, center: Float[Tensor, " lag"], sums: Sums, nuisance: int) -> float:
    """Return the lag, in bins, around which the canonical pair of the peak covaries.

    The sums hold more lags than the map, as many on either side.
    """
    top = int((found.correlation[:, 0] - center).argmax())
    profile = of_one_lag(found, top, sums, nuisance)
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
