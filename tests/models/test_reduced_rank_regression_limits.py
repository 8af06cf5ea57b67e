"""What reduced-rank regression says where little can be told: constant units, few permutations, missing regions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lvmzoo.claims.regression_dimensions import dimensions, subspace_of, within_region
from lvmzoo.claims.regression_recording import RegionRecording
from lvmzoo.claims.support import Measured, claimed
from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.inference.communication_subspace import subspace_angles
from tests.models.regions_world import coupled
from tests.models.regression_world import batch_of, fit, without_units

FEW = {"permutations": 19, "resamples": 19, "history": 2, "folds": 5}


def noise(seed: int, *units: int, trials: int = 40, bins: int = 9) -> dict[str, np.ndarray]:
    """Return regions of which the second and third follow the first, one bin later."""
    random = np.random.default_rng(seed)
    regions = [random.normal(size=(trials, bins, n)) for n in units]
    for other in regions[1:]:
        other[:, 1:] += 1.5 * regions[0][:, :-1, :1]
    return dict(zip("ABC", regions, strict=False))


def claims(found: Findings, question: str, *regions: str) -> list[Claim]:
    return [c for c in found.claims if c.question == question and {c.source, c.target} == set(regions) and not c.item]


@pytest.mark.parametrize("residuals", [False, True])
@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 7])
def test_what_does_not_vary_is_not_predicted(constant: float, residuals: bool) -> None:
    """A sum over many bins rounds, so that a constant less its mean is not zero."""
    regions = noise(0, 3, 3)
    for still, other in (("B", "A"), ("A", "B")):
        batch = batch_of({**regions, still: np.full((40, 9, 3), constant)})
        model = fit(batch, source=other, target=still, residuals=residuals, **FEW)
        assert float(model.of().explained.abs().max()) == 0
        np.testing.assert_allclose(model.predict_target(batch, still).numpy(), constant)
        found = model.findings(batch, 0)
        assert all(claim.value == 0 for claim in found.claims)
        assert not any(claim.evidence for claim in found.claims)
        assert all(abs(profile.value).max() < 1 for profile in found.profiles if profile.item != "")
        one = fit(batch, source=still, target=other, residuals=residuals, **FEW)
        assert float(one.of().explained.abs().max()) == 0


def test_too_few_permutations_tell_nothing() -> None:
    batch = batch_of(noise(1, 3, 3, 2))
    found = fit(batch, target="B", **{**FEW, "permutations": 10}).findings(batch, 0)
    assert {claim.item for claim in found.claims} == {"", "beyond A", "beyond C"}
    for claim in found.claims:
        assert claim.evidence is None
        if claim.question is not Question.DIMENSIONS:
            assert "10 give p of 0.091 at least; set model.permutations=19 or more" in claim.note
    few = fit(batch, target="B", **{**FEW, "resamples": 2}).findings(batch, 0)
    (delay,) = claims(few, "delay", "A", "B")
    assert delay.evidence is None
    assert "set model.resamples=19" in delay.note
    enough = fit(batch, target="B", **FEW).findings(batch, 0)
    assert all(claim.evidence is not None for claim in enough.claims)


def test_a_region_that_is_hardly_seen_takes_nothing_from_the_others() -> None:
    regions = noise(2, 3, 3, 2)
    whole = fit(batch_of(regions), source="A", target="B", **FEW).findings(batch_of(regions), 0)
    for hide in (slice(None), slice(0, None, 3)):  # a dead unit; every third bin
        hidden = np.zeros((40, 9, 8), dtype=bool)
        hidden[:, hide, 7] = True
        batch = without_units(batch_of(regions), hidden)
        found = fit(batch, source="A", target="B", **FEW).findings(batch, 0)
        assert {(c.question, c.source, c.target) for c in found.claims} >= {
            (c.question, c.source, c.target) for c in whole.claims if c.question != "dimensions"
        }
        assert claims(found, "communication", "A", "B")[0].evidence
        assert claims(found, "delay", "A", "B")[0].value == pytest.approx(20, abs=4)
        forth, back = claims(found, "direction", "A", "B")
        assert forth.evidence
        assert not back.evidence
        assert "too few of its windows are whole: C" in forth.note
        for question in ("communication", "direction", "delay"):
            for claim in claims(found, question, "A", "C"):
                assert claim.evidence is None
                assert math.isnan(claim.value)
                assert "all units are seen 3 bins on end" in claim.sentence
        # What is said of A and B alone is what is said without C.
        alone = {name: regions[name] for name in "AB"}
        pair = fit(batch_of(alone), **FEW).findings(batch_of(alone), 0)
        for question in ("communication", "direction", "delay"):
            for claim, other in zip(claims(found, question, "A", "B"), claims(pair, question, "A", "B"), strict=True):
                assert claim.value == pytest.approx(other.value, abs=1e-12)


def test_trials_shorter_than_the_windows_are_counted() -> None:
    batch = batch_of(noise(3, 3, 3, trials=40, bins=20), [3] * 35 + [20] * 5)
    found = fit(batch, **{**FEW, "history": 5}).findings(batch, 0)
    for question in ("communication", "direction", "delay"):
        assert claims(found, question, "A", "B")
        for claim in claims(found, question, "A", "B"):
            assert claim.evidence is None
            assert "too short to tell" in claim.note


def test_what_sources_add_says_that_windows_are_too_few() -> None:
    batch = batch_of(noise(5, 3, 3, 3, trials=40, bins=20), [3] * 36 + [20] * 4)
    found = fit(batch, **{**FEW, "source": ["A", "B"], "target": "C", "lags": [0, 4], "rank": 1}).findings(batch, 0)
    added = [claim for claim in found.claims if claim.item.startswith("beyond")]
    assert len(added) == 2
    for claim in added:
        assert claim.evidence is None
        assert math.isnan(claim.value)
        assert "fewer than two folds have a bin with its whole window" in claim.note


def test_one_trial_says_how_to_cut_it() -> None:
    batch = batch_of(noise(4, 3, 3, trials=1, bins=300))
    (claim,) = claims(fit(batch, **FEW).findings(batch, 0), "communication", "A", "B")
    assert claim.evidence is None
    assert "one trial cannot be exchanged with another; cut the session into segments (data.segment_s)" in claim.note
    assert "1 trials" not in claim.note


def test_a_null_wider_than_the_claim_needs_an_interval_above_zero() -> None:
    null = [0.0] * 19
    for resamples, expected in (([0.2, 1.0, 1.8], True), ([-3.0, 1.0, 5.0], False)):
        found = Measured(1.0, null, resamples)
        for wider in (False, True):
            claim = claimed(Question.DIRECTION, "A", "B", found, found.p, "", "", wider=wider)
            assert claim.evidence is (expected or not wider)
    batch = batch_of(noise(5, 3, 3, 2))
    notes = [c.note for c in fit(batch, target="B", **FEW).findings(batch, 0).claims if c.question == "direction"]
    assert all("independent of all others" in note for note in notes)


def test_a_delay_is_marked_where_there_is_evidence_of_one() -> None:
    for lag in (0, 2):
        batch = coupled(3, lag=lag, trials=60, bins=12)
        found = fit(batch, **FEW).findings(batch, 0)
        (delay,) = claims(found, "delay", "A", "B")
        (curve,) = [profile for profile in found.profiles if profile.kind == "lag"]
        assert delay.evidence is (lag > 0)
        assert curve.marks == ({"delay (ms)": delay.value} if lag else {})


def test_subspaces_are_those_of_the_chosen_penalty() -> None:
    random = np.random.default_rng(6)
    regions = noise(6, 6, 3)
    regions["A"] = regions["A"] @ random.normal(size=(6, 6))
    batch = batch_of(regions)
    generator = torch.Generator().manual_seed(0)
    found = []
    for ridge in ([1e6, 0.0], [0.0]):
        session = fit(batch, ridge=ridge, lags=[1], **FEW).of()
        recording = RegionRecording(batch, batch.activity, session.folds(batch), 5, None, 1)
        made = dimensions(recording, session.route, "A", "B", 0, generator, False)
        assert made is not None
        assert made.curve.ridge == 0
        assert made.curve.rank > 0
        found.append(subspace_of(made.windows, session.route, "A", "B", made.curve))
    assert float(subspace_angles(*found).max()) < 1e-6


def test_the_control_is_as_large_as_what_it_stands_beside() -> None:
    """Of alike units, half of a region predicts the other half as well as it predicts as many of another."""
    random = np.random.default_rng(7)
    latents = random.normal(size=(80, 8, 2))
    regions = {
        name: latents[..., np.arange(n) % 2] + random.normal(size=(80, 8, n)) for name, n in (("A", 24), ("B", 4))
    }
    batch = batch_of(regions)
    model = fit(batch, **{**FEW, "history": 0})
    found = model.findings(batch, 0)
    (made,) = [c for c in found.claims if (c.question, c.source) == ("dimensions", "A")]
    assert "4 units of A from 4 others, 25 times" in made.note
    curves = {p.item: p for p in found.profiles if (p.kind, p.source) == ("rank", "A")}
    beside = curves["4 units from 4, as the control"]
    assert beside.control is not None
    assert beside.value.shape == beside.control.shape == (5,)
    assert beside.value[2] < 0.8 * curves[""].value[2]  # of 24 units
    assert abs(beside.value[2] - beside.control[2]) < 0.5 * (curves[""].value[2] - beside.control[2])
    # By hand, for one choice of units.
    session = model.of()
    recording = RegionRecording(batch, batch.activity, session.folds(batch), 5, None, 1)
    windows = recording.windows([("A", (0,)), ("B", (0,))])
    assert windows is not None
    control = within_region(windows.scatter(), windows, session.route, "A", "B", torch.Generator().manual_seed(1))
    assert control is not None
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randperm(24, generator=generator), torch.randperm(4, generator=generator)
    one = batch_of({"A": regions["A"][..., source[4:8].numpy()], "B": regions["A"][..., source[:4].numpy()]})
    other = batch_of({"A": regions["A"][..., source[4:8].numpy()], "B": regions["B"][..., target.numpy()]})
    for drawn, expected in ((control.within, one), (control.between, other)):
        explained = fit(expected, **FEW).of().explained[:, 0].mean(0)
        np.testing.assert_allclose(drawn[0].numpy(), explained.numpy(), atol=1e-10)


def test_a_course_that_every_trial_repeats_has_no_delay() -> None:
    """B repeats the course of A three bins later in every trial; what differs between trials comes at once."""
    random = np.random.default_rng(0)
    course = np.convolve(random.normal(size=50), np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2), "same")
    latents = random.normal(size=(60, 30, 2))
    for t in range(1, 30):
        latents[:, t] = 0.6 * latents[:, t - 1] + 0.8 * latents[:, t]
    regions = {
        name: 1.5 * course[start : start + 30, None] * random.normal(size=6)
        + latents @ random.normal(size=(2, 6))
        + random.normal(size=(60, 30, 6))
        for name, start in (("A", 10), ("B", 7))
    }
    batch = batch_of(regions)
    (delay,) = claims(fit(batch, **{**FEW, "history": 4}).findings(batch, 0), "delay", "A", "B")
    assert delay.evidence is False
    assert delay.value == pytest.approx(0, abs=5)
