"""What a lag profile says: its peak, which side of lag zero outweighs the other, how many canonical pairs there are.

Profiles are taken less their mean over the null, lag by lag: what shared conditions and slow drift alone give (the
shift predictor of Perkel, Gerstein & Moore 1967, doi:10.1016/S0006-3495(67)86597-4); the sides of lag zero and the
delay are of a map from whose covariances it was taken already. Three things of each pair are tested as one family: the
height of the peak, and the best lag on either side of zero less the best on the other, which are alike for what is
shared without delay. Each is standardized by its null, and p-values are corrected for all of them, all lags and all
pairs by the maximum statistic, step by step (Westfall & Young 1993). Any of the three says that two regions share
activity, so that a direction never stands without it; a delay is said of a peak on the side that survives, so that it
never stands without its direction.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.claims.lag_draws import LagDraws
from lvmzoo.claims.nulls import null_summary, p_value
from lvmzoo.claims.support import LEVEL

__all__ = ["Excess", "Said", "Verdict", "around", "asymmetry", "dimensions", "verdict"]


class Excess(NamedTuple):
    """Correlations beyond their mean over the null."""

    center: Float[Tensor, "pair lag component"]
    observed: Float[Tensor, "pair lag component"]
    null: Float[Tensor, "draw pair lag component"]
    resampled: Float[Tensor, "resample pair lag component"]


class Said(NamedTuple):
    """A number for each pair of regions, with its null and resamples, and p-values; NaN where there are no draws."""

    value: Float[Tensor, " pair"]
    null: Float[Tensor, "draw pair"]  # the largest of those of the family that it is tested with
    resampled: Float[Tensor, "resample pair"]
    p: Float[Tensor, " pair"]


class Verdict(NamedTuple):
    """What the lag profiles of all pairs say."""

    excess: Excess
    peak: Int[Tensor, " pair"]  # place of the peak among the lags
    height: Said  # of the peak, beyond the null's mean
    delay: Said  # in bins
    forward: Said  # the peak where the first region leads, less that where it follows
    backward: Said


def verdict(draws: LagDraws) -> Verdict:
    """Return what lag profiles say of every pair of regions."""
    center = draws.center
    excess = Excess(center, draws.observed - center, draws.null - center, draws.resampled - center)
    observed, null, resampled = (part[..., 0] for part in excess[1:])
    heights = observed.amax(-1), null.amax(-1), resampled.amax(-1)
    one, many, again = (part - draws.beyond.center for part in draws.beyond)
    sides = asymmetry(one), asymmetry(many), asymmetry(again)
    tested = [heights, sides, tuple(-side for side in sides)]
    chances, p = _family(torch.stack([of[0] for of in tested]), torch.stack([of[1] for of in tested], 1))
    height, forward, backward = (
        Said(of[0], chance, of[2], each) for of, chance, each in zip(tested, chances, p, strict=True)
    )
    height = height._replace(p=p.amin(0))
    side = torch.where(
        draws.delay > 0, forward.p, torch.where(draws.delay < 0, backward.p, torch.maximum(forward.p, backward.p))
    )
    delay = Said(draws.delay, forward.null, draws.delays, side)
    return Verdict(excess, observed.argmax(-1), height, delay, forward, backward)


def asymmetry(profile: Float[Tensor, "*set lag"]) -> Float[Tensor, "*set"]:
    """Return the largest value at positive lags less the largest at negative lags: feedforward against feedback."""
    middle = profile.shape[-1] // 2
    if not middle:
        return torch.zeros_like(profile[..., 0])
    return profile[..., middle + 1 :].amax(-1) - profile[..., :middle].amax(-1)


def around(samples: Float[Tensor, " resample"], value: float) -> Float[Tensor, " resample"]:
    """Return resamples moved so that their median is the value.

    A resample holds fewer distinct trials than the data, so its cross-validated correlations are lower.
    """
    return samples - samples.median() + value if len(samples) else samples


def dimensions(found: Verdict, pair: int) -> tuple[int, Float[Tensor, " component"], list[int]]:
    """Return how many canonical pairs survive, their thresholds by step, and the same number over resamples.

    The best pair is that of the peak; each next one is compared with the largest that as many pairs as are left give by
    chance. These are the first ones under the null: what is left when the real ones are gone is led by the best that
    chance gives, not by its second or third.
    """
    excess, peak = found.excess, found.peak[pair]
    observed = excess.observed[pair, peak]
    observed = observed[~observed.isnan()].sort(descending=True).values
    count = len(observed)
    thresholds = torch.full((count,), torch.inf, dtype=torch.float64)
    if not len(excess.null) or not count:
        return 0, thresholds, []
    null = _at_peak(excess.null).nan_to_num(nan=-torch.inf)  # draw, pair, component
    for step in range(count):
        left = null[..., : count - step].flatten(1).max(1).values if step else found.height.null[:, pair]
        thresholds[step] = null_summary(left)[1]
    survive = observed > thresholds
    survive[0] = bool(found.height.p[pair] <= LEVEL)
    counts = []
    if len(excess.resampled):
        resampled = _at_peak(excess.resampled)[:, pair, :count].sort(-1, descending=True).values
        moved = resampled - resampled.median(0).values + observed
        counts = [int(row.to(torch.int64).cumprod(0).sum()) for row in moved > thresholds]
    return int(survive.to(torch.int64).cumprod(0).sum()), thresholds, counts


def _at_peak(excess: Float[Tensor, "draw pair lag component"]) -> Float[Tensor, "draw pair component"]:
    """Return all components at the lag at which the first is largest, draw by draw."""
    if not len(excess):
        return excess[:, :, 0]
    peak = excess[..., 0].argmax(-1)
    return excess.gather(2, peak[..., None, None].expand(*peak.shape, 1, excess.shape[-1]))[:, :, 0]


def _family(
    observed: Float[Tensor, "question pair"], null: Float[Tensor, "draw question pair"]
) -> tuple[Float[Tensor, "question draw pair"], Float[Tensor, "question pair"]]:
    """Return what each question and pair is compared with, in its own units, and corrected p-values.

    Step down: the largest is compared with the largest of all under the null, each next one with that of those left.
    """
    if not len(null):
        return null.movedim(1, 0), torch.full_like(observed, torch.nan)
    draws = torch.cat([observed[None], null])  # treated alike
    mean, scale = draws.mean(0), draws.std(0).clamp(min=1e-300)
    standard = ((draws - mean) / scale).flatten(1)
    chances = torch.empty_like(standard[1:])
    p, least = torch.ones_like(standard[0]), 0.0
    order = standard[0].argsort(descending=True, stable=True)
    for step, place in enumerate(order.tolist()):
        left = standard[1:, order[step:]].amax(1)
        least = max(least, p_value(float(standard[0, place]), left))
        chances[:, place], p[place] = left, least
    return (chances.view_as(null) * scale + mean).movedim(1, 0), p.view_as(observed)
