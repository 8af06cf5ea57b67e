r"""Delayed canonical correlation analysis: directions of two regions whose activity correlates most, lag by lag.

.. math:: \max_{a, b} \operatorname{corr}(a' x_t, b' y_{t + l}) \quad \text{for each lag } l

with whitening that is regularized, and correlations taken in trials that a and b have not seen. A positive lag: the
second region follows the first. What is said of regions is tested against permuted trials, or circular shifts of one
long session; see ``claims.lag_profile``. A target region is predicted by regression on the canonical variates of the
other regions, each taken at the lag of its peak.

Hotelling (1936), Relations between two sets of variates, Biometrika 28, doi:10.1093/biomet/28.3-4.321; by lag and by
pairs of times: Semedo, Jasper, Zandvakili et al. (2022), Feedforward and feedback interactions between visual cortical
areas use different population activity patterns, Nature Communications 13, doi:10.1038/s41467-022-28552-w.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.claims.lag_findings import Asked, lag_findings
from lvmzoo.errors import UserError
from lvmzoo.findings import Findings, Progress, quiet_progress
from lvmzoo.inference.canonical_correlation import Regularization, canonical_pairs, projection
from lvmzoo.inference.lag_map import Sums, best_amount, choose, correlations, fold_of_trials, lagged_sums, survivors
from lvmzoo.inference.region_moments import RegionMoments, conditional_mean, shifted
from lvmzoo.models.base import Communicates, Connects, StatisticsModel
from lvmzoo.models.multi_region.delayed_cca_config import DelayedCCAConfig
from lvmzoo.parts.residuals import Residuals
from lvmzoo.parts.session_units import SessionUnits
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["DelayedCCA", "DelayedCCAConfig"]

MOST_PAIRS = 10  # canonical pairs of two regions
ROUNDING = 1e-11  # of a value, below which what is left of it without its mean is rounding


class Products(NamedTuple):
    """Lagged sums of products of all units and a constant: of each session, fold and lag, one after the other."""

    products: Float[Tensor, " entry"]


class DelayedCCA(StatisticsModel, Communicates, Connects):
    """Canonical correlations of regions by lag: who shares activity, with what delay, in how many dimensions."""

    passes = 1
    mean: Tensor
    trials: Tensor
    count: Tensor

    def __init__(self, config: DelayedCCAConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        self._moments = RegionMoments(layouts, config.max_lag_bins, config.max_lag_s, config.folds)
        self._units = SessionUnits(layouts)
        self.residuals = Residuals(layouts, config.residuals)
        self.pairs = self._moments.pairs
        self.register_buffer("mean", torch.zeros(self._units.total, dtype=torch.float64))
        self.register_buffer("trials", torch.ones(len(layouts), dtype=torch.int64))
        self.register_buffer("count", torch.ones(len(self.pairs), dtype=torch.int64))
        for place, layout in enumerate(layouts):
            n = layout.n_units
            self.register_buffer(f"covariance_{place}", torch.zeros(n, n, dtype=torch.float64))
            self.register_buffer(f"lags_{place}", torch.zeros(len(self.pairs), dtype=torch.int64))
            for index, pair in enumerate(self.pairs):
                for side, region in enumerate(pair):
                    size = (layout.units.get(region, 0) + 1, MOST_PAIRS)
                    self.register_buffer(f"weights_{place}_{index}_{side}", torch.zeros(size, dtype=torch.float64))
            for which, units in enumerate(layout.units.values()):
                size = ((len(layout.units) - 1) * MOST_PAIRS, units)
                self.register_buffer(f"readout_{place}_{which}", torch.zeros(size, dtype=torch.float64))

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Count the trials and find the mean of the training data, around which moments lose no digits."""
        self.residuals.prepare(batches)
        total, bins = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        for batch in batches:
            units, place = self._units.of(batch.layout.session), self._place(batch)
            usable = self._usable(batch)
            if bool(batch.valid.any()):
                last = int(batch.trial_index[batch.valid.any(1)].max())
                self.trials[place] = max(int(self.trials[place]), last + 1)
            total[units] += torch.where(usable[..., None], self.residuals(batch), 0.0).sum((0, 1))
            bins[units] += usable.sum()
        if bool((bins == 0).any()):
            raise UserError(
                "No bin of the training data of a session has every unit of all regions.",
                "Canonical correlations are taken in bins in which all units are observed.",
                "Drop the units with missing samples (data.unit_ids) or choose another epoch.",
            )
        self.mean.copy_(total / bins)

    def statistics(self, batch: Batch) -> Products:
        """Return lagged sums of products, a set for each fold; bins with a missing unit are left out."""
        place, usable = self._place(batch), self._usable(batch)
        values = self._centered(batch)
        z = torch.where(usable[..., None], torch.nn.functional.pad(values, (0, 1), value=1.0), 0.0)
        lags, trials, folds = self._moments.reach[place], int(self.trials[place]), self.config.folds
        if trials >= folds:
            of_trial = fold_of_trials(trials, folds).to(z.device)[batch.trial_index.clamp(0, trials - 1)]
            sums = [lagged_sums(z[of_trial == fold], lags) for fold in range(folds)]
        else:  # contiguous stretches
            length = (batch.start_bin + batch.valid.sum(1)).clamp(min=1)
            bins = batch.start_bin[:, None] + torch.arange(batch.n_bins, device=z.device)
            of_bin = (bins * folds // length[:, None]).clamp(max=folds - 1)
            sums = [lagged_sums(z * (of_bin == fold)[..., None], lags) for fold in range(folds)]
        return Products(self._moments.packed(place, torch.stack(sums)))

    def update(self, statistics: Products) -> Float[Tensor, ""]:
        """Solve for the canonical pairs of every lag; return the cross-validated correlation at the peaks."""
        scores, counts = [], torch.zeros_like(self.count)
        for place, layout in enumerate(self.layouts.values()):
            products = self._moments.unpacked(place, statistics.products)
            total = products.sum(0)
            self._buffer(f"covariance_{place}").copy_(self._moments.covariance(total))
            for index, (first, second) in enumerate(self.pairs):
                if {first, second} <= set(layout.units):
                    score, count = self._solve(place, layout, index, products)
                    scores.append(score)
                    counts[index] = max(int(counts[index]), count)
        self.count.copy_(counts.clamp(min=1) if self.config.pairs is None else self.count * 0 + self._most())
        for place, layout in enumerate(self.layouts.values()):
            self._read_out(place, layout, self._moments.unpacked(place, statistics.products).sum(0))
        return torch.stack(scores).mean()

    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the canonical variates: for each pair of regions those of the first, then those of the second."""
        values = self._complete(batch)
        parts = []
        for index, pair in enumerate(self.pairs):
            for region in pair:
                parts.append(self._variates(batch, values, index, region)[..., : int(self.count[index])])
        return torch.cat(parts, -1)

    @property
    def routes(self) -> Mapping[str, tuple[str, ...]]:
        """Every region, predicted from all others."""
        names = list(dict.fromkeys(region for pair in self.pairs for region in pair))
        return {name: tuple(other for other in names if other != name) for name in names}

    def predict_target(self, batch: Batch, target: str) -> Float[Tensor, "trial bin target_unit"]:
        """Return the expected activity of a region given the others, each at the lag of its peak."""
        place, region = self._place(batch), batch.layout.region(target)
        values = self._complete(batch)
        features = [
            shifted(self._variates(batch, values, index, source), lag)
            for source, index, lag in self._sources(place, batch.layout, target)
        ]
        mean = self.mean[self._units.of(batch.layout.session)][region] + self.residuals.mean(batch)[..., region]
        return torch.cat(features, -1) @ self._readout(place, batch.layout, target) + mean

    def findings(self, batch: Batch, seed: int, progress: Progress = quiet_progress) -> Findings:
        """Return who shares activity, in which direction, with what delay and in how many canonical pairs."""
        place = self._place(batch)
        # Courses of conditions are found anew without each fold.
        values = batch.activity.to(torch.float64) if self.config.residuals else self._centered(batch)
        asked = Asked(
            pairs=[pair for pair in self.pairs if set(pair) <= set(batch.layout.units)],
            lags=self._moments.lags[place],
            limited=self._moments.limited[place],
            folds=self.config.folds,
            drift_terms=self.config.drift_terms,
            time_points=self.config.time_points,
            kind=self.config.regularization,
            amounts=self.config.amounts,
            permutations=self.config.permutations,
            resamples=self.config.resamples,
            residuals=self.config.residuals,
        )
        return lag_findings(batch, values, asked, seed, progress)

    def _solve(self, place: int, layout: Layout, index: int, products: Tensor) -> tuple[Tensor, int]:
        """Set the canonical pairs of two regions; return the correlation at the peak, and how many pairs there are."""
        kind, amounts = self.config.regularization, self.config.amounts
        sums = self._moments.between(place, layout, self.pairs[index], products)
        found = correlations(sums, 1, Regularization(kind, choose(sums, 1, kind, amounts)), MOST_PAIRS)
        peak = int(found.correlation[:, 0].argmax())
        everything = Sums(*(leaf.sum(0) for leaf in sums))
        regularization = Regularization(kind, best_amount(sums, 1, kind, amounts))
        x, y = (projection(leaf, 1, regularization) for leaf in (everything.x, everything.y))
        pairs = canonical_pairs(everything.cross[peak], x, y, 1, MOST_PAIRS)
        for side, weights in enumerate((pairs.x, pairs.y)):
            self._buffer(f"weights_{place}_{index}_{side}")[:, : weights.shape[1]] = weights
        self._buffer(f"lags_{place}")[index] = peak - self._moments.lags[place]
        return found.correlation[peak, 0], survivors(found, peak)

    def _read_out(self, place: int, layout: Layout, total: Float[Tensor, "lag wide wide"]) -> None:
        """Regress every region on the variates of the others, each at its lag."""
        for target in layout.units:
            sources = list(self._sources(place, layout, target))
            weights = [self._kept(place, index, source) for source, index, _ in sources]
            lags = [lag for _, _, lag in sources]
            names = [source for source, _, _ in sources]
            readout = self._moments.regression(layout, total, target, names, weights, lags)
            self._readout(place, layout, target).copy_(readout)

    def _sources(self, place: int, layout: Layout, target: str) -> Iterable[tuple[str, int, int]]:
        """Give the other regions, their pair with the target, and by how many bins the target follows them."""
        lags = self._buffer(f"lags_{place}")
        for index, (first, second) in enumerate(self.pairs):
            if target in (first, second) and {first, second} <= set(layout.units):
                lag = int(lags[index])
                yield (first, index, lag) if target == second else (second, index, -lag)

    def _readout(self, place: int, layout: Layout, target: str) -> Float[Tensor, "feature target_unit"]:
        return self._buffer(f"readout_{place}_{list(layout.units).index(target)}")

    def _kept(self, place: int, index: int, region: str) -> Float[Tensor, "wide pair"]:
        weights = self._buffer(f"weights_{place}_{index}_{self.pairs[index].index(region)}")
        return weights * (torch.arange(MOST_PAIRS, device=weights.device) < self.count[index])

    def _variates(
        self, batch: Batch, values: Float[Tensor, "trial bin unit"], index: int, region: str
    ) -> Float[Tensor, "trial bin pair"]:
        """Return the canonical variates of a region; zero in bins that are not valid, and without the region."""
        weights = self._kept(self._place(batch), index, region)
        if region not in batch.layout.units:
            return values.new_zeros(*values.shape[:2], MOST_PAIRS)
        found = values[..., batch.layout.region(region)] @ weights[:-1] + weights[-1]
        return torch.where(batch.valid[..., None], found, 0.0)

    def _complete(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return activity less its mean; what is not observed is expected from the rest of its region."""
        values = self._centered(batch)
        covariance = self._buffer(f"covariance_{self._place(batch)}")
        parts = [
            conditional_mean(values[..., region], batch.observed[..., region], covariance[region, region])
            for region in map(batch.layout.region, batch.layout.units)
        ]
        return torch.cat(parts, -1)

    def _centered(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return activity less its mean, zero for a unit that does not vary."""
        values = self.residuals(batch) - self.mean[self._units.of(batch.layout.session)]
        return torch.where(values.abs() <= ROUNDING * batch.activity.abs(), 0.0, values)

    def _most(self) -> int:
        return min(self.config.pairs or MOST_PAIRS, MOST_PAIRS)

    def _usable(self, batch: Batch) -> Bool[Tensor, "trial bin"]:
        return batch.valid & batch.observed.all(-1)

    def _place(self, batch: Batch) -> int:
        return self._moments.place(batch.layout.session)

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(name)


def _tiny(layout: Layout) -> Any:
    return DelayedCCAConfig(max_lag_bins=3, folds=3, time_points=3, permutations=19, resamples=10)


register(
    Entry(
        model=DelayedCCA,
        config=DelayedCCAConfig,
        family=Family.MULTI_REGION,
        reference=Reference(
            "Semedo, Jasper, Zandvakili, Krishna, Aschner, Machens, Kohn & Yu (2022). Feedforward and feedback "
            "interactions between visual cortical areas use different population activity patterns. "
            "Nature Communications 13, 1099.",
            "10.1038/s41467-022-28552-w",
            "semedo2022feedforward",
        ),
        tiny=_tiny,
        working_bytes=18.0,  # 18 to 29 of 4 to 12 million counts of 100 units
        training=Training(max_epochs=1),
    )
)
