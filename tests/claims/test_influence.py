"""Influence between regions: channels in place of units, recombined trials, claims on planted and degenerate data."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from lvmzoo.batch import Batch, Observation
from lvmzoo.claims import influence_refits
from lvmzoo.claims.influence_channels import apart, each_by_itself, region_channels
from lvmzoo.claims.influence_findings import influence
from lvmzoo.claims.influence_refits import chance, refit
from lvmzoo.claims.influence_study import corrected, shifted_interval
from lvmzoo.claims.influence_surrogates import chance_of, rearranged
from lvmzoo.claims.surrogates import CircularShifts, TrialPermutations
from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.inference.emissions import CountEmissions, emissions_of
from lvmzoo.inference.linear_gaussian import LinearGaussian, log_likelihood, smoothed_means
from lvmzoo.inference.sampling import draw_trials
from tests.claims.influence_world import Edge, batch_of, fitted, planted, regional_fit, structure

pytestmark = pytest.mark.filterwarnings("error")
FEW = torch.linspace(0, 0.5, 5, dtype=torch.float64)


def simulated(
    names: str, edges: list[Edge], max_lag: int = 1, trials: int = 40, bins: int = 16, units: int = 6, seed: int = 0
) -> tuple[LinearGaussian, Batch]:
    model = planted(structure(names, 2, max_lag), units, edges, size=0.6)
    _, activity = draw_trials(model, trials, bins, torch.Generator().manual_seed(seed))
    return model, batch_of(activity, names)


def of_case(models: LinearGaussian, case: int) -> LinearGaussian:
    """Return one of the systems of refits."""
    return models._replace(**{name: getattr(models, name)[case] for name in influence_refits.REFITTED})


def said(found: Findings, question: str) -> dict[tuple[str, str], Claim]:
    return {(claim.source, claim.target): claim for claim in found.claims if claim.question is Question(question)}


@pytest.fixture
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit less: the number of passes does not matter here."""
    monkeypatch.setattr(influence_refits, "PASSES", 4)


# Channels


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


# Recombined trials


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


def test_p_is_of_the_largest_pair() -> None:
    draw = torch.Generator().manual_seed(0)
    null = torch.randn(199, 3, generator=draw, dtype=torch.float64) * torch.tensor([1.0, 100.0, 1e-3])
    p = corrected(torch.tensor([20.0, 20.0, 0.0], dtype=torch.float64), null)
    assert p[0] == 1 / 200
    assert p[1] > 0.5  # a fifth of its own spread
    assert p[2] > 0.5
    smallest = []
    for _ in range(400):
        every = torch.randn(40, 6, generator=draw, dtype=torch.float64)
        smallest.append(min(corrected(every[0], every[1:])))
    assert 0.02 < np.mean(np.array(smallest) <= 0.05) < 0.09


def test_intervals_are_about_the_value() -> None:
    samples = 0.5 + torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    low, high = shifted_interval(0.4, samples) or (0, 0)
    assert low == 0.0 or low < 0.4
    assert 0.4 < high < 3
    assert shifted_interval(0.4, None) is None


# Claims


@cache
def chain() -> Findings:
    """A drives B, B drives C."""
    _, batch = simulated("ABC", [("A", "B", 1), ("B", "C", 1)], seed=1)
    regions = structure("ABC", 2)
    model, emissions = fitted(batch, regions)
    return influence(model, regions, emissions, batch, permutations=19, resamples=2, seed=0)


def test_planted_edges_are_found_and_no_others() -> None:
    directions = said(chain(), "direction")
    assert len(directions) == 6
    assert {edge for edge, claim in directions.items() if claim.evidence} == {("A", "B"), ("B", "C")}
    weakest = min(directions[edge].value for edge in (("A", "B"), ("B", "C")))
    assert weakest > 10 * max(claim.value for claim in directions.values() if not claim.evidence)
    pairs = said(chain(), "communication")
    assert list(pairs) == [("A", "B"), ("A", "C"), ("B", "C")]
    assert [claim.evidence for claim in pairs.values()] == [True, False, True]
    dimensions = said(chain(), "dimensions")
    assert dimensions["A", "B"].value == dimensions["B", "C"].value == 1  # blocks of rank one
    assert dimensions["A", "C"].value == dimensions["C", "B"].value == 0


def test_claims_and_curves_are_complete() -> None:
    found = chain()
    for claim in found.claims:
        assert claim.interval is not None
        assert claim.interval[0] <= claim.value <= claim.interval[1]
        if claim.question is not Question.DIMENSIONS:
            assert claim.p is not None
            assert claim.null is not None
    kinds = [profile.kind for profile in found.profiles]
    assert {kind: kinds.count(kind) for kind in kinds} == {"frequency": 6, "rank": 6, "trace": 6}
    for profile in found.profiles:
        if profile.kind != "trace":
            assert profile.low is not None
            assert profile.high is not None
            assert bool((profile.low <= profile.value + 1e-12).all())
            assert bool((profile.value <= profile.high + 1e-12).all())
            assert profile.null is not None
    curve = next(p for p in found.profiles if (p.kind, p.source, p.target) == ("frequency", "A", "B"))
    value = said(found, "direction")["A", "B"].value
    assert np.trapezoid(curve.value, np.linspace(0, 1, len(curve.value))) == pytest.approx(value, rel=0.01)
    assert curve.axes["frequency (Hz)"][-1] == 25.0


@pytest.mark.parametrize("way", ["AB", "BA"])
def test_lag_is_found_and_turns_with_the_regions(way: str) -> None:
    regions = structure("AB", 2, 4)
    _, batch = simulated("AB", [(way[0], way[1], 3)], max_lag=4, trials=60, bins=20)
    model, emissions = fitted(batch, regions)
    found = influence(model, regions, emissions, batch, permutations=19, resamples=2, seed=0)
    delay = said(found, "delay")["A", "B"]
    assert delay.evidence
    assert delay.value == (60 if way == "AB" else -60)
    assert {edge for edge, claim in said(found, "direction").items() if claim.evidence} == {(way[0], way[1])}
    curve = next(profile for profile in found.profiles if profile.kind == "lag")
    assert curve.axes["lag (ms)"].tolist() == [-80, -60, -40, -20, 20, 40, 60, 80]
    assert curve.axes["lag (ms)"][curve.value.argmax()] == delay.value


def test_what_regions_see_at_once_is_no_delay(few_passes: None) -> None:
    """The same latents in both: each tells of the other's next bin, at the shortest lag."""
    source = planted(structure("A", 2), 12, [])
    _, activity = draw_trials(source, 40, 20, torch.Generator().manual_seed(0))
    regions, batch = structure("AB", 2, 3), batch_of(activity, "AB")
    model, emissions = fitted(batch, regions)
    found = influence(model, regions, emissions, batch, permutations=19, resamples=2, seed=0)
    assert said(found, "communication")["A", "B"].evidence
    assert not said(found, "delay")["A", "B"].evidence


def test_the_same_seed_gives_the_same_findings(few_passes: None) -> None:
    regions = structure("AB", 2)
    _, batch = simulated("AB", [("A", "B", 1)], trials=20, bins=6)
    model, emissions = fitted(batch, regions, 5)
    steps: list[float] = []

    def run(seed: int) -> dict:
        return influence(
            model,
            regions,
            emissions,
            batch,
            permutations=2,
            resamples=2,
            seed=seed,
            progress=lambda what, fraction: steps.append(fraction),
        ).to_json()

    assert run(0) == run(0)
    assert run(0) != run(1)
    assert steps[: len(steps) // 4] == sorted(steps[: len(steps) // 4])
    assert steps[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("permutations", "resamples"), [(0, 2), (19, 0), (0, 0), (2, 2)])
def test_without_a_null_or_resamples_nothing_is_claimed(permutations: int, resamples: int, few_passes: None) -> None:
    regions = structure("AB", 2)
    _, batch = simulated("AB", [("A", "B", 1)], trials=20, bins=6)
    model, emissions = fitted(batch, regions, 5)
    found = influence(model, regions, emissions, batch, permutations=permutations, resamples=resamples, seed=0)
    for claim in found.claims:
        assert claim.evidence is None
        assert (claim.p is None) == (permutations == 0) or claim.question is Question.DIMENSIONS
        assert (claim.interval is None) == (resamples == 0) or claim.question is Question.DIMENSIONS
        assert claim.note


@pytest.mark.parametrize(
    "case", ["one unit", "identical", "no variance", "few trials", "one trial", "one bin", "unequal", "nan"]
)
def test_degenerate_data_give_numbers_or_a_reason(case: str, few_passes: None) -> None:
    regions = structure("AB", 2)
    trials = {"few trials": 5, "one trial": 1}.get(case, 24)
    _, batch = simulated("AB", [("A", "B", 1)], trials=trials, bins=1 if case == "one bin" else 10, units=8)
    activity, counts = batch.activity.clone(), {"A": 8, "B": 8}
    if case in ("one unit", "unequal"):
        counts = {"A": 1, "B": 15} if case == "unequal" else {"A": 8, "B": 1}
        activity = activity[..., : sum(counts.values())]
    if case == "identical":
        activity[..., 8:] = activity[..., :8]
    if case == "no variance":
        activity[..., 8:] = 3.0
    layout = dataclasses.replace(
        batch.layout, units=counts, unit_ids=batch.layout.unit_ids[: activity.shape[-1]], longest_bins=batch.n_bins
    )
    observed = batch.observed[..., : activity.shape[-1]].clone()
    if case == "nan":
        activity[2, 3:5], observed[2, 3:5] = torch.nan, False
        activity[4, 6, 1], observed[4, 6, 1] = torch.nan, False
    batch = dataclasses.replace(batch, activity=activity, observed=observed, layout=layout)
    plain = dataclasses.replace(batch, activity=torch.nan_to_num(activity))
    model, emissions = fitted(plain, regions, 0)
    model = regional_fit(model, batch, regions, 10)
    draws = 19 if case in ("identical", "no variance") else 2
    found = influence(model, regions, emissions, batch, permutations=draws, resamples=2, seed=0)
    for claim in found.claims:
        if claim.question is not Question.DIMENSIONS:
            assert np.isfinite(claim.value), claim
        assert claim.interval is None or np.isfinite(claim.interval).all(), claim
        if case in ("one trial", "one bin", "few trials"):
            assert claim.evidence is None
            assert claim.note.startswith("too short to tell")
        if case == "no variance":
            assert not claim.evidence, claim


def test_conditions_and_absent_connections(few_passes: None) -> None:
    """Only A may drive B: there is one direction, and trials of a condition stay together."""
    every = structure("AB", 2)
    regions = dataclasses.replace(every, connections=(("A", "B"),))
    _, batch = simulated("AB", [("A", "B", 1)], trials=24)
    batch = dataclasses.replace(batch, condition=torch.arange(24) % 2)
    model, emissions = fitted(batch, regions)
    found = influence(model, regions, emissions, batch, permutations=19, resamples=2, seed=0)
    assert list(said(found, "direction")) == [("A", "B")]
    assert said(found, "direction")["A", "B"].evidence
    channels = region_channels(model, regions, emissions, batch)
    channels = chance_of(channels, None, 1).channels
    nothing = TrialPermutations(None, 24, 24)  # can be exchanged: every trial is a block
    observed, null = chance(channels, regions, nothing, FEW, 2, 0)
    torch.testing.assert_close(null.granger, observed.granger.expand(2, 2, 2))


def test_low_rank_blocks_stay_low_in_refits() -> None:
    regions = dataclasses.replace(structure("AB", 2), rank=1)
    _, batch = simulated("AB", [("A", "B", 1)], trials=24)
    model, emissions = fitted(batch, regions)
    channels = region_channels(model, regions, emissions, batch)
    again, _ = refit(apart(channels.model, regions), [channels], regions, regions.allowed, 5)
    assert int(torch.linalg.matrix_rank(again.dynamics[0, 2:, :2], rtol=1e-9)) == 1
