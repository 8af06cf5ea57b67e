"""What is true of delayed latents across groups: acceptance D1-D3, ground truth of its authors, awkward data."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from lvmzoo import from_arrays
from lvmzoo.batch import Batch
from lvmzoo.cli import main
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.errors import UserError
from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.inference.delayed_expectations import expectations
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.models.multi_region.dlag import DLAG, DLAGConfig
from lvmzoo.run import load_run
from lvmzoo.train import train
from tests.models.dlag_world import batch, fit, order, simulate
from tests.models.regions_world import coupled, independent

DELAYS, TIMESCALES = [[30.0, -20.0]], [6.0, 3.0, 4.0, 5.0]
TWO = DLAGConfig(across=2, within=1, resamples=0, permutations=39, folds=3)
_PLANTED = Path(__file__).resolve().parents[2] / "scripts" / "results" / "_planted_delays.py"
FILES = runpy.run_path(str(_PLANTED))["FILES"]  # name: latents across, within, standard errors (ms) of the delays


def claims(found: Findings, question: Question) -> list[Claim]:
    return [claim for claim in found.claims if claim.question is question]


def swapped(data: Batch) -> Batch:
    """Name the second region first."""
    first, second = data.layout.region("A"), data.layout.region("B")
    turn = torch.cat([torch.arange(second.start, second.stop), torch.arange(first.start, first.stop)])
    units = {"A": data.layout.units["B"], "B": data.layout.units["A"]}
    return dataclasses.replace(
        data,
        activity=data.activity[..., turn],
        observed=data.observed[..., turn],
        layout=dataclasses.replace(data.layout, units=units),
    )


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_finds_delays_and_timescales(seed: int) -> None:
    """D1: 2 regions x 25 units x 80 trials x 50 bins of 20 ms. D2: swapping the regions flips the sign."""
    data = simulate(seed, DELAYS, TIMESCALES)
    model = fit([data], TWO)
    which = order(model, TIMESCALES[:2])
    assert sorted(which) == [0, 1]
    np.testing.assert_allclose(model.delays_ms[1, which], DELAYS[0], atol=5)
    np.testing.assert_allclose(model.timescales[which], TIMESCALES[:2], rtol=0.05)
    if seed == 0:
        other = fit([swapped(data)], TWO)
        turned = other.delays_ms[1, order(other, TIMESCALES[:2])]
        torch.testing.assert_close(turned, -model.delays_ms[1, which], atol=0.5, rtol=0)


def test_no_delay_is_no_evidence() -> None:
    """D3: zero-delay data."""
    data = simulate(3, [[0.0, 0.0]], TIMESCALES)
    model = fit([data], dataclasses.replace(TWO, resamples=20))
    assert float(model.delays_ms.abs().max()) < 2
    found = model.findings(data, 0)
    delays = claims(found, Question.DELAY)
    assert len(delays) == 2
    for claim in delays:
        assert claim.evidence is False
        assert claim.sentence.startswith("No evidence of a delay")
        assert claim.interval is not None
        assert claim.interval[0] <= 0 <= claim.interval[1]
    assert claims(found, Question.COMMUNICATION)[0].evidence is True
    assert all(claim.evidence is False for claim in claims(found, Question.DIRECTION))
    assert not any(profile.marks for profile in found.profiles if profile.kind == "lag")


def test_claims_of_three_regions() -> None:
    """Each latent's delay of each pair, directions from their signs, two dimensions.

    Permutations that do for one pair do for three: Holm's correction would give p of .075 at least.
    """
    truth = [[30.0, -20.0], [60.0, 10.0]]
    data = simulate(4, truth, [6.0, 3.0], (8, 8, 8), trials=60, bins=30)
    model = fit([data], DLAGConfig(across=2, within=0, resamples=4, permutations=39, folds=3))
    found = model.findings(data, 0)
    which = order(model, [6.0, 3.0])
    expected = {("A", "B"): truth[0], ("A", "C"): truth[1], ("B", "C"): [30.0, 30.0]}
    for claim in claims(found, Question.DELAY):
        planted = dict(zip(which, expected[claim.source, claim.target], strict=True))
        assert claim.value == pytest.approx(planted[int(claim.item.split()[1]) - 1], abs=6)
        assert claim.evidence, claim
    assert len(claims(found, Question.DELAY)) == 6
    assert {claim.value for claim in claims(found, Question.DIMENSIONS)} == {2.0}
    assert all(claim.interval is not None for claim in claims(found, Question.DIMENSIONS))
    delays = {(claim.source, claim.target, claim.item): claim.value for claim in claims(found, Question.DELAY)}
    lags = [profile for profile in found.profiles if profile.kind == "lag"]
    assert {(p.source, p.target, p.item): p.marks["delay"] for p in lags} == pytest.approx(delays)
    directions = {(claim.source, claim.target): claim for claim in claims(found, Question.DIRECTION)}
    assert directions["B", "C"].value == 1.0
    assert directions["B", "C"].evidence
    assert not directions["C", "B"].evidence
    assert 0 < directions["A", "B"].value < 1
    assert {profile.kind for profile in found.profiles} == {"lag", "rank"}


def test_standard_errors_are_those_of_the_fisher_information(shared_data: Path) -> None:
    """At what was planted, readouts taken as known; the other file does not say all that was."""
    name = "ground_truth_dlag_freq"
    across, _, errors = FILES[name]
    with np.load(shared_data / f"{name}.npz") as truth:
        planted = {key: torch.from_numpy(truth[key].astype(float)) for key in truth if key != "region_sizes"}
    C = planted["true_C"]
    model = DelayedProcesses(
        planted["timescales_ms"] / 20,
        planted["true_DelayMatrix"],
        torch.cat([C[:10, :across], C[10:, across:]]),
        planted["true_d"],
        planted["true_R"].diagonal(),
        (slice(0, 10), slice(10, 20)),
    )
    activity = planted["observations"]
    shown = torch.ones(activity.shape, dtype=torch.bool)
    information = expectations(model, activity, shown[..., 0], shown).information
    free = [*range(across), *range(2 * across, 3 * across)]  # timescales, and delays of the second region
    found = torch.linalg.inv(information[free][:, free]).diagonal()[across:].sqrt() * 20
    np.testing.assert_allclose(found, errors, atol=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_delays_that_the_authors_planted(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Through the command line: within three standard errors, and 5 ms where that is small; timescales within 15 %."""
    across, within, errors = FILES[name]
    path = shared_data / f"{name}.npz"
    overrides = [f"data.path='{path}'", f"output='{tmp_path}'", f"model.across={across}", f"model.within={within}"]
    overrides += [
        "model.resamples=0",
        "model.permutations=0",
        "trainer.progress=false",
        "report=false",
        "data.split.test=0",
    ]
    code = main(["train", "experiment=dlag_ground_truth", *overrides])
    assert code == 0
    (folder,) = tmp_path.iterdir()
    model = load_run(folder).model
    assert isinstance(model, DLAG)
    with np.load(path) as truth:
        delays, timescales = truth["delay_relative_ms"][1], truth["timescales_ms"]
    which = order(model, (timescales / 20).tolist())
    assert sorted(which) == list(range(across))
    np.testing.assert_allclose(model.timescales_ms[which], timescales, rtol=0.15)
    off = (model.delays_ms[1, which].numpy() - delays) / np.array(errors)
    assert (np.abs(off) < 3).all(), off
    sharp = np.array(errors) < 1.5
    assert (np.abs(model.delays_ms[1, which].numpy() - delays)[sharp] < 5).all()


def test_sessions_share_delays_and_keep_their_units() -> None:
    """Regions are matched by name, in whatever order, and one session may lack one."""
    one = simulate(5, DELAYS, [6.0, 3.0], (8, 8), 30, 30)
    other = simulate(6, DELAYS, [6.0, 3.0], (6, 9), 30, 30, session="second")
    turned = swapped(other)
    turned = dataclasses.replace(turned, layout=dataclasses.replace(turned.layout, units={"B": 9, "A": 6}))
    alone = simulate(7, DELAYS, [6.0, 3.0], (6, 9), 10, 30, session="third").hide(range(6, 15))
    alone = dataclasses.replace(
        alone,
        activity=alone.activity[..., :6],
        observed=alone.observed[..., :6],
        layout=dataclasses.replace(alone.layout, units={"A": 6}, unit_ids=tuple("abcdef")),
    )
    model = fit([one, turned, alone], DLAGConfig(across=2, within=0, resamples=0, permutations=0))
    which = order(model, [6.0, 3.0])
    np.testing.assert_allclose(model.delays_ms[1, which], DELAYS[0], atol=8)
    for data in (one, turned, alone):
        assert model.rates(data).shape == data.activity.shape
        left = (model.rates(data) - data.activity).square().mean()
        assert float(left) < 0.6 * float(data.activity.var())
    predicted = model.predict_target(turned, "B")
    assert predicted.shape[-1] == 9
    truth = turned.activity[..., turned.layout.region("B")]
    assert float((truth - predicted).square().sum()) < 0.9 * float(truth.square().sum())


def test_leave_group_out_uses_the_other_regions_alone() -> None:
    data = simulate(8, DELAYS, [6.0, 3.0], (6, 6), 20, 25)
    model = fit([data], DLAGConfig(across=2, within=1), 10)
    changed = data.activity.clone()
    changed[..., 6:] += 100.0
    other = dataclasses.replace(data, activity=changed)
    assert torch.equal(model.predict_target(data, "B"), model.predict_target(other, "B"))
    assert not torch.allclose(model.predict_target(data, "A"), model.predict_target(other, "A"))


@pytest.mark.slow
def test_numbers_of_latents_are_chosen() -> None:
    """By cross-validation; they survive saving and loading."""
    data = simulate(9, [[40.0]], [4.0, 5.0, 6.0], (6, 6), 40, 20, noise=0.5)
    model = fit([data], DLAGConfig(folds=3), 30)
    assert (model.across, model.within) == (1, 1)
    again = DLAG(DLAGConfig(folds=3), [data.layout])
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.latents(data), model.latents(data))
    assert again.scores.shape[0] == 3


def test_residuals_leave_no_mean_course() -> None:
    data = simulate(10, DELAYS, [6.0, 3.0], (6, 6), 20, 25)
    course = 5 * torch.linspace(0, 6, 25).sin()[:, None]
    raised = dataclasses.replace(data, activity=data.activity + course)
    config = DLAGConfig(across=2, within=0, residuals=True)
    plain, other = fit([data], config, 15), fit([raised], config, 15)
    torch.testing.assert_close(other.delays, plain.delays, atol=1e-3, rtol=0)
    torch.testing.assert_close(other.rates(raised), plain.rates(data) + course, atol=1e-2, rtol=0)


def awkward(kind: str) -> Batch:
    """Return small data that something is wrong with."""
    generator = torch.Generator().manual_seed(0)
    good = simulate(11, DELAYS, [6.0, 3.0], (5, 5), 12, 20).activity
    units = (5, 5)
    if kind == "one unit":
        good, units = good[..., :6], (5, 1)
    elif kind == "identical":
        good = torch.cat([good[..., :5], good[..., :5]], -1)
    elif kind == "no variance":
        good = good.clone()
        good[..., 5:] = 3.0
    elif kind == "fewer trials":
        good = good[:3]
    elif kind == "one trial":
        good = good[:1]
    elif kind == "unequal":
        good, units = torch.cat([good[..., :2], good.repeat(1, 1, 3)], -1), (2, 30)
        good = good + 0.1 * torch.randn(good.shape, generator=generator, dtype=torch.float64)
    elif kind == "missing":
        good = good.clone()
        good[torch.rand(good.shape, generator=generator) < 0.1] = torch.nan
        good[2, 5:9] = torch.nan
    lengths = [20, 1, 2, *[17] * 9] if kind == "ragged" else None
    return batch(good, units, lengths)


@pytest.mark.parametrize(
    "kind",
    [
        *("one unit", "identical", "no variance", "fewer trials", "one trial", "unequal"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("missing", "ragged")),
    ],
)
def test_awkward_data(kind: str) -> None:
    """Everything stays finite, the objective never falls, and claims are made or refused."""
    data = awkward(kind)
    config = DLAGConfig(across=2, within=1, resamples=2, permutations=5, folds=2)
    model = DLAG(config, [data.layout])
    model.prepare([data])
    objective = [float(model.update(model.statistics(data))) for _ in range(16)]
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[1:])).all()
    model.finish()
    for value in (model.latents(data), model.rates(data), *model.posterior(data), model.log_likelihood(data)):
        assert bool(torch.isfinite(value).all())
    found = model.findings(data, 0)
    assert len(claims(found, Question.DELAY)) == 2
    for claim in found.claims:
        assert claim.p is None or 0 < claim.p <= 1
        if kind == "one trial" and claim.question is not Question.DIMENSIONS:
            assert claim.evidence is None
            assert "too short to tell: one trial cannot be exchanged with another" in claim.note
        if kind == "no variance":
            assert not claim.evidence


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 7])
def test_a_constant_region_shares_nothing(constant: float) -> None:
    """Sums of equal numbers leave rounding, in which directions and delays were found."""
    activity = simulate(11, DELAYS, [6.0, 3.0], (5, 5), 40, 15).activity.clone()
    activity[..., 5:] = constant
    data = batch(activity, (5, 5))
    model = fit([data], DLAGConfig(across=2, within=1, resamples=2, permutations=39, folds=2), 10)
    assert float(model.delays_ms.abs().max()) == 0
    found = model.findings(data, 0)
    for claim in found.claims:
        assert claim.evidence is False
        assert claim.value == 0 or claim.question is Question.DIMENSIONS
        assert claim.p in (1.0, None)


def test_what_cannot_be_told_is_no_answer() -> None:
    """Regions that do communicate, with no trials to exchange, or too few exchanges to be sure."""
    data = coupled(0, 1, trials=40, bins=6, units=(3, 3), shared=1, own=1)
    rare = dataclasses.replace(
        data, condition=torch.arange(40) % 8, layout=dataclasses.replace(data.layout, conditions=tuple("abcdefgh"))
    )
    config = DLAGConfig(across=1, within=0, resamples=2, permutations=39)
    fitted = fit([data], config, 10)
    for given, change, why in (
        (data, {"permutations": 10}, "too few permutations to tell: 10 "),
        (rare, {}, "too short to tell: 40 trials can be exchanged in 1 way within fold"),
    ):
        model = DLAG(dataclasses.replace(config, **change), [given.layout])
        model.load_state_dict(fitted.state_dict())
        found = model.findings(given, 0)
        for claim in found.claims:
            assert claim.evidence is None
            assert claim.p is None
            assert why in claim.note
        (dimensions,) = claims(found, Question.DIMENSIONS)
        assert np.isnan(dimensions.value)
        assert not any(profile.marks for profile in found.profiles)
    assert "set model.folds=3" in found.claims[0].note


def test_without_an_interval_nothing_is_judged() -> None:
    """Neither communication nor what rests on it; delays have the interval of the Fisher information."""
    data = coupled(0, 1, trials=40, bins=6, units=(3, 3), shared=1, own=1)
    found = fit([data], DLAGConfig(across=1, within=0, resamples=0, permutations=39), 10).findings(data, 0)
    for claim in found.claims:
        assert claim.evidence is None
        assert "model.resamples is 0" in claim.note
    (delay,) = claims(found, Question.DELAY)
    assert delay.p is not None
    assert delay.interval is not None
    assert not any(profile.marks for profile in found.profiles)


def test_nothing_is_counted_without_communication() -> None:
    data = independent("autocorrelated", 1, latents=1, trials=40, bins=12, units=(4, 4))
    model = fit([data], DLAGConfig(across=1, within=1, resamples=2, permutations=39, folds=2), 30, 1e-5)
    found = model.findings(data, 0)
    (dimensions,) = claims(found, Question.DIMENSIONS)
    assert claims(found, Question.COMMUNICATION)[0].evidence is False
    assert dimensions.evidence is False
    assert np.isnan(dimensions.value)
    assert not any(profile.marks for profile in found.profiles)


def test_choices_that_cannot_be_made_are_refused() -> None:
    data = simulate(12, DELAYS, [6.0, 3.0], (4, 4), 4, 12)
    one = dataclasses.replace(data.layout, units={"A": 8})
    with pytest.raises(UserError, match="one region"):
        DLAG(DLAGConfig(), [one])
    for wrong in ({"across": 0}, {"within": -1}, {"folds": 1}, {"resamples": -1}):
        with pytest.raises(UserError, match=f"model.{next(iter(wrong))}"):
            DLAGConfig(**wrong)
    model = fit([data], DLAGConfig(across=1, within=0), 3)
    long = torch.zeros(1, 200_000, 8)
    with pytest.raises(UserError, match="too long"):
        model.latents(batch(long, (4, 4)))


def test_a_run_of_counts_says_delays_in_ms(tmp_path: Path) -> None:
    """Counts as they come, through train: claims are in the run."""
    data = simulate(13, [[40.0]], [5.0], (6, 6), 40, 25)
    counts = np.random.default_rng(0).poisson(np.exp(0.7 * data.activity.numpy().clip(-3, 3)))
    recording = from_arrays(counts, bin_width_s=0.02, regions=["A"] * 6 + ["B"] * 6)
    run = train(
        Experiment(
            model=DLAGConfig(across=1, within=1, permutations=39, resamples=4, folds=3),
            data=DataConfig(bin_width_s=0.02, split=SplitConfig(validation=0.0, test=0.1, gap_s=0.0)),
            trainer=TrainerConfig(progress=False),
            output=str(tmp_path),
            report=False,
        ),
        [recording],
    )
    (found,) = run.findings.values()
    (delay,) = claims(found, Question.DELAY)
    assert delay.evidence
    assert delay.value == pytest.approx(40, abs=12)
    assert "B follows A by" in delay.sentence
