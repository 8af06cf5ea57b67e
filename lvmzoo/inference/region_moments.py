"""Lagged second moments of all regions of several sessions, and what follows from them for each pair of regions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.batch import Layout
from lvmzoo.errors import UserError, unknown_session
from lvmzoo.inference.lag_map import Sums

__all__ = ["RegionMoments", "conditional_mean", "shifted"]

RIDGE = 1e-3  # on variates of about unit variance, whose moments come from slightly different bins


class RegionMoments:
    """Where the moments of each session, fold, lag and pair of regions lie.

    Moments hold the units of a session and, last, a constant.

    Parameters
    ----------
    layouts : of the sessions; raises UserError for one of a single region.
    max_lag_bins, max_lag_s : largest lag, either way; the second counts where it is given.
    folds : of cross-validation.
    """

    def __init__(self, layouts: Sequence[Layout], max_lag_bins: int, max_lag_s: float | None, folds: int) -> None:
        self._sessions = [layout.session for layout in layouts]
        self._folds = folds
        self.lags, self.reach, self._shapes = [], [], []
        self.limited = []  # whether fewer lags are looked at than were asked for, as trials are short
        for layout in layouts:
            if len(layout.units) < 2:
                raise UserError(
                    f"Session '{layout.session}' has one region ({', '.join(layout.units)}).",
                    "Canonical correlations are between two regions.",
                    "Give each unit its region (an electrodes.location in NWB, `regions=` for arrays), or check "
                    "data.regions.",
                )
            lags = max_lag_bins if max_lag_s is None else max(0, round(max_lag_s / layout.bin_width_s))
            asked = lags
            lags = min(lags, layout.longest_bins // 2) if layout.longest_bins else lags
            self.limited.append(lags < asked)
            reach = lags if len(layout.units) == 2 else 2 * lags  # two sources differ by twice the largest lag
            self.lags.append(lags)
            self.reach.append(reach)
            self._shapes.append((folds, reach + 1, layout.n_units + 1, layout.n_units + 1))
        names = list(dict.fromkeys(name for layout in layouts for name in layout.units))
        self.pairs = list(itertools.combinations(names, 2))

    def place(self, session: str) -> int:
        """Return the number of a session; raises UserError for one that the model was not built for."""
        if session not in self._sessions:
            raise unknown_session(session, self._sessions)
        return self._sessions.index(session)

    def packed(self, place: int, products: Float[Tensor, "fold lag wide wide"]) -> Float[Tensor, " entry"]:
        """Return the products of one session among those of all, which are zero."""
        parts = [
            products.flatten() if index == place else products.new_zeros(math.prod(shape))
            for index, shape in enumerate(self._shapes)
        ]
        return torch.cat(parts)

    def unpacked(self, place: int, packed: Float[Tensor, " entry"]) -> Float[Tensor, "fold lag wide wide"]:
        """Return the products of one session."""
        sizes = [math.prod(shape) for shape in self._shapes]
        return packed.split(sizes)[place].view(self._shapes[place])

    def covariance(self, total: Float[Tensor, "lag wide wide"]) -> Float[Tensor, "unit unit"]:
        """Return the covariance of all units."""
        bins = total[0, -1, -1].clamp(min=1)
        mean = total[0, :-1, -1] / bins
        return total[0, :-1, :-1] / bins - mean[:, None] * mean

    def between(
        self, place: int, layout: Layout, pair: tuple[str, str], products: Float[Tensor, "fold lag wide wide"]
    ) -> Sums:
        """Return the sums of two regions at lags from below zero to above."""
        x, y = (_columns(layout, region) for region in pair)
        lags = self.lags[place]
        ahead = products[:, : lags + 1, x][..., y]
        behind = products[:, 1 : lags + 1, y][..., x].mT.flip(1)
        return Sums(torch.cat([behind, ahead], 1), products[:, 0, x][..., x], products[:, 0, y][..., y])

    def regression(
        self,
        layout: Layout,
        total: Float[Tensor, "lag wide wide"],
        target: str,
        sources: Sequence[str],
        weights: Sequence[Float[Tensor, "_ pair"]],
        lags: Sequence[int],
    ) -> Float[Tensor, "feature target_unit"]:
        """Return the regression of a region on variates of others.

        Parameters
        ----------
        layout : of the session.
        total : moments of all folds.
        target : region that is predicted.
        sources : regions that predict it, each with its ``weights`` and the bins by which the target follows it.
        """
        blocks = [
            [
                weights[i].mT @ _moment(total, _columns(layout, a), _columns(layout, b), lags[i] - lags[j]) @ weights[j]
                for j, b in enumerate(sources)
            ]
            for i, a in enumerate(sources)
        ]
        gram = torch.cat([torch.cat(row, 1) for row in blocks])
        columns = _columns(layout, target)
        cross = torch.cat(
            [
                weights[i].mT @ _moment(total, _columns(layout, a), columns, lags[i])[:, :-1]
                for i, a in enumerate(sources)
            ]
        )
        used = gram.diagonal() > 0  # others are beyond the pairs that are kept
        gram = (gram + gram.mT) / 2 + torch.diag(torch.where(used, RIDGE, 1.0).to(gram))
        variance, axes = torch.linalg.eigh(gram)  # blocks at different lags need not fit together
        return axes @ (axes.mT @ cross / variance.clamp(min=RIDGE)[:, None])


def conditional_mean(
    values: Float[Tensor, "trial bin unit"],
    observed: Bool[Tensor, "trial bin unit"],
    covariance: Float[Tensor, "unit unit"],
) -> Float[Tensor, "trial bin unit"]:
    """Return values around their mean, with those that are not observed expected from those that are."""
    if bool(observed.all()):
        return values
    flat = torch.where(observed, values, 0.0).flatten(0, 1)
    patterns, which = torch.unique(observed.flatten(0, 1), dim=0, return_inverse=True)
    for index, seen in enumerate(patterns):
        if bool(seen.any()) and not bool(seen.all()):
            rows = which == index
            weights = torch.linalg.lstsq(covariance[seen][:, seen], covariance[seen][:, ~seen], driver="gelsd").solution
            flat[rows[:, None] & ~seen] = (flat[rows][:, seen] @ weights).flatten()
    return flat.view_as(values)


def shifted(values: Float[Tensor, "trial bin pair"], lag: int) -> Float[Tensor, "trial bin pair"]:
    """Return what was there ``lag`` bins before; zero, which is the mean, where the trial had not begun or is over."""
    bins = values.shape[1]
    if abs(lag) >= bins:
        return torch.zeros_like(values)
    kept = values[:, max(0, -lag) : bins - max(0, lag)]
    return torch.nn.functional.pad(kept, (0, 0, max(0, lag), max(0, -lag)))


def _columns(layout: Layout, region: str) -> Tensor:
    """Return the units of a region, and the constant."""
    where = layout.region(region)
    return torch.tensor([*range(where.start, where.stop), layout.n_units])


def _moment(total: Float[Tensor, "lag wide wide"], x: Tensor, y: Tensor, lag: int) -> Float[Tensor, "x y"]:
    """Return the mean product of x in a bin and y ``lag`` bins later."""
    products = total[lag][x][:, y] if lag >= 0 else total[-lag][y][:, x].mT
    return products / products[-1, -1].clamp(min=1)
