"""Channels in place of units: they tell of the latents what the units do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lvmzoo.claims.influence_channels import region_channels
from lvmzoo.inference.emissions import CountEmissions, emissions_of
from lvmzoo.inference.linear_gaussian import LinearGaussian, log_likelihood, smoothed_means
from lvmzoo.inference.sampling import draw_trials
from tests.claims.influence_world import Edge, batch_of, planted, simulated, structure

pytestmark = pytest.mark.filterwarnings("error")


def test_channels_tell_what_units_do() -> None:
    """The smoothed latents are the same, and the likelihood up to what does not depend on the dynamics."""
    model, batch = simulated("AB", [("A", "B", 1)], bins=12)
    lengths = torch.tensor([12, 9, 5, 1] * 10)
    valid = torch.arange(12) < lengths[:, None]
    observed = batch.observed & (torch.arange(12) != 4)[:, None]  # a bin in which nothing was seen
    batch = dataclasses.replace(batch, valid=valid, observed=observed)
    channels = region_channels(model, structure("AB", 2), emissions_of("gaussian", [batch.layout]), batch)
    assert channels.activity.shape[-1] == 4
    ours = smoothed_means(channels.model, channels.activity, channels.valid, channels.observed)
    theirs = smoothed_means(model, batch.activity, batch.valid, batch.observed)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    other = model._replace(dynamics=0.5 * model.dynamics)

    def gain(one: LinearGaussian, two: LinearGaussian, data: tuple) -> float:
        return float(log_likelihood(one, *data).sum() - log_likelihood(two, *data).sum())

    inner = (channels.activity, channels.valid, channels.observed)
    changed = channels.model._replace(dynamics=other.dynamics)
    outer = (batch.activity, batch.valid, batch.observed)
    assert gain(channels.model, changed, inner) == pytest.approx(gain(model, other, outer), rel=1e-9)


def test_units_are_the_channels_where_some_are_missing() -> None:
    model, batch = simulated("AB", [("A", "B", 1)])
    observed = batch.observed.clone()
    observed[3, 5, 2] = False
    observed[:, :, 8] = False  # never seen
    batch = dataclasses.replace(batch, observed=observed)
    channels = region_channels(model, structure("AB", 2), emissions_of("gaussian", [batch.layout]), batch)
    assert channels.regions == {"A": slice(0, 6), "B": slice(6, 8)}
    assert not bool(channels.observed[3, 5, 2])
    assert bool(channels.observed[3, 5, [0, 1, 3, 4, 5, 6, 7]].all())


@pytest.mark.parametrize("edges", [[], [("A", "B", 1)]], ids=["apart", "A drives B"])
def test_known_inputs_are_taken_out(edges: list[Edge]) -> None:
    """What inputs make of regions, by way of others too, is the same in every draw, and no communication."""
    regions = structure("AB", 2)
    plain = planted(regions, 6, edges)
    draw = np.random.default_rng(0)
    B, D = (torch.from_numpy(draw.normal(size=(n, 2))) for n in (4, 12))
    inputs = torch.from_numpy(draw.normal(size=(30, 15, 2)))
    _, activity = draw_trials(plain, 30, 15, torch.Generator().manual_seed(0))
    driven = torch.zeros(30, 15, 4, dtype=torch.float64)
    for t in range(1, 15):
        driven[:, t] = driven[:, t - 1] @ plain.dynamics.T + inputs[:, t - 1] @ B.T
    moved = batch_of(activity + driven @ plain.readout.T + inputs @ D.T, "AB")
    emissions = emissions_of("gaussian", [moved.layout])
    found = region_channels(plain._replace(drive=B, feedthrough=D), regions, emissions, moved, inputs)
    expected = region_channels(plain, regions, emissions, batch_of(activity, "AB"))
    torch.testing.assert_close(found.activity, expected.activity)


def test_counts_of_a_region_that_others_hold_back_stay_finite() -> None:
    """By itself A would grow by 1.6 a bin: rates of 1e75 were expected of the few spikes that there are."""
    regions = structure("AB", 1)
    dynamics = torch.tensor([[1.6, -1.4], [0.9, -0.7]], dtype=torch.float64)
    assert float(torch.linalg.eigvals(dynamics).abs().max()) < 0.71
    model = planted(regions, 6, [])
    model = model._replace(dynamics=dynamics, readout=0.5 * model.readout, offset=model.offset - 3.0)
    x, _ = draw_trials(model, 30, 60, torch.Generator().manual_seed(0))
    counts = torch.poisson((x @ model.readout.T + model.offset).exp(), generator=torch.Generator().manual_seed(1))
    batch = batch_of(counts, "AB")
    found = region_channels(model, regions, CountEmissions(poisson=True), batch)
    assert float(found.model.readout.abs().max()) < 10
    assert float(found.activity.abs().max()) < 100
    assert bool(log_likelihood(found.model, found.activity, found.valid, found.observed).isfinite().all())


def test_channels_of_counts_tell_the_latents() -> None:
    regions = structure("AB", 2)
    model = planted(regions, 20, [("A", "B", 1)], size=0.5)
    model = model._replace(readout=0.5 * model.readout, offset=model.offset + 0.5)
    x, _ = draw_trials(model, 30, 20, torch.Generator().manual_seed(0))
    counts = torch.poisson((x @ model.readout.T + model.offset).exp(), generator=torch.Generator().manual_seed(1))
    batch = batch_of(counts, "AB")
    channels = region_channels(model, regions, CountEmissions(poisson=True), batch)
    ours = smoothed_means(channels.model, channels.activity, channels.valid, channels.observed)
    exact = CountEmissions(poisson=True).posterior(model, counts, batch.valid, batch.observed, None)[0]
    for found, best, truth in zip(ours.flatten(0, 1).T, exact.flatten(0, 1).T, x.flatten(0, 1).T, strict=True):
        lost = np.corrcoef(best, truth)[0, 1] - np.corrcoef(found, truth)[0, 1]
        assert lost < 0.03
