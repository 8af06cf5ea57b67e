"""Delayed CCA: planted lags, directions and dimensions of two and three regions, and data that are hard on it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lvmzoo.batch import Batch
from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.models.multi_region.delayed_cca import DelayedCCA, DelayedCCAConfig
from tests.models import regions_world

SMALL = {"max_lag_bins": 6, "permutations": 29, "resamples": 10, "time_points": 0, "shrinkage": [0.1]}


def fit(*batches: Batch, **config: Any) -> DelayedCCA:
    model = DelayedCCA(DelayedCCAConfig(**{**SMALL, **config}), [batch.layout for batch in batches])
    model.prepare(batches)
    found = [model.statistics(batch) for batch in batches]
    model.update(type(found[0])(*(sum(leaf) for leaf in zip(*found, strict=True))))
    return model


def ask(batch: Batch, **config: Any) -> Findings:
    return fit(batch, **config).findings(batch, 0)


def claim(found: Findings, question: Question, source: str = "A", target: str = "B") -> Claim:
    (one,) = [c for c in found.claims if (c.question, c.source, c.target) == (question, source, target)]
    return one


def with_activity(batch: Batch, change: Any) -> Batch:
    activity = batch.activity.clone()
    change(activity)
    return replace(batch, activity=activity)


@pytest.mark.parametrize("counts", [False, True])
def test_planted_lag_direction_and_dimensions(counts: bool) -> None:
    trials = 200 if counts else 80  # a spike says less
    found = ask(regions_world.coupled(0, 4, trials, units=(9, 8), counts=counts, ragged=True), resamples=30)
    assert claim(found, Question.COMMUNICATION).evidence
    delay = claim(found, Question.DELAY)
    assert delay.evidence
    assert delay.value == pytest.approx(80.0, abs=6.0)
    assert delay.interval is not None
    assert delay.interval[0] > 60
    assert delay.interval[1] < 100
    assert "B follows A by" in delay.sentence
    forward, backward = (claim(found, Question.DIRECTION, *way) for way in (("A", "B"), ("B", "A")))
    assert forward.evidence
    assert not backward.evidence
    assert forward.value == pytest.approx(-backward.value)
    dimensions = claim(found, Question.DIMENSIONS)
    assert dimensions.interval is not None
    if counts:  # rates are exponential in the latents: their squares are shared, too
        assert dimensions.value >= 2
    else:
        assert dimensions.value == 2
        assert dimensions.interval[0] <= 2 <= dimensions.interval[1] <= 4


def test_planted_dimensions_are_counted() -> None:
    """A third one passes by chance in one of twenty at most, as one that is tested last."""
    few = {"resamples": 0, "max_lag_bins": 4}
    counts = [
        claim(ask(regions_world.coupled(seed, 2, trials=80, units=(9, 8)), **few), Question.DIMENSIONS).value
        for seed in range(10, 15)
    ]
    assert counts.count(2) >= 4
    assert max(counts) <= 3


def test_delay_direction_and_communication_never_contradict_each_other() -> None:
    """A delay stands only with the direction it implies, a direction only with communication."""
    delays = 0
    for seed, lag in itertools.product(range(3), (-1, 1, 2)):
        batch = regions_world.coupled(seed, lag, trials=40, units=(4, 4), rho=0.9)
        found = ask(batch, resamples=2, permutations=39)
        communication, delay = claim(found, Question.COMMUNICATION), claim(found, Question.DELAY)
        ways = [claim(found, Question.DIRECTION, *way) for way in (("A", "B"), ("B", "A"))]
        assert not all(way.evidence for way in ways)
        assert communication.p is not None
        assert communication.p <= min(way.p or 0.0 for way in ways)
        if delay.evidence:
            delays += 1
            implied = ways[0] if delay.value > 0 else ways[1]
            assert implied.evidence
            assert communication.evidence
    assert delays >= 3


def test_swapped_regions_flip_the_sign() -> None:
    batch = regions_world.coupled(1, 3, units=(5, 4))
    one = ask(batch)
    other = ask(
        replace(
            batch,
            activity=torch.cat([batch.activity[..., 5:], batch.activity[..., :5]], -1),
            layout=replace(batch.layout, units={"B": 4, "A": 5}),
        )
    )
    delays = claim(one, Question.DELAY), claim(other, Question.DELAY, "B", "A")
    assert delays[0].value == pytest.approx(60, abs=5)
    assert delays[1].value == pytest.approx(-delays[0].value, abs=2)  # other permutations
    assert delays[1].evidence
    assert "B follows A" in delays[1].sentence
    assert claim(one, Question.COMMUNICATION).value == pytest.approx(
        claim(other, Question.COMMUNICATION, "B", "A").value
    )


def test_shared_activity_without_delay_is_no_delay() -> None:
    found = ask(regions_world.coupled(2, 0, trials=100))
    assert claim(found, Question.COMMUNICATION).evidence
    delay = claim(found, Question.DELAY)
    assert delay.evidence is False
    assert abs(delay.value) < 2
    assert "cannot be told from lag zero" in delay.note
    assert not any(claim(found, Question.DIRECTION, *way).evidence for way in (("A", "B"), ("B", "A")))


def test_flat_profiles_have_no_delay() -> None:
    delay = claim(ask(regions_world.independent("autocorrelated", 3)), Question.DELAY)
    assert delay.evidence is False
    assert delay.note.startswith("the profile is flat")


def test_shared_conditions_are_neither_communication_nor_in_its_way() -> None:
    alone = regions_world.independent("conditions", 1, trials=100)
    raw, less = (claim(ask(alone, residuals=flag), Question.COMMUNICATION) for flag in (False, True))
    assert raw.evidence is False
    assert less.evidence is False
    assert raw.null is not None
    assert less.null is not None
    # What conditions share is in the correlation itself and in its null, unless it is subtracted.
    assert raw.null[0] > less.null[0] + 0.05
    coupled = ask(regions_world.coupled(3, 3, trials=100, conditions=True))
    assert claim(coupled, Question.COMMUNICATION).evidence
    assert claim(coupled, Question.DELAY).value == pytest.approx(60, abs=5)


def test_of_three_regions_only_those_that_communicate() -> None:
    found = ask(regions_world.coupled(4, -3, trials=100, units=(6, 5, 4)), permutations=39)
    shared = {(c.source, c.target) for c in found.claims if c.question == Question.COMMUNICATION and c.evidence}
    assert shared == {("A", "B")}
    driven = {(c.source, c.target) for c in found.claims if c.question == Question.DIRECTION and c.evidence}
    assert driven == {("B", "A")}
    assert claim(found, Question.DELAY).value == pytest.approx(-60, abs=5)
    assert len([c for c in found.claims if c.question == Question.DIRECTION]) == 6


def test_one_long_session_is_shifted_circularly() -> None:
    found = ask(regions_world.coupled(0, 4, trials=1, bins=3000, units=(6, 6)))
    delay = claim(found, Question.DELAY)
    assert "circularly shifted" in delay.note
    assert delay.evidence
    assert delay.value == pytest.approx(80, abs=4)


def test_a_peak_is_marked_where_there_is_evidence_of_a_delay() -> None:
    for lag in (0, 3):
        found = ask(regions_world.coupled(2, lag, trials=100))
        assert claim(found, Question.COMMUNICATION).evidence
        (by_lag,) = [profile for profile in found.profiles if profile.kind == "lag"]
        assert bool(by_lag.marks) == (lag > 0) == claim(found, Question.DELAY).evidence


def test_time_resolved_map_shows_the_lag() -> None:
    batch = regions_world.coupled(0, 4, trials=150, bins=20, units=(5, 5))
    found = ask(batch, time_points=20, permutations=199, resamples=2)
    (profile,) = [p for p in found.profiles if p.kind == "time"]
    assert profile.value.shape == (20, 20)
    assert profile.null is not None
    later = np.array([profile.value[t, t + 4] for t in range(16)])
    earlier = np.array([profile.value[t + 4, t] for t in range(16)])
    assert (later > profile.null[0, 0]).all()
    assert (later > np.array([profile.null[t, t + 4] for t in range(16)])).all()
    assert later.mean() > earlier.mean() + 0.3
    assert list(profile.axes) == ["time in A (ms)", "time in B (ms)"]


def test_predictions_take_each_source_at_its_lag() -> None:
    batch = regions_world.coupled(0, 5, trials=120, bins=24, units=(10, 10, 4))
    model = fit(batch)
    test = regions_world.coupled(0, 5, trials=120, bins=24, units=(10, 10, 4))
    predicted = model.predict_target(test, "B")
    truth = test.activity[..., 10:20]

    def explained(bins: slice) -> float:
        error = ((truth - predicted)[:, bins] ** 2).sum() / ((truth - truth.mean((0, 1)))[:, bins] ** 2).sum()
        return float(1 - error)

    # Independent: least squares on A five bins before.
    x, y = batch.activity[:, :-5, :10].flatten(0, 1), batch.activity[:, 5:, 10:20].flatten(0, 1)
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    best = design @ torch.linalg.lstsq(design, y).solution
    limit = float(1 - ((y - best) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())
    assert explained(slice(5, None)) == pytest.approx(limit, abs=0.03)
    # The first bins have no source yet: the mean.
    assert abs(explained(slice(0, 5))) < 0.05
    assert model.routes == {"A": ("B", "C"), "B": ("A", "C"), "C": ("A", "B")}


def test_latents_are_canonical_variates() -> None:
    batch = regions_world.coupled(0, 0, trials=60, units=(12, 11))
    model = fit(batch, pairs=2, shrinkage=[0.01])
    latents = model.latents(batch).flatten(0, 1)
    assert latents.shape[1] == 4
    correlation = torch.corrcoef(latents.mT)
    within = torch.stack([correlation[0, 1], correlation[2, 3], correlation[0, 3], correlation[1, 2]])
    assert float(within.abs().max()) < 0.1  # shrinkage
    assert float(correlation[0, 2]) > 0.7
    assert float(correlation[1, 3]) > 0.5
    # Independent: the canonical correlations of all bins.
    x, y = batch.activity.flatten(0, 1)[:, :12], batch.activity.flatten(0, 1)[:, 12:]
    q, r = (torch.linalg.qr(part - part.mean(0)).Q for part in (x, y))
    torch.testing.assert_close(correlation[[0, 1], [2, 3]], torch.linalg.svdvals(q.mT @ r)[:2], rtol=0, atol=0.01)


def test_sessions_are_fitted_by_themselves() -> None:
    first = regions_world.coupled(0, 2, units=(5, 4))
    second = regions_world.coupled(1, -2, units=(3, 6, 4))
    second = replace(second, layout=replace(second.layout, session="other"))
    few: dict[str, Any] = {"pairs": 2, "permutations": 5, "resamples": 3, "max_lag_bins": 3}
    both = fit(first, second, **few)
    for batch in (first, second):
        alone = fit(batch, **few)
        assert both.findings(batch, 0).to_json() == alone.findings(batch, 0).to_json()
        torch.testing.assert_close(both.predict_target(batch, "B"), alone.predict_target(batch, "B"))
        assert both.latents(batch).shape[-1] == 3 * 4  # pairs of the union of regions
    assert not both.latents(first)[..., 4:].any()
