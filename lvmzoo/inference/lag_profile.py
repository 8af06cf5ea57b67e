"""What a lag profile says: its peak, which side of lag zero outweighs the other, how many canonical pairs there are.

Profiles are taken less their mean over the null, lag by lag: what shared conditions and slow drift alone give (the
shift predictor of Perkel, Gerstein & Moore 1967, doi:10.1016/S0006-3495(67)86597-4). Every p-value is corrected for all
lags and pairs of regions by the maximum statistic. Delay and direction are tested by the peak on one side of lag zero
against the peak on the other, which are alike for what is shared without delay, and need a peak that survives, too:
that holds the rate of false claims about independent regions at that of the peak.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.lag_draws import LagDraws
from lvmzoo.inference.nulls import p_value

__all__ = ["Excess", "Said", "Verdict", "around", "asymmetry", "dimensions", "located", "verdict"]


class Excess(NamedTuple):
    """Correlations beyond their mean over the null."""

    center: Float[Tensor, "pair lag component"]
    observed: Float[Tensor, "pair lag component"]
    null: Float[Tensor, "draw pair lag component"]
    resampled: Float[Tensor, "resample pair lag component"]


class Said(NamedTuple):
    """A number for each pair of regions, with its null and resamples, and p-values; NaN where there are no draws."""

    value: Float[Tensor, " pair"]
    null: Float[Tensor, " draw"]  # the largest of all pairs
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
    # With the observed one among the draws, all of them are treated alike.
    center = torch.cat([draws.observed[None], draws.null]).mean(0) if len(draws.null) else 0 * draws.observed
    excess = Excess(center, draws.observed - center, draws.null - center, draws.resampled - center)
    first = [part[..., 0] for part in excess[1:]]
    observed, null, resampled = first
    places, heights = zip(*map(located, first), strict=True)
    height = Said(heights[0], _largest(heights[1]), heights[2], _against(heights[0], _largest(heights[1])))
    sided, chance = asymmetry(observed), asymmetry(null)
    sides = []
    for sign in (1, -1):
        widest = _largest(sign * chance)
        p = torch.maximum(height.p, _against(sign * sided, widest))
        sides.append(Said(sign * sided, widest, sign * asymmetry(resampled), p))
    delay = Said(places[0], _largest(chance.abs()), places[2], torch.minimum(sides[0].p, sides[1].p))
    return Verdict(excess, observed.argmax(-1), height, delay, *sides)


def located(profile: Float[Tensor, "*set lag"]) -> tuple[Float[Tensor, "*set"], Float[Tensor, "*set"]]:
    """Return where each profile peaks, in bins from lag zero, and its height there.

    The place is that of the parabola through the peak and its neighbors; at the last lag, the lag itself.
    """
    lags = profile.shape[-1]
    height, peak = profile.max(-1)
    inner = peak.clamp(1, max(lags - 2, 1)) if lags > 2 else peak
    if lags > 2:
        before, here, after = (profile.gather(-1, (inner + step)[..., None])[..., 0] for step in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = torch.where(bend < 0, 0.5 * (before - after) / torch.where(bend < 0, bend, -1.0), 0.0)
        shift = torch.where(inner == peak, shift.clamp(-0.5, 0.5), 0.0)
    else:
        shift = torch.zeros_like(height)
    return peak.to(profile.dtype) + shift - lags // 2, height


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

    Step down: the best pair is compared with the largest of all pairs, lags and regions under the null, each next one
    with the largest of those left (Westfall & Young 1993), at the peak of the profile.
    """
    excess, peak = found.excess, found.peak[pair]
    observed = excess.observed[pair, peak]
    observed, order = observed[~observed.isnan()].sort(descending=True)
    count = len(observed)
    thresholds = torch.full((count,), torch.inf, dtype=torch.float64)
    if not len(excess.null) or not count:
        return 0, thresholds, []
    null = _at_peak(excess.null).nan_to_num(nan=-torch.inf)  # draw, pair, component
    for step in range(count):
        left = null[..., order[step:]].flatten(1).max(1).values if step else found.height.null
        thresholds[step] = torch.quantile(left, 0.95)
    survive = observed > thresholds
    survive[0] = bool(found.height.p[pair] <= 0.05)
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


def _largest(null: Float[Tensor, "draw pair"]) -> Float[Tensor, " draw"]:
    return null.max(-1).values if len(null) else null[:, 0]


def _against(value: Float[Tensor, " pair"], null: Float[Tensor, " draw"]) -> Float[Tensor, " pair"]:
    if not len(null):
        return torch.full_like(value, torch.nan)
    return torch.tensor([p_value(float(v), null) for v in value], dtype=torch.float64)
