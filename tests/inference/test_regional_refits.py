"""EM over the dynamics of many systems at once, against EM of each by itself, which takes trials as they come."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments, expectations
from lvmzoo.inference.maximization import solve_initial
from lvmzoo.inference.regional_maximization import solve_regional_dynamics
from lvmzoo.inference.regional_refits import Seen, refit_together
from lvmzoo.inference.regional_structure import Structure
from lvmzoo.inference.sampling import draw_trials
from tests.claims.influence_world import planted, structure


def by_itself(
    model: LinearGaussian, activity: Tensor, lengths: Tensor, regions: Structure, passes: int
) -> tuple[LinearGaussian, Moments]:
    valid = torch.arange(activity.shape[1]) < lengths[:, None]
    for _ in range(passes):
        moments = expectations(model, activity, valid, valid[..., None].expand_as(activity))
        A, _, Q = solve_regional_dynamics(
            model, moments, regions.regions, regions.allowed, regions.rank, regions.columns
        )
        mean, covariance = solve_initial(model, moments)
        model = model._replace(dynamics=A, dynamics_noise=Q, initial_mean=mean, initial_covariance=covariance)
    return model, moments


@pytest.mark.parametrize(
    ("max_lag", "rank", "trials", "bins"),
    [(1, None, 30, 14), (3, None, 30, 14), (2, 1, 30, 14), (1, None, 6, 120), (1, None, 20, 1), (2, None, 12, 2)],
    ids=["one lag", "three lags", "low rank", "steady", "one bin", "two bins"],
)
def test_each_is_as_it_is_by_itself(max_lag: int, rank: int | None, trials: int, bins: int) -> None:
    regions = dataclasses.replace(structure("ABC", 2, max_lag), rank=rank)
    model = planted(regions, 5, [("A", "B", max_lag)], size=0.6)
    noise = model.noise * torch.linspace(0.5, 2, len(model.noise), dtype=torch.float64)
    model = model._replace(noise=noise, initial_mean=model.initial_mean + 0.3)
    draw = torch.Generator().manual_seed(0)
    lengths = [torch.randint(max(1, bins // 2), bins + 1, (trials,), generator=draw) for _ in range(3)]
    lengths[1][0] = 0  # a trial that meets one without a valid bin
    data = []
    for each in lengths:
        activity = draw_trials(model, trials, bins, draw)[1]
        data.append(torch.where(torch.arange(bins)[:, None] < each[:, None, None], activity, 0.0))
    weights = model.readout / model.noise[:, None]
    seen = [Seen(activity @ weights, each) for activity, each in zip(data, lengths, strict=True)]
    models, moments = refit_together(model, seen, regions, regions.allowed, 4)
    for k, (activity, each) in enumerate(zip(data, lengths, strict=True)):
        one, sums = by_itself(model, activity, each, regions, 4)
        for name in ("dynamics", "dynamics_noise", "initial_mean", "initial_covariance"):
            torch.testing.assert_close(getattr(models, name)[k], getattr(one, name), rtol=1e-7, atol=1e-9)
        for name in ("bins", "trials", "transitions", "before", "after", "cross", "initial_sum", "initial_moment"):
            torch.testing.assert_close(getattr(moments, name)[k], getattr(sums, name), rtol=1e-7, atol=1e-7)
