"""Settings of delayed canonical correlation analysis."""

from __future__ import annotations

from dataclasses import dataclass, field

from lvmzoo.errors import UserError, unknown

__all__ = ["DelayedCCAConfig"]


@dataclass(frozen=True)
class DelayedCCAConfig:
    """Which lags are looked at, how covariances are regularized, and what chance is compared with."""

    name: str = "delayed_cca"
    max_lag_bins: int = 20  # largest lag, either way; at most half of the longest trial
    max_lag_s: float | None = None  # the same in seconds; null: max_lag_bins counts
    regularization: str = "shrinkage"  # of each region's covariance: shrinkage or pca
    shrinkage: list[float] = field(
        default_factory=lambda: [0.01, 0.1, 1.0]
    )  # added to each variance, in mean variances of the region's units; several: by cross-validation
    variance_kept: list[float] = field(
        default_factory=lambda: [0.5, 0.8, 0.95]
    )  # share that the principal components of pca hold; several: by cross-validation
    pairs: int | None = None  # canonical pairs of two regions in latents and predictions; null: by cross-validation
    folds: int = 5  # of trials, in short runs of neighbors, or of stretches of a session in few trials
    drift_terms: int = 4  # cosines of slow drift over the session that findings are freed of; 0: none
    time_points: int = 10  # windows of the trial in the time-resolved map; 0: no map
    residuals: bool = False  # subtract each condition's mean course over the training trials
    permutations: int = 200  # of trials between regions, for the null; 0: no null
    resamples: int = 100  # bootstrap of trials, for intervals; 0: none

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError."""
        if self.regularization not in ("shrinkage", "pca"):
            raise unknown("model.regularization", self.regularization, ("shrinkage", "pca"))
        if not self.amounts or not all(amount >= 0 for amount in self.amounts):  # NaN is not
            raise UserError(
                f"The amounts of {self.regularization} are {self.amounts}.",
                "It is a list of numbers, each zero or positive.",
                "For instance model.shrinkage=[0.01,0.1] or model.variance_kept=[0.95].",
            )
        for name, least in (("max_lag_bins", 0), ("folds", 2), ("permutations", 0), ("resamples", 0), ("pairs", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(
                    f"model.{name} is {value}.", f"It is {least} or more.", f"Set model.{name} to at least {least}."
                )

    @property
    def amounts(self) -> list[float]:
        """Amounts of the regularization that is chosen."""
        return [float(a) for a in (self.shrinkage if self.regularization == "shrinkage" else self.variance_kept)]
