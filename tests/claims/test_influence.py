"""Influence between regions: claims and curves of planted and of degenerate data."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from lvmzoo.claims import influence_refits
from lvmzoo.claims.influence_channels import region_channels
from lvmzoo.claims.influence_findings import influence
from lvmzoo.claims.influence_refits import chance
from lvmzoo.claims.influence_surrogates import chance_of
from lvmzoo.claims.surrogates import TrialPermutations
from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.inference.sampling import draw_trials
from tests.claims.influence_world import FEW, batch_of, fitted, planted, regional_fit, simulated, structure

pytestmark = pytest.mark.filterwarnings("error")


def said(found: Findings, question: str) -> dict[tuple[str, str], Claim]:
    return {(claim.source, claim.target): claim for claim in found.claims if claim.question is Question(question)}


@pytest.fixture
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit less: the number of passes does not matter here."""
    monkeypatch.setattr(influence_refits, "PASSES", 4)


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
    delays = said(found, "delay")
    assert len(delays) == 3
    assert all("set model.max_lag" in claim.note for claim in delays.values())
    for claim in found.claims:
        if claim.question is Question.DELAY:
            continue
        assert claim.interval is not None
        assert claim.interval[0] <= claim.value <= claim.interval[1]
        if claim.question is not Question.DIMENSIONS:
            assert claim.p is not None
            assert claim.null is not None
    kinds = [profile.kind for profile in found.profiles]
    assert {kind: kinds.count(kind) for kind in kinds} == {"frequency": 6, "rank": 6, "block": 18, "trace": 6}
    for profile in found.profiles:
        assert (profile.null is None) == (profile.kind == "trace" or "without" in profile.statistic)
        if profile.kind != "trace":
            assert profile.low is not None
            assert profile.high is not None
            assert bool((profile.low <= profile.value + 1e-12).all())
            assert bool((profile.value <= profile.high + 1e-12).all())
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
    parts: list[str] = []

    def told(what: str, fraction: float) -> None:
        parts.append(what)
        steps.append(fraction)

    def run(seed: int) -> dict:
        return influence(
            model,
            regions,
            emissions,
            batch,
            permutations=2,
            resamples=2,
            seed=seed,
            progress=told,
        ).to_json()

    assert run(0) == run(0)
    assert run(0) != run(1)
    assert steps[: len(steps) // 4] == sorted(steps[: len(steps) // 4])
    assert parts[0] == "each region by itself"
    assert steps[0] < 0.1
    assert steps[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("permutations", "resamples"), [(0, 2), (19, 0), (0, 0), (2, 2)])
def test_without_a_null_or_resamples_nothing_is_claimed(permutations: int, resamples: int, few_passes: None) -> None:
    regions = structure("AB", 2)
    _, batch = simulated("AB", [("A", "B", 1)], trials=20, bins=6)
    model, emissions = fitted(batch, regions, 5)
    found = influence(model, regions, emissions, batch, permutations=permutations, resamples=resamples, seed=0)
    for claim in found.claims:
        assert claim.evidence is None
        assert claim.note
        if claim.question in (Question.COMMUNICATION, Question.DIRECTION):
            assert (claim.p is None) == (permutations == 0)
            assert (claim.interval is None) == (resamples == 0)


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
        if claim.question in (Question.COMMUNICATION, Question.DIRECTION):
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
