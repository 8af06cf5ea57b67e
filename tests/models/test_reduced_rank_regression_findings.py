"""What reduced-rank regression says of regions: planted delays, directions and dimensions, and none where none are."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge

from lvmzoo.batch import Batch
from lvmzoo.claims.regression_lags import measured_lags
from lvmzoo.claims.regression_recording import RegionRecording
from lvmzoo.claims.regression_sources import measured_sources
from lvmzoo.claims.support import Measured, Questions, corrected
from lvmzoo.findings import Claim, Findings
from lvmzoo.inference.lag_windows import paired_trials
from lvmzoo.inference.lagged_prediction import PENALTIES, added_by, lag_profile, peak
from lvmzoo.inference.regression_moments import Rows, Scatter, without_columns
from tests.models.regions_world import KINDS, coupled, independent
from tests.models.regression_world import batch_of, fit, windows

FEW = {"permutations": 39, "resamples": 25, "history": 3, "folds": 5}


def claim(found: Findings, question: str, source: str, target: str) -> Claim:
    (one,) = [
        c for c in found.claims if (c.question.value, c.source, c.target, c.item) == (question, source, target, "")
    ]
    return one


def rows_of(seed: int, folds: int = 4, groups: int = 3) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(60, 7)) @ random.normal(size=(7, 7)) + 3
    trial = np.arange(60) // 3
    fold, group = random.permutation(trial % folds), random.integers(0, groups, 60)
    made = Rows(*map(torch.from_numpy, (values.copy(), trial, fold)), folds, torch.from_numpy(group), groups)
    return made, values, trial, fold, group


def by_hand(values: np.ndarray, fold: np.ndarray, group: np.ndarray, weights: np.ndarray) -> list[tuple[Any, Any]]:
    found = []
    for k in np.unique(fold):
        train, test = fold != k, fold == k
        residual = values.copy()
        for g in np.unique(group):
            mean = np.average(values[train & (group == g)], axis=0, weights=weights[train & (group == g)])
            residual[group == g] -= mean
        found.append([(residual[part] * weights[part, None]).T @ residual[part] for part in (train, test)])
    return [(a, b) for a, b in found]


def assert_equals(scatter: Scatter, expected: list[tuple[Any, Any]]) -> None:
    for k, (training, held_out) in enumerate(expected):
        np.testing.assert_allclose(scatter.training[k].numpy(), training, atol=1e-9)
        np.testing.assert_allclose(scatter.held_out[k].numpy(), held_out, atol=1e-9)


def test_moments_of_exchanged_and_resampled_trials_equal_explicit_ones() -> None:
    made, values, trial, fold, group = rows_of(0)
    ones = np.ones(60)
    assert_equals(made.scatter(), by_hand(values, fold, group, ones))
    random = np.random.default_rng(1)
    times = random.integers(1, 4, 20).astype(float)
    assert_equals(made.resampled(torch.from_numpy(times)), by_hand(values, fold, group, times[trial]))
    order = random.permutation(60)
    moved = values.copy()
    moved[:, 2:5] = values[order, 2:5]
    assert_equals(made.exchanged(slice(2, 5), torch.from_numpy(order)), by_hand(moved, fold, group, ones))
    products, bins = made.whole()
    residual = values - np.array([values[group == g].mean(0) for g in group])
    np.testing.assert_allclose(products.numpy(), residual.T @ residual, atol=1e-9)
    assert bins == 60


def test_what_some_columns_predict_is_taken_out() -> None:
    made, values, _, fold, group = rows_of(2, groups=1)
    found = without_columns(made.scatter(), slice(1, 3))
    group = np.zeros(60)
    for k, (training, held_out) in enumerate(by_hand(values, fold, group, np.ones(60))):
        del training, held_out
        train = fold != k
        centered = values - values[train].mean(0)
        weights = np.linalg.lstsq(centered[train][:, 1:3], centered[train], rcond=None)[0]
        residual = centered - centered[:, 1:3] @ weights
        np.testing.assert_allclose(found.training[k].numpy(), residual[train].T @ residual[train], atol=1e-6)
        np.testing.assert_allclose(found.held_out[k].numpy(), residual[~train].T @ residual[~train], atol=1e-6)


def test_exchanged_trials_use_each_window_once() -> None:
    random = np.random.default_rng(3)
    usable = torch.from_numpy(np.arange(9) < random.integers(2, 10, 12)[:, None])
    usable[4, 3] = False
    permutation = torch.from_numpy(random.permutation(12))
    source = paired_trials(permutation, usable)
    for t in range(9):
        there = usable[:, t].nonzero()[:, 0]
        assert sorted(source[there, t].tolist()) == there.tolist()
        direct = there[usable[permutation[there], t]]
        assert torch.equal(source[direct, t], permutation[direct])


def test_lags_and_additions_equal_ridge_regression_by_scikit_learn() -> None:
    batch = coupled(0, lag=1, trials=24, bins=9, units=(4, 3), ragged=True)
    session = fit(batch, folds=4).of()
    recording = RegionRecording(batch, batch.activity, session.folds(batch), 4, None, 1)
    made = recording.windows([("A", range(3)), ("B", range(3))])
    assert made is not None
    scatter = made.rows.scatter()
    lengths = batch.valid.sum(1).tolist()
    values = {"A": batch.activity[..., :4].numpy(), "B": batch.activity[..., 4:].numpy()}
    past = {name: windows(activity, [0, 1, 2], lengths) for name, activity in values.items()}
    columns = {
        (name, lag): past[name][0][:, lag * n : (lag + 1) * n] for name, n in (("A", 4), ("B", 3)) for lag in range(3)
    }
    trial = past["A"][1]
    fold = trial * 4 // 24

    def score(x: np.ndarray, y: np.ndarray, penalty: float) -> float:
        found = []
        for k in range(4):
            train, test = fold != k, fold == k
            model = Ridge(alpha=penalty * train.sum()).fit(x[train], y[train])
            error = ((y[test] - model.predict(x[test])) ** 2).sum()
            found.append(1 - error / ((y[test] - y[train].mean(0)) ** 2).sum())
        return float(np.mean(found))

    profile = lag_profile(scatter, made.columns, "A", "B", 2)
    for place, lag in enumerate(range(-2, 3)):
        a, b = columns["A", max(lag, 0)], columns["B", max(-lag, 0)]
        expected = [max(score(x, y, penalty) for penalty in PENALTIES) for x, y in ((a, b), (b, a))]
        assert float(profile[place]) == pytest.approx(np.mean(expected), abs=1e-10)
    known, source = (torch.cat([made.columns[name, lag] for lag in (1, 2)]) for name in "BA")
    found = added_by(scatter, known, source, made.columns["B", 0], 0.1)
    own = np.concatenate([columns["B", lag] for lag in (1, 2)], 1)
    other = np.concatenate([columns["A", lag] for lag in (1, 2)], 1)
    full, reduced = (score(x, columns["B", 0], 0.1) for x in (np.concatenate([own, other], 1), own))
    assert float(found) == pytest.approx(full - reduced, abs=1e-10)


def test_peaks_lie_between_bins() -> None:
    assert peak(-(torch.arange(-3.0, 4.0).double() - 0.7).square()) == pytest.approx(0.7)
    assert peak(torch.arange(5.0)) == 2.0
    assert peak(torch.ones(1)) == 0.0


@pytest.mark.parametrize("lag", [2, -1])
def test_a_planted_delay_and_its_direction(lag: int) -> None:
    batch = coupled(1, lag=lag, trials=60, bins=16, units=(6, 5), ragged=True)
    found = fit(batch, **FEW).findings(batch, 0)
    assert claim(found, "communication", "A", "B").evidence
    delay = claim(found, "delay", "A", "B")
    assert delay.evidence
    assert delay.value == pytest.approx(20 * lag, abs=6)
    first, second = ("A", "B") if lag > 0 else ("B", "A")
    assert claim(found, "direction", first, second).evidence
    assert not claim(found, "direction", second, first).evidence
    assert delay.sentence.startswith(f"{second} follows {first} by")
    (lags,) = [p for p in found.profiles if p.kind == "lag"]
    assert lags.value.argmax() - 3 == lag
    assert lags.null is not None
    assert float(lags.null[0]) < lags.value.max()


def test_swapping_the_regions_flips_the_sign() -> None:
    batch = coupled(2, lag=2, trials=40, bins=12, units=(4, 5))
    a, b = batch.activity[..., :4].numpy(), batch.activity[..., 4:].numpy()
    values = []
    for regions in ({"A": a, "B": b}, {"B": b, "A": a}):
        made = batch_of(regions)
        found = fit(made, **{**FEW, "permutations": 0, "resamples": 0}).findings(made, 0)
        values.append(next(c.value for c in found.claims if c.question == "delay"))
    assert values[0] == pytest.approx(-values[1], abs=1e-8)
    assert values[0] > 30


def test_no_delay_is_no_evidence() -> None:
    batch = coupled(3, lag=0, trials=60, bins=12, units=(5, 5))
    found = fit(batch, **FEW).findings(batch, 0)
    assert claim(found, "communication", "A", "B").evidence
    assert claim(found, "delay", "A", "B").evidence is False
    assert abs(claim(found, "delay", "A", "B").value) < 2


def test_dimensions_beside_those_within_the_region() -> None:
    """Of five dimensions that units of A share, two reach B."""
    random = np.random.default_rng(4)
    latents = random.normal(size=(150, 10, 5)) * [1.2, 1.1, 1.0, 1.0, 1.0]
    a = latents @ random.normal(size=(5, 24)) + random.normal(size=(150, 10, 24))
    b = latents[..., 3:] @ random.normal(size=(2, 12)) + random.normal(size=(150, 10, 12))
    batch = batch_of({"A": a, "B": b})
    found = fit(batch, **{**FEW, "history": 0}).findings(batch, 0)
    made = claim(found, "dimensions", "A", "B")
    assert made.value == 2
    assert made.control == 5
    assert made.interval is not None
    assert made.interval[0] <= 2 <= made.interval[1] <= 3
    assert "12 units of A from 12 others, 25 times" in made.note
    assert claim(found, "dimensions", "B", "A").value == 2
    curves = {p.item: p for p in found.profiles if (p.kind, p.source) == ("rank", "A")}
    assert curves[""].control is not None
    assert curves[""].marks["1-SE rank"] == 2
    # The factors that B does not see come first: factor regression needs all five.
    assert curves["factor regression"].marks["1-SE rank"] == 5


def test_a_region_may_stand_for_the_control_and_subspaces_are_compared() -> None:
    random = np.random.default_rng(5)
    latents = random.normal(size=(80, 8, 4))
    regions = {
        name: latents[..., seen] @ random.normal(size=(len(seen), 8)) + random.normal(size=(80, 8, 8))
        for name, seen in {"A": [0, 1, 2, 3], "A2": [0, 1, 2, 3], "B": [0]}.items()
    }
    batch = batch_of(regions)
    config = {**FEW, "history": 0, "source": "A", "target": "B", "control": "A2"}
    found = fit(batch, **config).findings(batch, 0)
    assert {(c.source, c.target) for c in found.claims} == {("A", "B"), ("B", "A")}
    made = claim(found, "dimensions", "A", "B")
    assert (made.value, made.control) == (1, 4)
    (angles,) = [p for p in found.profiles if p.statistic == "principal angle (deg)"]
    assert (angles.source, angles.target, angles.item) == ("A", "B", "against the subspace that predicts A2")
    assert angles.value.shape == (1,)
    assert angles.value[0] < 25  # what B sees, A2 sees as well


def test_independent_regions_are_no_evidence() -> None:
    """A family of claims, corrected together, errs once in twenty sessions, and by chance a little more often."""
    sessions, false = 12, Counter[str]()
    for seed in range(sessions):
        batch = independent(KINDS[seed % 3], seed, trials=48, bins=6, units=(3, 3, 2))
        few = {"permutations": 19, "resamples": 19, "history": 1, "folds": 4}
        found = fit(batch, **few).findings(batch, seed)
        asked = [c for c in found.claims if c.question != "dimensions"]
        assert len(asked) == 3 * 2 + 6 + 2
        assert all(c.evidence is not None for c in asked)
        false.update({c.question.value + c.item[:6] for c in asked if c.evidence})
        shared = claim(found, "communication", "A", "B")
        assert shared.evidence or "No evidence that A and B share activity" in shared.sentence
    # Once in a thousand, each family would err more often than this.
    assert max(false.values(), default=0) <= stats.binom.ppf(0.999, sessions, 0.05), false


def test_without_a_null_or_an_interval_nothing_can_be_told() -> None:
    batch = coupled(6, trials=40, bins=12)
    for fewer in ({"permutations": 0}, {"resamples": 0}):
        found = fit(batch, **{**FEW, **fewer}).findings(batch, 0)
        assert all(c.evidence is None for c in found.claims)
    few = coupled(6, trials=4, bins=60)
    found = fit(few, **FEW).findings(few, 0)
    assert all(c.evidence is None for c in found.claims)
    assert "too short to tell" in claim(found, "communication", "A", "B").sentence.lower()


def adversarial() -> Mapping[str, Batch]:
    random = np.random.default_rng(7)

    def world(a: int, b: int, trials: int = 30, bins: int = 9) -> dict[str, np.ndarray]:
        latents = random.normal(size=(trials, bins, 2))
        return {
            name: latents @ random.normal(size=(2, n)) + random.normal(size=(trials, bins, n))
            for name, n in (("A", a), ("B", b))
        }

    same = world(4, 4)
    missing = world(4, 3)
    missing["A"][3:6, 2:4] = np.nan
    missing["B"][8, :, 1] = np.nan
    return {
        "a region of one unit": batch_of(world(1, 4)),
        "identical regions": batch_of({"A": same["A"], "B": same["A"].copy()}),
        "a region without variance": batch_of({**world(4, 3), "B": np.ones((30, 9, 3))}),
        "fewer trials than units": batch_of(world(20, 15, trials=12)),
        "unequal regions": batch_of(world(2, 40)),
        "one trial": batch_of(world(3, 4, trials=1, bins=300)),
        "very short trials": batch_of(world(3, 4, bins=2)),
        "ragged": batch_of(world(4, 3), random.integers(2, 10, 30).tolist()),
        "missing samples": batch_of(missing),
        "garbage scale": batch_of({name: values * 1e8 for name, values in world(3, 3).items()}),
    }


@pytest.mark.parametrize("method", ["reduced_rank", "factor"])
@pytest.mark.parametrize("name", adversarial())
def test_adversarial_recordings_are_answered(name: str, method: str) -> None:
    batch = adversarial()[name]
    model = fit(batch, method=method, **{**FEW, "permutations": 19, "resamples": 5})
    found = model.findings(batch, 0)
    assert {c.question.value for c in found.claims} >= {"communication", "dimensions"}
    for one in found.claims:
        assert math.isfinite(one.value), one
        assert one.sentence.endswith(".")
        if one.interval is not None:
            assert one.interval[0] <= one.value <= one.interval[1], one
        if one.evidence is not None and one.question != "dimensions":
            assert one.p is not None
            assert one.interval is not None
    assert Findings.from_json(json.loads(json.dumps(found.to_json()))).claims == found.claims
    assert torch.isfinite(model.predict_target(batch, model.target)[batch.valid]).all()
    shared = claim(found, "communication", "A", "B")
    if name == "a region without variance":
        assert shared.evidence is False
    elif name in ("one trial", "fewer trials than units"):
        assert shared.evidence is None or name != "one trial"
    else:
        assert shared.evidence, shared


def test_what_trials_of_unknown_condition_share_is_not_taken_for_communication() -> None:
    rejected = 0
    for seed in range(6):
        batch = independent("conditions", seed, trials=80, bins=9)
        assert batch.condition is not None
        some = batch.condition.clone()
        some[::2] = -1
        batch = replace(batch, condition=some)
        shared = claim(fit(batch, **FEW).findings(batch, 0), "communication", "A", "B")
        rejected += shared.evidence is True
    assert rejected <= 1  # exchanged with each other, they made it 6 of 6


def test_correction_by_the_largest_keeps_the_level() -> None:
    random = np.random.default_rng(8)
    rejected = 0
    for _ in range(400):
        draws = random.normal(size=(6, 40)) * np.arange(1, 7)[:, None] + np.arange(6)[:, None]
        ps = corrected([Measured(float(row[0]), row[1:].tolist()) for row in draws])
        rejected += any(p is not None and p <= 0.05 for p in ps)
    assert 8 <= rejected <= 36
    assert corrected([Measured(1.0)]) == [None]
    null = [float(draw) for draw in range(19)]
    strong = [Measured(50.0, null), Measured(3.0, null)]
    first, second = corrected(strong)
    assert first == pytest.approx(0.05)
    assert second is not None
    assert second > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_independent_regions_are_rejected_as_often_as_said(kind: str) -> None:
    """Of 200 simulations 2 to 20 at 5 %: for every null, before it is corrected for the number of claims."""
    rejected: dict[str, int] = {}
    for seed in range(200):
        batch = independent(kind, seed, trials=80, bins=12, units=(3, 3))
        session = fit(batch, folds=5).of()
        recording = RegionRecording(batch, batch.activity.double(), session.folds(batch), 5, None, 1)
        questions = Questions(2, 19, 0, None)
        generator = torch.Generator().manual_seed(seed)
        found = measured_lags(recording, ["A", "B"], questions, generator, lambda what, fraction: None)
        assert found is not None
        ps = {"lags": found.pairs[0].shared.p, **{f"{a.source} to {a.target}": a.added.p for a in found.arrows}}
        for name, p in ps.items():
            assert p is not None
            rejected[name] = rejected.get(name, 0) + (p <= 0.05)
    assert all(2 <= count <= 20 for count in rejected.values()), rejected


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_independent_sources_are_rejected_as_often_as_said(kind: str) -> None:
    """Of 200 simulations 2 to 20 at 5 %: what a region adds to another source."""
    rejected = 0
    for seed in range(200):
        batch = independent(kind, seed, trials=80, bins=8, units=(3, 3, 3))
        session = fit(batch, target="C", folds=5).of()
        recording = RegionRecording(batch, batch.activity.double(), session.folds(batch), 5, None, 1)
        generator = torch.Generator().manual_seed(seed)
        found = measured_sources(recording, session.route, Questions(0, 19, 0, None), generator, lambda *_: None)
        p = found["A"].p
        assert p is not None
        rejected += p <= 0.05
    assert 2 <= rejected <= 20


@pytest.mark.slow
def test_what_is_shared_at_once_rarely_has_a_delay() -> None:
    delayed = communicates = 0
    for seed in range(200):
        batch = coupled(seed, lag=0, trials=80, bins=12)
        found = fit(batch, permutations=39, resamples=25, history=3, folds=4).findings(batch, seed)
        communicates += claim(found, "communication", "A", "B").evidence is True
        delayed += claim(found, "delay", "A", "B").evidence is True
    print(communicates, delayed)
    assert communicates >= 195, communicates
    assert delayed <= 20, delayed
