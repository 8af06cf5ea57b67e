"""Refits to the observed trials and to recombined ones: what chance does, and what it does not know."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lvmzoo.batch import Observation
from lvmzoo.claims import influence_channels, influence_refits
from lvmzoo.claims.influence_channels import apart, each_by_itself, region_channels
from lvmzoo.claims.influence_refits import refit
from lvmzoo.claims.influence_surrogates import chance_of, rearranged
from lvmzoo.claims.surrogates import CircularShifts, TrialPermutations
from lvmzoo.inference.emissions import emissions_of
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.sampling import draw_trials
from tests.claims.influence_world import batch_of, fitted, planted, regional_fit, simulated, structure

pytestmark = pytest.mark.filterwarnings("error")


def of_case(models: LinearGaussian, case: int) -> LinearGaussian:
    """Return one of the systems of refits."""
    return models._replace(**{name: getattr(models, name)[case] for name in influence_refits.REFITTED})


def test_recombined_trials_keep_each_regions_own() -> None:
    model, batch = simulated("ABC", [("A", "B", 1)], trials=5)
    batch = dataclasses.replace(batch, valid=torch.arange(16) < torch.tensor([16, 15, 10, 16, 5])[:, None])
    channels = region_channels(model, structure("ABC", 2), emissions_of("gaussian", [batch.layout]), batch)
    orders = {"A": torch.arange(5), "B": torch.tensor([1, 0, 3, 4, 2]), "C": torch.tensor([4, 1, 2, 0, 3])}
    found = channels.recombined(orders)
    assert found.valid.sum(1).tolist() == [5, 15, 10, 5, 5]  # the shortest of the three
    for name, order in orders.items():
        own = channels.regions[name]
        for trial in range(5):
            assert torch.equal(found.activity[trial][:, own], channels.activity[order[trial]][:, own])
    assert not bool(found.observed[0, 5:].any())


def test_what_chance_starts_from_does_not_know_which_trials_belong_together() -> None:
    regions = structure("AB", 2)
    model, batch = simulated("AB", [("A", "B", 1)])
    channels = region_channels(model, regions, emissions_of("gaussian", [batch.layout]), batch)
    other = channels.recombined({"A": torch.arange(40), "B": torch.randperm(40)})
    none = torch.zeros_like(regions.allowed)
    for rows in regions.regions.values():
        none[rows, rows] = True
    start = apart(channels.model, regions)
    assert float(start.dynamics[:2, 2:].abs().max()) == float(start.dynamics[2:, :2].abs().max()) == 0.0
    fits, _ = refit(start, [channels, other], regions, none, 1)
    one, two = (apart(of_case(fits, k), regions) for k in range(2))
    torch.testing.assert_close(one.dynamics, two.dynamics)
    torch.testing.assert_close(one.dynamics_noise, two.dynamics_noise)
    torch.testing.assert_close(one.initial_covariance, two.initial_covariance)


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
@pytest.mark.parametrize("max_lag", [1, 2])
def test_the_observed_trials_are_one_draw_among_others(kind: str, max_lag: int) -> None:
    """Channels of trials that were recorded in another order are those of recombined trials: the test is exact."""
    regions = structure("AB", 2, max_lag)
    _, batch = simulated("AB", [("A", "B", 1)], max_lag, trials=20, bins=6)
    if kind == "poisson":
        counts = torch.poisson((0.3 * batch.activity).exp(), generator=torch.Generator().manual_seed(0))
        layout = dataclasses.replace(batch.layout, observation=Observation.COUNTS)
        batch = dataclasses.replace(batch, activity=counts, layout=layout)
    order, own = torch.randperm(20, generator=torch.Generator().manual_seed(1)), batch.layout.region("A")
    activity = batch.activity.clone()
    activity[..., own] = activity[order][..., own]
    emissions = emissions_of(kind, [batch.layout])
    recorded, other = (
        region_channels(each_by_itself(regions, emissions, each, None, 3), regions, emissions, each)
        for each in (batch, dataclasses.replace(batch, activity=activity))
    )
    close = {"rtol": 1e-4, "atol": 1e-6}  # Newton steps for counts stop short of rounding
    expected = recorded.recombined({"A": order, "B": torch.arange(20)})
    torch.testing.assert_close(other.activity, expected.activity, **close)
    torch.testing.assert_close(other.model.dynamics, recorded.model.dynamics, **close)
    torch.testing.assert_close(other.model.readout, recorded.model.readout, **close)
    starts = [influence_refits._alone(channels, regions) for channels in (expected, recorded)]
    torch.testing.assert_close(starts[0].dynamics, starts[1].dynamics, **close)


def test_a_long_trial_of_counts_is_fitted_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fitted to stretches is what is fitted to the whole, but for what a stretch does not know at its start."""
    regions = structure("AB", 1)
    model = planted(regions, 8, [])
    model = model._replace(readout=0.5 * model.readout, offset=model.offset + 0.5)
    x, _ = draw_trials(model, 2, 500, torch.Generator().manual_seed(0))
    counts = torch.poisson((x @ model.readout.T + model.offset).exp(), generator=torch.Generator().manual_seed(1))
    batch = batch_of(counts, "AB", [500, 390])
    batch = dataclasses.replace(batch, layout=dataclasses.replace(batch.layout, observation=Observation.COUNTS))
    emissions = emissions_of("poisson", [batch.layout])
    shapes = []
    plain = emissions.expectations
    monkeypatch.setattr(emissions, "expectations", lambda *a: (shapes.append(tuple(a[1].shape)), plain(*a))[1])
    found = []
    for few in (0, 3):
        monkeypatch.setattr(influence_channels, "FEW", few)
        found.append(each_by_itself(regions, emissions, batch, None, 2))
    assert shapes == [(2, 500, 16)] * 2 + [(5, 200, 16)] * 2  # three stretches and two, no empty one
    torch.testing.assert_close(found[1].dynamics, found[0].dynamics, atol=0.02, rtol=0)
    torch.testing.assert_close(found[1].readout, found[0].readout, atol=0.02, rtol=0)
    torch.testing.assert_close(found[1].offset, found[0].offset, atol=0.02, rtol=0)


def test_refits_move_the_dynamics_as_em_of_the_model_does() -> None:
    """With the units' readout at its optimum, one more pass over channels changes A as one over units."""
    regions = structure("AB", 2)
    _, batch = simulated("AB", [("A", "B", 1)], trials=60)
    model, emissions = fitted(batch, regions, 60)
    channels = region_channels(model, regions, emissions, batch)
    ours, _ = refit(model._replace(**channels.model._asdict()), [channels], regions, regions.allowed, 1)
    theirs = regional_fit(model, batch, regions, 1)
    torch.testing.assert_close(ours.dynamics[0], theirs.dynamics, atol=0.02, rtol=0)
    assert float((ours.dynamics[0] - model.dynamics).abs().max()) < 0.05


def test_chance_is_of_trials_or_of_time_or_cannot_be_told() -> None:
    regions = structure("AB", 2)
    model, batch = simulated("AB", [], trials=24, bins=10)
    emissions = emissions_of("gaussian", [batch.layout])
    channels = region_channels(model, regions, emissions, batch)
    found, surrogates, why = chance_of(channels, None, 1)
    assert isinstance(surrogates, TrialPermutations)
    assert not why
    assert found.valid.shape == (24, 10)
    _, surrogates, why = chance_of(channels, torch.arange(24), 1)  # every trial has a condition of its own
    assert surrogates is None
    assert why.startswith("too short to tell: 0 trials")
    _, batch = simulated("AB", [], trials=2, bins=3000)
    batch = dataclasses.replace(batch, valid=torch.arange(3000) < torch.tensor([[3000], [2000]]))
    channels = region_channels(model, regions, emissions, batch)
    cut, surrogates, why = chance_of(channels, None, 1)
    assert isinstance(surrogates, CircularShifts)
    assert int(cut.valid.sum()) == 5000
    assert len(cut.valid) > 20
    shifted = rearranged(cut, surrogates, torch.Generator().manual_seed(0))
    assert torch.equal(shifted.valid, cut.valid)

    def session(activity: torch.Tensor) -> torch.Tensor:
        return activity.flatten(0, 1)[: 3000 // cut.valid.shape[1] * cut.valid.shape[1]]

    was, now = session(cut.activity), session(shifted.activity)
    assert torch.equal(now[:, 2:], was[:, 2:])  # the last region stays
    assert float((now[:, 0] - was[:, 0]).abs().max()) > 1
    inside = was[:, 0].tolist()
    assert sum(value in set(inside) for value in now[:, 0].tolist()) > 0.9 * len(inside)
    brief = dataclasses.replace(batch, valid=batch.valid & (torch.arange(3000) < 100))
    short = region_channels(model, regions, emissions, brief)
    assert chance_of(short, None, 1).surrogates is None


def test_low_rank_blocks_stay_low_in_refits() -> None:
    regions = dataclasses.replace(structure("AB", 2), rank=1)
    _, batch = simulated("AB", [("A", "B", 1)], trials=24)
    model, emissions = fitted(batch, regions)
    channels = region_channels(model, regions, emissions, batch)
    again, _ = refit(apart(channels.model, regions), [channels], regions, regions.allowed, 5)
    assert int(torch.linalg.matrix_rank(again.dynamics[0, 2:, :2], rtol=1e-9)) == 1
