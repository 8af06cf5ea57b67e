"""Through how many dimensions one region predicts another: rank curves, their spread and the within-region control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.claims.nulls import bootstrap, interval, outwards
from lvmzoo.claims.regression_recording import RegionRecording, Windows
from lvmzoo.inference.factor_regression import explained_by_factors, number_of_factors, solve_factors
from lvmzoo.inference.reduced_rank import Centered, choose_rank, solve, spectrum_of
from lvmzoo.inference.regression_moments import Scatter
from lvmzoo.parts.regression_session import Route

__all__ = ["Control", "Dimensions", "curve_of", "dimensions", "subspace_of", "within_region"]

SPLITS = 25  # random halves of the source


class Curve(NamedTuple):
    """1 - NSE by rank at the best penalty, its standard error over folds, and the rank by the rule."""

    explained: Float[Tensor, " rank"]
    error: Float[Tensor, " rank"]
    rank: int
    ridge: float


@dataclass(frozen=True)
class Control:
    """Source and target of equal size drawn from one region, beside as large ones of two."""

    within: Float[Tensor, "split rank"]  # 1 - NSE of units of the source region
    between: Float[Tensor, "split rank"]  # of as many units of the target region, from the same source units
    rank: Float[Tensor, " split"]
    between_rank: Float[Tensor, " split"]
    size: int  # units of the source, and as many of the target


@dataclass(frozen=True)
class Dimensions:
    """What one region predicts of another by number of dimensions."""

    curve: Curve
    interval: tuple[float, float] | None
    control: Control | None
    factors: Curve | None  # of factor regression, beside reduced-rank regression
    windows: Windows


def dimensions(
    recording: RegionRecording,
    route: Route,
    source: str,
    target: str,
    resamples: int,
    generator: torch.Generator,
    control: bool,
) -> Dimensions | None:
    """Return the rank curve of a pair of regions; None where no fold has a whole window.

    Parameters
    ----------
    recording : the session.
    route : settings; its regions do not matter.
    source, target : the pair.
    resamples : of trials, for the interval of the rank; 0: none.
    generator : of resamples and splits.
    control : whether to split the source.
    """
    windows = recording.windows([(source, _with_zero(route.lags)), (target, (0,))])
    if windows is None:
        return None
    x = torch.cat([windows.columns[source, lag] for lag in route.lags])
    y = windows.columns[target, 0]
    scatter = windows.scatter()
    factors = _factors(scatter, x, y)
    curve = curve_of(scatter, x, y, route, factors)
    beside = curve_of(scatter, x, y, _factor_route(route), factors) if route.method == "reduced_rank" else None
    ranks = []
    for _ in range(resamples if recording.trials > 1 else 0):
        again = windows.resampled(bootstrap(recording.trials, generator), recording.trials)
        if len(again.bins) > 1:
            ranks.append(float(curve_of(again, x, y, route, factors).rank))
    spread = outwards(interval(ranks), float(curve.rank)) if ranks else None
    split = within_region(scatter, windows, route, source, target, generator) if control else None
    return Dimensions(curve, spread, split, beside, windows)


def curve_of(scatter: Scatter, x: Int[Tensor, " p"], y: Int[Tensor, " q"], route: Route, factors: int) -> Curve:
    """Return the rank curve of columns ``y`` from columns ``x`` at the best penalty, or by number of factors."""
    if route.method == "factor":
        training, held_out = scatter.between(x, y)
        explained = explained_by_factors(training, scatter.bins, held_out, factors)[:, None]
    else:
        explained = torch.stack([scatter.by_rank(x, y, ridge) for ridge in route.ridge], 1)
    column, rank = choose_rank(explained, route.rule)
    return Curve(
        explained[:, column].mean(0), explained[:, column].std(0) / len(explained) ** 0.5, rank, route.ridge[column]
    )


def within_region(
    scatter: Scatter, windows: Windows, route: Route, source: str, target: str, generator: torch.Generator
) -> Control | None:
    """Return what random units of the source predict of as many others of it, and of as many units of the target.

    None for a source of one unit.
    """
    inside, outside = windows.columns[source, 0], windows.columns[target, 0]
    held = min(len(inside) // 2, len(outside))
    if held < 1:
        return None
    within: list[Curve] = []
    between: list[Curve] = []
    factors = 0
    for _ in range(SPLITS):
        order = torch.randperm(len(inside), generator=generator).to(inside.device)
        x = torch.cat([windows.columns[source, lag][order[held : 2 * held]] for lag in route.lags])
        other = outside[torch.randperm(len(outside), generator=generator).to(inside.device)[:held]]
        if route.method == "factor" and not within:
            factors = _factors(scatter, x, other)
        for curves, y in ((within, inside[order[:held]]), (between, other)):
            curves.append(curve_of(scatter, x, y, route, factors))
    return Control(
        torch.stack([curve.explained for curve in within]),
        torch.stack([curve.explained for curve in between]),
        torch.tensor([float(curve.rank) for curve in within]),
        torch.tensor([float(curve.rank) for curve in between]),
        held,
    )


def subspace_of(windows: Windows, route: Route, source: str, target: str, curve: Curve) -> Float[Tensor, "window r"]:
    """Return the directions of the source's windows that predict the target, from all rows at the curve's penalty."""
    x = torch.cat([windows.columns[source, lag] for lag in route.lags])
    y = windows.columns[target, 0]
    products, bins = windows.rows.whole()
    training = Centered(products[None, x[:, None], x], products[None, x[:, None], y])
    if route.method == "factor":
        return solve_factors(training.xx[0], training.xy[0], bins, max(curve.rank, 1))[0][:, : curve.rank]
    return solve(spectrum_of(training), curve.ridge)[0][0][:, : curve.rank]


def _factors(scatter: Scatter, x: Int[Tensor, " p"], y: Int[Tensor, " q"]) -> int:
    training, held_out = scatter.between(x, y)
    return number_of_factors(training.xx, scatter.bins, held_out.xx, scatter.held_bins)


def _factor_route(route: Route) -> Route:
    return Route(route.sources, route.target, route.lags, (0.0,), route.folds, route.rule, "factor")


def _with_zero(lags: Sequence[int]) -> tuple[int, ...]:
    return tuple(lags) if 0 in lags else (0, *lags)
