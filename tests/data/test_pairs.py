"""Draws of pairs: whole windows, exact neighbors, the distributions that were asked for, functions of (seed, step)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from lvmzoo.batch import Batch, Kind, PairSampling
from lvmzoo.data.pairs import PairSampler
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError
from tests.data.labeled import labeled_trials

RNG = np.random.default_rng(3)
POINT = PairSampling(before=0, after=1)


def drawn(trials: Trials, sampling: PairSampling, size: int = 100_000, **options: Any) -> list[np.ndarray]:
    """Return the bin at the center of each window, by group; the one unit of the trials holds the bin."""
    batch = PairSampler([trials], sampling, size, 0, **options).draw(0)
    return np.split(batch.activity[:, sampling.before, 0].numpy(), len(sampling.kinds) + 2)


def walk(bins: int, channels: int = 1) -> np.ndarray:
    return np.cumsum(RNG.normal(size=(bins, channels)), 0)


@pytest.mark.parametrize("before", [0, 4, 9])
def test_windows_are_consecutive_bins_of_one_trial(before: int) -> None:
    lengths = [30, 5, 12, 40, 10]
    trials = labeled_trials(lengths, {"x": (Kind.CONTINUOUS, walk(97))})
    sampling = PairSampling(before, 10 - before, "hybrid", time_offset_bins=2, behavior=("x",))
    batch = PairSampler([trials], sampling, 3000, 0).draw(7)
    assert batch.activity.shape == (4 * 3000, 10, 1)
    assert (batch.activity[:, :, 0].diff(dim=1) == 1).all()
    trial = np.repeat(np.arange(5), lengths)
    first, last = batch.activity[:, 0, 0].numpy(), batch.activity[:, -1, 0].numpy()
    np.testing.assert_array_equal(trial[first], trial[last])
    np.testing.assert_array_equal(trial[first], batch.trial_index.numpy())
    np.testing.assert_array_equal(first - trials.start[trial[first]], batch.start_bin.numpy())
    assert set(trial[first][9000:]) == {0, 2, 3, 4}  # negatives: all trials of ten bins or more, none shorter


def test_every_whole_window_is_drawn_equally_often() -> None:
    trials = labeled_trials([30, 12])
    sampling = PairSampling(5, 5, time_offset_bins=3)
    reference, positive, negative = drawn(trials, sampling)
    np.testing.assert_array_equal(positive, reference + 3)
    allowed = [*range(5, 26), *range(35, 38)]  # of negatives: t - 5 >= start and t + 5 <= stop
    with_later = [*range(5, 23)]
    for bins, expected in ((negative, allowed), (reference, with_later)):
        found, count = np.unique(bins, return_counts=True)
        np.testing.assert_array_equal(found, expected)
        assert stats.chisquare(count).pvalue > 1e-4
    assert abs(np.corrcoef(reference, negative)[0, 1]) < 0.02


def test_no_window_touches_a_gap() -> None:
    trials = labeled_trials([50])
    valid = torch.ones(50, dtype=torch.bool)
    valid[20:23] = False
    bins = PairSampler([replace(trials, valid=valid)], PairSampling(2, 3), 5000, 0).draw(0).activity.numpy()
    assert not np.isin(bins, [20, 21, 22]).any()
    assert np.isin([19, 23], bins).all()


def test_equal_labels_share_their_positives() -> None:
    labels = np.repeat([0.0, 1.0, 5.0], 100)
    trials = labeled_trials([300], {"x": (Kind.CONTINUOUS, labels)})
    reference, positive, _ = drawn(trials, replace(POINT, positives="behavior", behavior=("x",), delta=1e-6))
    np.testing.assert_array_equal(labels[positive], labels[reference])
    assert stats.chisquare(np.bincount(positive[reference < 100], minlength=100)[:100]).pvalue > 1e-4


def test_time_delta_moves_labels_by_their_own_changes() -> None:
    # labels on a fine grid, so that the nearest label is the query itself up to 1e-3
    steps = RNG.choice([-0.3, 0.0, 0.7], size=20_000, p=[0.5, 0.2, 0.3])
    labels = np.cumsum(steps) % 10 + RNG.normal(size=20_000) * 1e-4
    trials = labeled_trials([20_000], {"x": (Kind.CONTINUOUS, labels)})
    reference, positive, _ = drawn(trials, replace(POINT, positives="behavior", behavior=("x",), time_offset_bins=1))
    inside = (labels[reference] > 1) & (labels[reference] < 9)
    change = labels[positive] - labels[reference]
    share = [np.mean(np.abs(change[inside] - step) < 0.05) for step in (-0.3, 0.0, 0.7)]
    expected = [np.mean(np.abs(np.diff(labels) - step) < 0.05) for step in (-0.3, 0.0, 0.7)]
    assert np.abs(np.array(share) - expected).max() < 0.01


def test_changes_of_labels_stay_in_their_trial() -> None:
    labels = np.concatenate([np.full(50, 0.0), np.full(50, 100.0)]) + np.tile(np.arange(50) * 0.01, 2)
    trials = labeled_trials([50, 50], {"x": (Kind.CONTINUOUS, labels)})
    reference, positive, _ = drawn(trials, replace(POINT, positives="behavior", behavior=("x",), time_offset_bins=5))
    np.testing.assert_array_equal(reference < 50, positive < 50)  # a jump of 100 between trials is no change


def test_delta_is_gaussian_in_standard_deviations() -> None:
    labels = RNG.permutation(np.linspace(-4, 4, 40_001))
    trials = labeled_trials([40_001], {"x": (Kind.CONTINUOUS, labels)})
    reference, positive, _ = drawn(trials, replace(POINT, positives="behavior", behavior=("x",), delta=0.1))
    inside = np.abs(labels[reference]) < 2.5
    change = (labels[positive] - labels[reference])[inside] / labels.std()
    assert stats.kstest(change, "norm", args=(0, 0.1)).pvalue > 1e-4


def test_categories_are_exact_and_uniform_within() -> None:
    labels = RNG.choice(4, size=500, p=[0.6, 0.2, 0.15, 0.05]).astype(float)
    trials = labeled_trials([500], {"odor": (Kind.CATEGORICAL, labels)})
    sampling = replace(POINT, positives="behavior", behavior=("odor",))
    reference, positive, _ = drawn(trials, sampling)
    np.testing.assert_array_equal(labels[reference], labels[positive])
    for level in range(4):
        members = np.flatnonzero(labels == level)
        count = np.bincount(positive[labels[reference] == level], minlength=500)[members]
        assert stats.chisquare(count).pvalue > 1e-4
    balanced = drawn(trials, replace(sampling, balanced=True))
    for bins in (balanced[0], balanced[2]):
        assert stats.chisquare(np.bincount(labels[bins].astype(int))).pvalue > 1e-4


def test_mixed_labels_are_exact_in_category_and_nearest_inside() -> None:
    category = RNG.integers(0, 3, 600).astype(float)
    position = RNG.uniform(0, 1, (600, 2))
    trials = labeled_trials([600], {"odor": (Kind.CATEGORICAL, category), "xy": (Kind.CONTINUOUS, position)})
    sampling = replace(POINT, positives="behavior", behavior=("odor", "xy"), delta=1e-9)
    reference, positive, _ = drawn(trials, sampling, 5000)
    np.testing.assert_array_equal(reference, positive)  # the nearest label of the same category is its own
    far = replace(sampling, delta=0.5)
    reference, positive, _ = drawn(trials, far, 5000)
    np.testing.assert_array_equal(category[reference], category[positive])
    assert (reference != positive).mean() > 0.9


def test_bins_without_a_label_serve_time_alone() -> None:
    labels = walk(400)[:, 0]
    labels[100:200] = np.nan
    trials = labeled_trials([400], {"x": (Kind.CONTINUOUS, labels)})
    assert np.isfinite(labels[np.concatenate(drawn(trials, PairSampling(2, 3, "behavior", 10, ("x",)), 5000))]).all()
    batch = PairSampler([trials], PairSampling(2, 3, "hybrid", 10, ("x",)), 20_000, 0).draw(0)
    bins = batch.activity[:, 2, 0].numpy()
    time, behavior = (bins[batch.pairs[kind].numpy()] for kind in ("time", "behavior"))
    assert np.isfinite(labels[behavior]).all()
    np.testing.assert_array_equal(time[1], time[0] + 10)
    for drawn_bins, last in ((time[0], 388), (time[2], 398)):  # uniform over all whole windows, labeled or not
        assert stats.chisquare(np.bincount(drawn_bins, minlength=last)[2:last]).pvalue > 1e-4


def test_draws_are_functions_of_seed_and_step() -> None:
    trials = labeled_trials([4000], {"x": (Kind.CONTINUOUS, walk(4000, 2))})
    sampling = PairSampling(5, 5, "behavior", behavior=("x",))

    def batches(steps: list[int], seed: int = 0) -> list[Batch]:
        sampler = PairSampler([trials], sampling, 100, seed)
        return [sampler.draw(step) for step in steps]

    forward, backward = batches([0, 1, 63, 64, 200]), batches([200, 64, 63, 1, 0])[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert torch.equal(one.activity, other.activity)
    assert len({batch.activity.numpy().tobytes() for batch in forward}) == 5
    assert not torch.equal(batches([0], seed=1)[0].activity, forward[0].activity)


def test_shards_are_even_parts_of_one_draw() -> None:
    trials = labeled_trials([4000], {"x": (Kind.CONTINUOUS, walk(4000))})
    sampler = PairSampler([trials], PairSampling(5, 5, "hybrid", behavior=("x",)), 96, 5)
    whole = sampler.draw(3).activity.unflatten(0, (4, 96))
    shards = [sampler.shard(3, rank, 3).activity.unflatten(0, (4, 32)) for rank in range(3)]
    assert torch.equal(torch.cat(shards, 1), whole)
    with pytest.raises(UserError, match="batch_size=95"):
        sampler.shard(0, 0, 5)


def test_missing_samples_are_not_observed() -> None:
    trials = labeled_trials([100])
    missing = torch.zeros(100, 1, dtype=torch.bool)
    missing[40:50] = True
    batch = PairSampler([replace(trials, missing=missing)], PairSampling(5, 5), 500, 0).draw(0)
    assert torch.equal(batch.observed, ~torch.isin(batch.activity, torch.arange(40, 50)))
    assert not batch.observed.all()


def test_a_batch_may_be_larger_than_the_session() -> None:
    assert PairSampler([labeled_trials([30])], PairSampling(5, 5), 5000, 0).draw(0).n_trials == 15_000


def test_held_out_labels_are_scaled_as_in_training() -> None:
    two = {"x": (Kind.CONTINUOUS, np.arange(50.0)), "c": (Kind.CATEGORICAL, np.arange(50) % 2)}
    sampling = PairSampling(0, 1, "behavior", 1, ("x", "c"))
    training = PairSampler([labeled_trials([50], two)], sampling, 8, 0)
    constant = labeled_trials([50], {**two, "c": (Kind.CATEGORICAL, np.zeros(50))})
    held_out = PairSampler([constant], sampling, 8, 0, like=training)
    assert held_out.draw(0).n_trials == 24


@pytest.mark.parametrize("kind", list(Kind))
def test_a_constant_label_is_named(kind: Kind) -> None:
    trials = labeled_trials([100], {"fine": (Kind.CONTINUOUS, walk(100)), "still": (kind, np.full(100, 1.5))})
    with pytest.raises(UserError, match=r"'still'.*same label"):
        PairSampler([trials], PairSampling(5, 5, "behavior", 1, ("fine", "still")), 8, 0)


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(UserError, match="no window of 10 bins: its longest trial has 9"):
        PairSampler([labeled_trials([9, 4])], PairSampling(5, 5), 8, 0)
    with pytest.raises(UserError, match="no two bins 30 bins apart"):
        PairSampler([labeled_trials([30, 30])], PairSampling(5, 5, time_offset_bins=30), 8, 0)
    unlabeled = labeled_trials([30], {"x": (Kind.CONTINUOUS, np.full(30, np.nan))})
    with pytest.raises(UserError, match="No bin of session 'made' has a label for 'x'"):
        PairSampler([unlabeled], PairSampling(5, 5, "behavior", 1, ("x",)), 8, 0)
    half = np.where(np.arange(30) < 15, np.arange(30.0), np.nan)
    apart = labeled_trials([30], {"x": (Kind.CONTINUOUS, half), "y": (Kind.CONTINUOUS, half[::-1].copy())})
    with pytest.raises(UserError, match="Known of training bins: 'x' in 50%, 'y' in 50%"):
        PairSampler([apart], PairSampling(5, 5, "behavior", 1, ("x", "y")), 8, 0)
    edge = np.full(30, np.nan)
    edge[:4] = np.arange(4)
    with pytest.raises(UserError, match="no whole window around a bin with a label for 'x'"):
        PairSampler(
            [labeled_trials([30], {"x": (Kind.CONTINUOUS, edge)})], PairSampling(5, 5, "behavior", 1, ("x",)), 8, 0
        )


@pytest.mark.parametrize("kind", [Kind.CONTINUOUS, Kind.CIRCULAR])
def test_positives_in_time_delta_follow_the_changes(kind: Kind) -> None:
    """Labels lie densely, so that a positive is off by one of the changes: two samples of one distribution."""
    labels = np.cumsum(RNG.gamma(2.0, 0.2, 40_000)) % (2 * np.pi) - np.pi
    trials = labeled_trials([40_000], {"x": (kind, labels)})
    reference, positive, _ = drawn(trials, replace(POINT, positives="behavior", behavior=("x",), time_offset_bins=3))
    inside = np.abs(labels[reference]) < 0.5  # far from where the labels jump, as changes of CONTINUOUS ones do too

    def around(change: np.ndarray) -> np.ndarray:
        return np.angle(np.exp(1j * change))

    found, changes = around(labels[positive] - labels[reference])[inside], labels[3:] - labels[:-3]
    if kind is Kind.CONTINUOUS:  # a jump takes the query beyond all labels, to the nearest of them
        found, changes = found[found > 0], changes[changes > 0]
        found, changes = found[found < 2.5], changes[changes < 2.5]
    expected = RNG.choice(around(changes), 20_000, replace=False)
    assert len(found) > 10_000
    assert stats.ks_2samp(found[::8], expected).pvalue > 1e-4


def test_mixed_positives_follow_the_specification() -> None:
    """Dense labels in each category: the change of the label is Gaussian, the category that of the reference."""
    category = RNG.choice(2, size=40_000, p=[0.8, 0.2]).astype(float)
    labels = RNG.uniform(-4, 4, 40_000)
    trials = labeled_trials([40_000], {"x": (Kind.CONTINUOUS, labels), "odor": (Kind.CATEGORICAL, category)})
    reference, positive, negative = drawn(
        trials, replace(POINT, positives="behavior", behavior=("x", "odor"), delta=0.2)
    )
    np.testing.assert_array_equal(category[positive], category[reference])
    for bins in (reference, negative):
        expected = np.bincount(category.astype(int)) / len(category) * len(bins)
        assert stats.chisquare(np.bincount(category[bins].astype(int)), expected).pvalue > 1e-4
    change = ((labels[positive] - labels[reference]) / labels.std())[np.abs(labels[reference]) < 1.5]
    assert stats.kstest(change, "norm", args=(0, 0.2)).pvalue > 1e-4
