"""Reduced-rank regression: a target region predicted from a source region through a few dimensions.

The coefficient matrix of a ridge regression is projected on the leading directions of its own predictions,
``B_r = B V_r V_r'``, with ``V`` the eigenvectors of ``Sxy' (Sxx + ridge I)^-1 Sxy``. Fitted values of every rank, ridge
and cross-validation fold follow from the second moments of each fold, so that one pass over the data suffices.

Semedo, Zandvakili, Machens, Yu & Kohn (2019), Cortical areas interact through a communication subspace, Neuron 102,
doi:10.1016/j.neuron.2019.01.026; Izenman (1975), doi:10.1016/0047-259X(75)90042-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import UserError
from lvmzoo.inference.reduced_rank import Moments, around_training, explained_by_rank, fold_moments, solve, spectrum_of
from lvmzoo.models.base import Communicates, StatisticsModel
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["ReducedRankRegression", "ReducedRankRegressionConfig"]


@dataclass(frozen=True)
class ReducedRankRegressionConfig:
    """Which region is predicted from which, and through how many dimensions."""

    name: str = "reduced_rank_regression"
    source: str | None = None  # region that predicts; null: the first of the layout
    target: str | None = None  # region that is predicted; null: the second of the layout
    rank: int | None = None  # number of predictive dimensions; null: by cross-validation
    ridge: list[float] = field(
        default_factory=lambda: [0.0]
    )  # penalties on the sum of squares; several: by cross-validation
    folds: int = 10  # contiguous folds of trials, or of bins where there are fewer trials than folds
    rule: str = "one_se"  # one_se: smallest rank within one standard error of the best; best: the best


class ReducedRankRegression(StatisticsModel, Communicates):
    """Predict a target region from a source region through a low-dimensional communication subspace."""

    passes = 1
    shift_source: Tensor
    shift_target: Tensor
    mean_source: Tensor
    mean_target: Tensor
    covariance_source: Tensor
    encode: Tensor
    readout: Tensor
    explained: Tensor
    ridge: Tensor
    rank: Tensor
    n_trials: Tensor

    def __init__(self, config: ReducedRankRegressionConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        if len(layouts) != 1:
            raise UserError(
                f"reduced_rank_regression was given {len(layouts)} sessions.",
                "It fits one session at a time: units differ between sessions.",
                "Run it once for each session, for instance in a sweep over data.path.",
            )
        layout = layouts[0]
        self.source, self.target = _regions(config, layout)
        p, q = layout.units[self.source], layout.units[self.target]
        self.largest = min(p, q)
        _check(config, self.largest)
        folds, ridges = config.folds, len(config.ridge)
        for name, shape in {
            "shift_source": (p,),
            "shift_target": (q,),
            "mean_source": (p,),
            "mean_target": (q,),
            "covariance_source": (p, p),
            "encode": (p, self.largest),
            "readout": (self.largest, q),
            "explained": (folds, ridges, self.largest + 1),  # 1 - NSE of each held-out fold, by rank
            "ridge": (),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("rank", torch.tensor(0))
        self.register_buffer("n_trials", torch.tensor(1))

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Count the trials and find the mean of the training data, around which moments lose no digits."""
        last = -1
        sums = [torch.zeros_like(self.shift_source), torch.zeros_like(self.shift_target)]
        bins = 0.0
        for batch in batches:
            x, y, usable = self._regress(batch)
            if bool(batch.valid.any()):
                last = max(last, int(batch.trial_index[batch.valid.any(1)].max()))
            bins += float(usable.sum())
            for total, values in zip(sums, (x, y), strict=True):
                total += values.sum(0, dtype=torch.float64)
        if bins == 0:
            raise UserError(
                "No bin of the training data has every unit of both regions.",
                "Reduced-rank regression uses bins in which all units of source and target are observed.",
                "Drop the units with missing samples (data.unit_ids) or choose another epoch.",
            )
        self.n_trials.fill_(last + 1)
        self.shift_source.copy_(sums[0] / bins)
        self.shift_target.copy_(sums[1] / bins)

    def statistics(self, batch: Batch) -> Moments:
        """Return the second moments of one batch, a set for each fold; bins with a missing unit are left out."""
        x, y, usable = self._regress(batch)
        fold = self._folds(batch)[usable]
        x, y = x - self.shift_source, y - self.shift_target  # float64, whatever is stored
        if bool((fold.diff() < 0).any()):
            order = torch.argsort(fold, stable=True)
            x, y = x[order], y[order]
        counts = torch.bincount(fold, minlength=self.config.folds)
        parts = [fold_moments(a, b) for a, b in zip(x.split(counts.tolist()), y.split(counts.tolist()), strict=True)]
        return Moments(counts.to(torch.float64), *(torch.stack(leaf) for leaf in zip(*parts, strict=True)))

    def update(self, statistics: Moments) -> Float[Tensor, ""]:
        """Solve for every fold, ridge and rank; return the cross-validated 1 - NSE of the chosen one."""
        used = statistics.bins > 0
        if int(used.sum()) < 2 and self.config.rank is None:
            raise UserError(
                f"Only {int(used.sum())} of {self.config.folds} cross-validation folds holds data.",
                "The rank is chosen by cross-validation, which needs at least two.",
                "Give more trials, or fix the rank (model.rank=2).",
            )
        whole = Moments(*(leaf.sum(0, keepdim=True) for leaf in statistics))
        held_out = Moments(*(leaf[used] for leaf in statistics))
        training = Moments(*(total - leaf for total, leaf in zip(whole, held_out, strict=True)))
        explained = torch.full_like(self.explained, torch.nan)
        if int(used.sum()) > 1:
            spectrum, around = spectrum_of(training), around_training(training, held_out)
            for column, ridge in enumerate(self.config.ridge):
                explained[used, column] = explained_by_rank(spectrum, around, ridge)
        self.explained.copy_(explained)
        column, rank = _choose(explained[used], self.config.rule)
        rank = rank if self.config.rank is None else self.config.rank
        encode, readout = solve(spectrum_of(whole), self.config.ridge[column])
        self.rank.fill_(rank)
        self.ridge.fill_(self.config.ridge[column])
        mean_x, mean_y = whole.x[0] / whole.bins, whole.y[0] / whole.bins
        self.mean_source.copy_(self.shift_source + mean_x)
        self.mean_target.copy_(self.shift_target + mean_y)
        self.covariance_source.copy_(whole.xx[0] / whole.bins - mean_x[:, None] * mean_x)
        kept = torch.arange(self.largest, device=encode.device) < rank
        self.encode.copy_(encode[0] * kept)
        self.readout.copy_(readout[0] * kept[:, None])
        return explained[used, column, rank].nanmean()

    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the projection of the source on its predictive dimensions."""
        region = batch.layout.region(self.source)
        observed = batch.observed[..., region]
        x = torch.where(observed, batch.activity[..., region].to(torch.float64) - self.mean_source, 0.0)
        x = torch.where(batch.valid[..., None], self._impute(x, observed), 0.0)
        return x @ self.encode[:, : int(self.rank)]

    @property
    def routes(self) -> Mapping[str, tuple[str, ...]]:
        """The target region, predicted from the source region."""
        return {self.target: (self.source,)}

    def predict_target(self, batch: Batch, target: str) -> Float[Tensor, "trial bin target_unit"]:
        """Return the expected activity of the target region given the source region alone."""
        return self.latents(batch) @ self.readout[: int(self.rank)] + self.mean_target

    @property
    def curve(self) -> dict[str, list[float] | int]:
        """Cross-validated 1 - NSE by rank (from 0) at the chosen ridge, its standard error, and the chosen rank."""
        column = self.config.ridge.index(float(self.ridge))
        folds = self.explained[:, column]
        folds = folds[folds.isfinite().all(1)]
        error = folds.std(0) / len(folds) ** 0.5
        return {"explained": folds.mean(0).tolist(), "standard_error": error.tolist(), "rank": int(self.rank)}

    def _regress(
        self, batch: Batch
    ) -> tuple[Num[Tensor, "usable p"], Num[Tensor, "usable q"], Bool[Tensor, "trial bin"]]:
        """Return source and target in the bins in which all units are observed, and which bins these are."""
        source, target = batch.layout.region(self.source), batch.layout.region(self.target)
        usable = batch.valid & batch.observed[..., source].all(-1) & batch.observed[..., target].all(-1)
        activity = batch.activity.flatten(0, 1) if bool(usable.all()) else batch.activity[usable]
        return activity[:, source], activity[:, target], usable

    def _folds(self, batch: Batch) -> Int[Tensor, "trial bin"]:
        """Return the contiguous fold of each bin: by trial, or by stretches of a trial where trials are few."""
        folds, trials = self.config.folds, int(self.n_trials)
        if trials >= folds:
            fold = (batch.trial_index.clamp(0, trials - 1) * folds) // trials
            return fold[:, None].expand(batch.valid.shape)
        length = (batch.start_bin + batch.valid.sum(1)).clamp(min=1)
        bins = batch.start_bin[:, None] + torch.arange(batch.n_bins, device=batch.valid.device)
        return ((bins * folds) // length[:, None]).clamp(max=folds - 1)

    def _impute(
        self, x: Float[Tensor, "trial bin source"], observed: Bool[Tensor, "trial bin source"]
    ) -> Float[Tensor, "trial bin source"]:
        """Replace source units that are hidden by their expectation given those that are not."""
        if bool(observed.all()):
            return x
        patterns, which = torch.unique(observed.flatten(0, 1), dim=0, return_inverse=True)
        flat = x.flatten(0, 1).clone()
        for index, seen in enumerate(patterns):
            if bool(seen.any()) and not bool(seen.all()):
                rows = which == index
                weights = torch.linalg.lstsq(
                    self.covariance_source[seen][:, seen], self.covariance_source[seen][:, ~seen], driver="gelsd"
                ).solution
                flat[rows[:, None] & ~seen] = (flat[rows][:, seen] @ weights).flatten()
        return flat.view_as(x)


def _regions(config: ReducedRankRegressionConfig, layout: Layout) -> tuple[str, str]:
    names = list(layout.units)
    given = [config.source, config.target]
    if len(names) < 2 and None in given:
        raise UserError(
            f"Session '{layout.session}' has one region ({', '.join(names)}).",
            "Reduced-rank regression predicts a target region from another, the source region.",
            "Give each unit its region (an electrodes.location in NWB, `regions=` for arrays), or check data.regions.",
        )
    free = iter(name for name in names if name not in given)
    source = config.source if config.source is not None else next(free)
    target = config.target if config.target is not None else next(free)
    layout.region(source), layout.region(target)  # raise for a region that does not exist
    if source == target:
        raise UserError(
            f"Source and target are both '{source}'.",
            "A region predicts another region; of itself it would predict everything.",
            f"Set model.source and model.target to two of: {', '.join(names)}.",
        )
    return source, target


def _check(config: ReducedRankRegressionConfig, largest: int) -> None:
    if config.rank is not None and not 0 <= config.rank <= largest:
        raise UserError(
            f"model.rank is {config.rank}.",
            f"The rank lies between 0 and the size of the smaller region, {largest}.",
            f"Choose model.rank of at most {largest}, or null for cross-validation.",
        )
    if config.folds < 2:
        raise UserError(f"model.folds is {config.folds}.", "At least 2 are needed.", "The usual choice is 10.")
    if not config.ridge or not all(ridge >= 0 for ridge in config.ridge):  # NaN is not
        raise UserError(
            f"model.ridge is {list(config.ridge)}.",
            "It is a list of penalties, each zero or positive.",
            "For instance model.ridge=[0,10,100].",
        )
    if config.rule not in ("one_se", "best"):
        raise UserError(
            f"model.rule is '{config.rule}'.", "Allowed: one_se, best.", "one_se is the rule of Semedo et al. (2019)."
        )


def _choose(explained: Float[Tensor, "fold ridge rank"], rule: str) -> tuple[int, int]:
    """Return the column of the ridge and the rank: the best in the mean, or the smallest within its standard error."""
    if bool(explained.isnan().all()):
        return 0, 0
    mean = explained.mean(0)
    best = int(mean.flatten().argmax())
    column, rank = divmod(best, mean.shape[1])
    if rule == "best":
        return column, rank
    error = explained[:, column, rank].std() / len(explained) ** 0.5
    within = mean[column] >= mean[column, rank] - error
    return column, int(within.int().argmax())


def _tiny(layout: Layout) -> Any:
    return ReducedRankRegressionConfig(folds=3)


register(
    Entry(
        model=ReducedRankRegression,
        config=ReducedRankRegressionConfig,
        family=Family.MULTI_REGION,
        reference=Reference(
            "Semedo, Zandvakili, Machens, Yu & Kohn (2019). Cortical areas interact through a communication subspace. "
            "Neuron 102(1), 249-259.",
            "10.1016/j.neuron.2019.01.026",
            "semedo2019cortical",
        ),
        tiny=_tiny,
        training=Training(max_epochs=1),
    )
)
