"""Claims from numbers given by hand, and sessions of which nothing can be told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lvmzoo.claims.influence_channels import region_channels
from lvmzoo.claims.influence_measures import Influence
from lvmzoo.claims.influence_study import Study, shifted_interval
from lvmzoo.claims.influence_surrogates import chance_of
from lvmzoo.claims.support import largest_of_all
from lvmzoo.findings import Claim, Question
from lvmzoo.inference.emissions import emissions_of
from tests.claims.influence_world import batch_of, planted, structure


def numbers(cases: int, size: float) -> Influence:
    """Return what cases say of two regions if A drives B and B does not drive A; two correlations of one size."""
    draw = torch.Generator().manual_seed(0)
    way = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    noise = 1 + 0.01 * torch.rand(cases, 1, 1, generator=draw, dtype=torch.float64)
    values = size * way * noise
    return Influence(
        values,
        values[..., None],
        100 * values,
        values[..., None].expand(-1, -1, -1, 2),
        values[..., None],
        values,
        values,
    )


@pytest.mark.parametrize(("rank", "expected"), [(None, 2), (1, 1), (2, 2)])
def test_no_more_dimensions_than_the_model_lets_through(rank: int | None, expected: int) -> None:
    regions = dataclasses.replace(structure("AB", 2), rank=rank)
    batch = batch_of(torch.zeros(30, 5, 4, dtype=torch.float64), "AB")
    one, null, boot = numbers(1, 0.5), numbers(19, 0.1), numbers(5, 0.5)
    study = Study(regions, ("A", "B"), batch, torch.zeros(1).double(), one, null, boot, "permuted trials", "")
    claim: Claim = study.dimensions("A", "B")
    assert claim.evidence
    assert claim.value == expected
    assert claim.interval == (expected, expected)


def test_a_short_session_in_which_no_region_tells_anything() -> None:
    regions = structure("AB", 2)
    model = planted(regions, 4, [])
    batch = batch_of(torch.zeros(3, 10, 8, dtype=torch.float64), "AB")
    silent = model._replace(readout=torch.zeros_like(model.readout))
    channels = region_channels(silent, regions, emissions_of("gaussian", [batch.layout]), batch)
    assert channels.activity.shape[-1] == 0
    found = chance_of(channels, None, 1)
    assert found.surrogates is None
    assert found.why.startswith("too short to tell")


def test_p_is_of_the_largest_pair() -> None:
    draw = torch.Generator().manual_seed(0)
    null = torch.randn(199, 3, generator=draw, dtype=torch.float64) * torch.tensor([1.0, 100.0, 1e-3])
    p = largest_of_all(torch.tensor([20.0, 20.0, 0.0], dtype=torch.float64), null)
    assert p[0] == 1 / 200
    assert p[1] > 0.5  # a fifth of its own spread
    assert p[2] > 0.5
    smallest = []
    for _ in range(400):
        every = torch.randn(40, 6, generator=draw, dtype=torch.float64)
        smallest.append(min(largest_of_all(every[0], every[1:])))
    assert 0.02 < np.mean(np.array(smallest) <= 0.05) < 0.09


def test_intervals_are_about_the_value() -> None:
    samples = 0.5 + torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    low, middle, high = np.percentile(samples.numpy(), [2.5, 50, 97.5], method="weibull")
    assert shifted_interval(3.0, samples) == pytest.approx((3 + low - middle, 3 + high - middle))
    assert shifted_interval(0.4, samples) == pytest.approx((0.0, 0.4 + high - middle))
    assert shifted_interval(0.4, None) is None


def test_a_model_of_one_lag_says_how_to_ask_for_delays() -> None:
    batch = batch_of(torch.zeros(30, 5, 4, dtype=torch.float64), "AB")
    cases = numbers(1, 0.5), numbers(19, 0.1), numbers(5, 0.5)
    study = Study(structure("AB", 2), ("A", "B"), batch, torch.zeros(1).double(), *cases, "permuted trials", "")
    claim = study.delay("A", "B")
    assert claim.question is Question.DELAY
    assert np.isnan(claim.value)
    assert claim.evidence is None
    assert "set model.max_lag" in claim.note
    assert claim.sentence.startswith("A delay between A and B cannot be told. ")


def test_regions_that_tell_nothing_of_each_other_have_no_delay() -> None:
    batch = batch_of(torch.zeros(30, 5, 4, dtype=torch.float64), "AB")
    cases = (
        found._replace(lagged=found.lagged.expand(-1, -1, -1, 3))
        for found in (numbers(1, 0.0), numbers(19, 0.0), numbers(5, 0.0))
    )
    study = Study(structure("AB", 2, 3), ("A", "B"), batch, torch.zeros(1).double(), *cases, "permuted trials", "")
    claim = study.delay("A", "B")
    assert np.isnan(claim.value)
    assert claim.evidence is False


def test_the_lag_of_what_chance_tells_as_well_is_no_delay() -> None:
    """Every trial repeats a course that B takes three bins after A; what is in no null takes two bins."""
    batch = batch_of(torch.zeros(30, 5, 4, dtype=torch.float64), "AB")
    course = torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    own = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    cases = [
        found._replace(lagged=found.granger[..., None] * (course + there * own))
        for found, there in ((numbers(1, 0.5), 1), (numbers(19, 0.5), 0), (numbers(5, 0.5), 1))
    ]
    cases[0] = cases[0]._replace(added=10 * cases[0].added, likelihood_ratio=10 * cases[0].likelihood_ratio)
    study = Study(structure("AB", 2, 3), ("A", "B"), batch, torch.zeros(1).double(), *cases, "permuted trials", "")
    claim = study.delay("A", "B")
    assert claim.evidence
    assert claim.value == pytest.approx(2000 * batch.layout.bin_width_s)
    assert claim.interval == (claim.value, claim.value)


@pytest.mark.parametrize(("back", "told"), [(0.5, True), (0.98, False)])
def test_a_delay_needs_one_region_to_lead_where_each_tells_of_the_other(back: float, told: bool) -> None:
    """A tells of B two bins later, and B of A hardly less: by less than resamples differ, though all have that peak."""
    batch = batch_of(torch.zeros(30, 5, 4, dtype=torch.float64), "AB")
    ways = torch.tensor([[0.0, back], [1.0, 0.0]], dtype=torch.float64)
    spread = torch.linspace(0.95, 1.05, 21, dtype=torch.float64)[:, None, None]
    lags = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)

    def of(values: torch.Tensor) -> Influence:
        every = values[..., None]
        return Influence(values, every, values, every.expand(-1, -1, -1, 2), every * lags, values, values)

    one, null = of(ways[None]), of(0.01 * ways.expand(19, -1, -1) * spread[:19])
    boot = of(ways * torch.where(ways == 1, spread, 2 - spread))
    boot = boot._replace(lagged=boot.lagged.clamp(min=0))
    study = Study(
        structure("AB", 2, 3), ("A", "B"), batch, torch.zeros(1).double(), one, null, boot, "permuted trials", ""
    )
    claim = study.delay("A", "B")
    assert claim.value == pytest.approx(2000 * batch.layout.bin_width_s)
    assert claim.evidence is told
    assert ("cannot be told" in claim.note) is not told
