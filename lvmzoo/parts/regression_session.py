"""Reduced-rank regression, or factor regression, of one session: its sums, its solution and what it predicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import UserError
from lvmzoo.inference.factor_regression import explained_by_factors, number_of_factors, solve_factors
from lvmzoo.inference.lag_windows import lagged, whole_windows
from lvmzoo.inference.reduced_rank import (
    Moments,
    around_training,
    centered,
    choose_rank,
    explained_by_rank,
    fold_moments,
    held_in,
    solve,
    spectrum_of,
)
from lvmzoo.inference.regression_moments import ROUNDING
from lvmzoo.inference.shared_variance import CANDIDATES
from lvmzoo.parts.residuals import Residuals

__all__ = ["RegressionSession", "Route"]


@dataclass(frozen=True)
class Route:
    """What is predicted from what, and how."""

    sources: tuple[str, ...]
    target: str
    lags: tuple[int, ...]
    ridge: tuple[float, ...]
    folds: int
    rule: str
    method: str


class RegressionSession(nn.Module):
    """The regression of one session, in buffers."""

    shift_source: Tensor
    shift_target: Tensor
    size_source: Tensor
    size_target: Tensor
    mean_source: Tensor
    mean_target: Tensor
    covariance_source: Tensor
    encode: Tensor
    readout: Tensor
    explained: Tensor
    ridge: Tensor
    rank: Tensor
    n_trials: Tensor

    def __init__(self, route: Route, layout: Layout, groups: int) -> None:
        super().__init__()
        self.route, self.groups = route, groups
        regions = [layout.region(name) for name in route.sources]
        units = [unit for region in regions for unit in range(region.start, region.stop)]
        joined = units == list(range(units[0], units[-1] + 1))
        self.source: slice | list[int] = slice(units[0], units[-1] + 1) if joined else units
        self.target = layout.region(route.target)
        p, q = len(units) * len(route.lags), layout.units[route.target]
        self.largest = min(p, q) if route.method == "reduced_rank" else max(1, min(p - 1, CANDIDATES[-1]))
        for name, shape in {
            "shift_source": (p,),
            "shift_target": (q,),
            "mean_source": (p,),
            "mean_target": (q,),
            "covariance_source": (p, p),
            "encode": (p, self.largest),
            "readout": (self.largest, q),
            "explained": (route.folds, len(route.ridge), self.largest + 1),  # 1 - NSE of each held-out fold, by rank
            "ridge": (),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        for name, size in (("size_source", p), ("size_target", q)):  # root mean squares, for a fit alone
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64), persistent=False)
        self.register_buffer("rank", torch.tensor(0))
        self.register_buffer("n_trials", torch.tensor(1))

    def prepare(self, batches: Iterable[Batch], residuals: Residuals) -> None:
        """Count the trials and find the mean of the training data, around which moments lose no digits."""
        last = -1
        sums = [torch.zeros_like(self.shift_source), torch.zeros_like(self.shift_target)]
        squares = [torch.zeros_like(self.size_source), torch.zeros_like(self.size_target)]
        bins = 0.0
        for batch in batches:
            x, y, usable = self._regress(batch, residuals)
            for total, raw in zip(squares, self._raw(batch), strict=True):
                total += raw[usable].to(torch.float64).square().sum(0)
            if bool(batch.valid.any()):
                last = max(last, int(batch.trial_index[batch.valid.any(1)].max()))
            bins += float(usable.sum())
            for total, values in zip(sums, (x, y), strict=True):
                total += values.sum(0, dtype=torch.float64)
        if bins == 0:
            window = f" and in the {max(self.route.lags)} bins before it" if max(self.route.lags) else ""
            raise UserError(
                f"No bin of the training data has every unit of both regions in it{window}.",
                "Reduced-rank regression uses bins in which all units of source and target are observed.",
                "Drop the units with missing samples (data.unit_ids), choose another epoch, or smaller model.lags.",
            )
        self.n_trials.fill_(last + 1)
        self.shift_source.copy_(sums[0] / bins)
        self.shift_target.copy_(sums[1] / bins)
        self.size_source.copy_((squares[0] / bins).sqrt())
        self.size_target.copy_((squares[1] / bins).sqrt())

    def statistics(self, batch: Batch, residuals: Residuals) -> Moments:
        """Return the second moments of one batch, a set for each fold; bins with a missing unit are left out."""
        x, y, usable = self._regress(batch, residuals)
        group = residuals.groups(batch)[usable] if residuals.wanted else None
        x, y = x - self.shift_source, y - self.shift_target  # float64, whatever is stored
        return fold_moments(x, y, self.folds(batch)[usable], self.route.folds, group, self.groups)

    def update(self, statistics: Moments, rank: int | None) -> Float[Tensor, ""]:
        """Solve for every fold, ridge and rank; return the cross-validated 1 - NSE of the chosen one."""
        statistics = self._without_rounding(statistics)
        used = statistics.bins.sum(1) > 0
        if int(used.sum()) < 2 and rank is None:
            raise UserError(
                f"Only {int(used.sum())} of {self.route.folds} cross-validation folds holds data.",
                "The rank is chosen by cross-validation, which needs at least two.",
                "Give more trials, or fix the rank (model.rank=2).",
            )
        whole = Moments(*(leaf.sum(0, keepdim=True) for leaf in statistics))
        held_out = Moments(*(leaf[used] for leaf in statistics))
        explained = torch.full_like(self.explained, torch.nan)
        factors = self.largest if self.route.method == "factor" else 0
        if int(used.sum()) > 1:
            factors, explained[used] = self._cross_validate(held_out)
        self.explained.copy_(explained)
        column, chosen = choose_rank(explained[used], self.route.rule)
        chosen = chosen if rank is None else rank
        ridge = self.route.ridge[column]
        self.rank.fill_(chosen)
        self.ridge.fill_(ridge)
        scatter, bins = centered(whole), whole.bins.sum()
        for name, total in (("source", whole.x), ("target", whole.y)):
            mean = total[0].sum(0) / bins if self.groups == 1 else torch.zeros_like(total[0, 0])
            getattr(self, f"mean_{name}").copy_(getattr(self, f"shift_{name}") + mean)
        self.covariance_source.copy_(scatter.xx[0] / bins)
        if self.route.method == "factor":
            encode, readout = solve_factors(scatter.xx[0], scatter.xy[0], float(bins), factors)
        else:
            encode, readout = (leaf[0] for leaf in solve(spectrum_of(scatter), ridge))
        kept = min(chosen, encode.shape[1])
        self.encode.zero_()[:, :kept] = encode[:, :kept]
        self.readout.zero_()[:kept] = readout[:kept]
        return explained[used, column, chosen].nanmean()

    def latents(self, batch: Batch, residuals: Residuals) -> Float[Tensor, "trial bin latent"]:
        """Return the projection of the source on its predictive dimensions.

        What is not observed of a window, or lies before the trial, is replaced by its expectation given the rest.
        """
        seen = lagged((batch.observed & batch.valid[..., None])[..., self.source], self.route.lags)
        activity = lagged(residuals(batch)[..., self.source], self.route.lags)
        x = torch.where(seen, activity - self.mean_source, 0.0)
        x = torch.where(batch.valid[..., None], self._impute(x, seen), 0.0)
        return x @ self.encode[:, : int(self.rank)]

    def predicted(self, batch: Batch, residuals: Residuals) -> Float[Tensor, "trial bin target_unit"]:
        """Return the expected activity of the target given the sources alone, and the condition if residuals are."""
        found = self.latents(batch, residuals) @ self.readout[: int(self.rank)] + self.mean_target
        return found + residuals.mean(batch)[..., self.target] if residuals.wanted else found

    @property
    def by_fold(self) -> Float[Tensor, "fold rank"]:
        """Cross-validated 1 - NSE by rank (from 0) at the chosen ridge; NaN for folds without data."""
        return self.explained[:, self.route.ridge.index(float(self.ridge))]

    @property
    def curve(self) -> dict[str, list[float] | int]:
        """Cross-validated 1 - NSE by rank (from 0) at the chosen ridge, its standard error, and the chosen rank."""
        folds = self.by_fold
        folds = folds[folds.isfinite().all(1)]
        error = folds.std(0) / len(folds) ** 0.5
        return {"explained": folds.mean(0).tolist(), "standard_error": error.tolist(), "rank": int(self.rank)}

    @property
    def subspace(self) -> Float[Tensor, "window_unit dimension"]:
        """Directions in the source's windows that predict the target, the communication subspace; not orthonormal."""
        return self.encode[:, : int(self.rank)]

    def folds(self, batch: Batch) -> Int[Tensor, "trial bin"]:
        """Return the contiguous fold of each bin: by trial, or by stretches of a trial where trials are few."""
        folds, trials = self.route.folds, int(self.n_trials)
        if trials >= folds:
            fold = (batch.trial_index.clamp(0, trials - 1) * folds) // trials
            return fold[:, None].expand(batch.valid.shape)
        length = (batch.start_bin + batch.valid.sum(1)).clamp(min=1)
        bins = batch.start_bin[:, None] + torch.arange(batch.n_bins, device=batch.valid.device)
        return ((bins * folds) // length[:, None]).clamp(max=folds - 1)

    def _regress(
        self, batch: Batch, residuals: Residuals
    ) -> tuple[Num[Tensor, "usable p"], Num[Tensor, "usable q"], Bool[Tensor, "trial bin"]]:
        """Return windows of the source and target in the bins in which all are observed, and which bins these are."""
        activity = residuals(batch) if residuals.wanted else batch.activity
        complete = batch.valid & batch.observed[..., self.source].all(-1)
        usable = whole_windows(complete, self.route.lags) & batch.observed[..., self.target].all(-1)
        windows = lagged(activity[..., self.source], self.route.lags)
        if bool(usable.all()):
            return windows.flatten(0, 1), activity[..., self.target].flatten(0, 1), usable
        return windows[usable], activity[..., self.target][usable], usable

    def _raw(self, batch: Batch) -> tuple[Num[Tensor, "trial bin p"], Num[Tensor, "trial bin q"]]:
        """Return windows of the source and target as they were recorded."""
        return lagged(batch.activity[..., self.source], self.route.lags), batch.activity[..., self.target]

    def _without_rounding(self, moments: Moments) -> Moments:
        """Return the moments, zero for source units that do not vary, and for a target that does not."""
        bins, squares = moments.bins.sum(), moments.xx.diagonal(dim1=1, dim2=2).sum(0)
        x = (squares > bins * (ROUNDING * self.size_source).square()).to(squares)
        y = (moments.yy.sum() > bins * (ROUNDING * self.size_target).square().sum()).to(squares)
        return Moments(
            moments.bins,
            moments.x * x,
            moments.y * y,
            moments.xx * x * x[:, None],
            moments.xy * x[:, None] * y,
            moments.yy * y,
        )

    def _cross_validate(self, folds: Moments) -> tuple[int, Float[Tensor, "fold ridge rank"]]:
        """Return the number of factors, if any, and 1 - NSE of each fold by ridge and rank."""
        training = held_in(folds)
        scatter, around = centered(training), around_training(training, folds)
        if self.route.method == "reduced_rank":
            spectrum = spectrum_of(scatter)
            return 0, torch.stack([explained_by_rank(spectrum, around, ridge) for ridge in self.route.ridge], 1)
        bins, held_bins = training.bins.sum(1), folds.bins.sum(1)
        factors = number_of_factors(scatter.xx, bins, around.xx, held_bins)
        curves = explained_by_factors(scatter, bins, around, factors)
        rest = curves[:, -1:].expand(-1, self.largest - factors)  # no more factors, no more to predict from
        return factors, torch.cat([curves, rest], 1)[:, None]

    def _impute(
        self, x: Float[Tensor, "trial bin source"], observed: Bool[Tensor, "trial bin source"]
    ) -> Float[Tensor, "trial bin source"]:
        """Replace what is hidden by its expectation given what is not."""
        partly = observed.any(-1) & ~observed.all(-1)
        if not bool(partly.any()):
            return x
        patterns, which = torch.unique(observed[partly], dim=0, return_inverse=True)
        flat = x[partly]
        for index, seen in enumerate(patterns):
            rows = which == index
            weights = torch.linalg.lstsq(
                self.covariance_source[seen][:, seen], self.covariance_source[seen][:, ~seen], driver="gelsd"
            ).solution
            flat[rows[:, None] & ~seen] = (flat[rows][:, seen] @ weights).flatten()
        found = x.clone()
        found[partly] = flat
        return found
