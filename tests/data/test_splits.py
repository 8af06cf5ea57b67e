"""Splits share no bin and no neighborhood, and nothing on the training side depends on test data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.arrays import from_arrays
from lvmzoo.data.gap import mean_autocorrelation
from lvmzoo.data.load import prepare
from lvmzoo.data.recording import BinnedTrials, Recording
from lvmzoo.data.trials import Session, Trials
from lvmzoo.errors import UserError


def parts(session: Session) -> list[Trials]:
    return [session.train, session.validation, session.test]


def spike_trials(n: int = 40, every_s: float = 2.0, length_s: float = 1.5, seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    start = np.arange(n) * every_s
    trials = pd.DataFrame({"start_s": start, "stop_s": start + length_s})
    spikes = [rng.uniform(0, n * every_s, 40 * n) for _ in range(4)]
    return Recording.from_spike_times("a", spikes, stop_s=n * every_s, trials=trials)


@pytest.mark.parametrize("gap_s", [0.0, 3.0, 7.5])
@pytest.mark.parametrize("split", [{}, *({"by": "folds", "fold": k} for k in range(5))])
@pytest.mark.parametrize("continuous", [True, False])
def test_blocks_are_apart_by_the_gap(gap_s: float, split: dict, continuous: bool):
    config = DataConfig(trials="session" if continuous else "trials", split=SplitConfig(gap_s=gap_s, **split))
    session = prepare([spike_trials()], config)[0]
    bins = [set(part.flat.tolist()) for part in parts(session)]
    assert not bins[0] & bins[1]
    assert not bins[0] & bins[2]
    assert not bins[1] & bins[2]
    assert all(bins)
    for i, one in enumerate(parts(session)):
        for other in parts(session)[:i]:
            for a, b in one.table[["start_s", "stop_s"]].to_numpy():
                for c, d in other.table[["start_s", "stop_s"]].to_numpy():
                    assert max(a - d, c - b) > gap_s - 1e-6


def test_default_blocks_have_the_fractions_and_the_order_of_the_config():
    recording = from_arrays(np.random.default_rng(0).poisson(1, (1000, 3)))
    session = prepare([recording], DataConfig(split=SplitConfig(gap_s=0.0)))[0]
    assert [(int(p.start[0]), int(p.stop[-1])) for p in parts(session)] == [(0, 650), (650, 800), (800, 1000)]


def test_folds_test_every_trial_once():
    tested = []
    for fold in range(5):
        session = prepare([spike_trials(23)], DataConfig(split=SplitConfig(by="folds", fold=fold)))[0]
        tested += session.test.table["trial"].tolist()
    assert sorted(tested) == list(range(23))


def test_folds_leave_the_end_of_the_recording_untouched():
    tested, seen = [], set()
    for fold in range(4):
        split = SplitConfig(folds=4, fold=fold, untouched=0.25)
        session = prepare([spike_trials(40)], DataConfig(split=split))[0]
        tested += session.test.table["trial"].tolist()
        seen.update(trial for part in parts(session) for trial in part.table["trial"])
    assert sorted(tested) == list(range(30))
    assert max(seen) == 29


def test_a_number_of_folds_means_folds_and_needs_to_know_which():
    assert SplitConfig(folds=3, fold=0).by == "folds"
    assert SplitConfig(by="folds", fold=0).folds == 5
    with pytest.raises(UserError, match=r"data.split.folds=3 does not say which fold(?s:.*)Add -m"):
        prepare([spike_trials()], DataConfig(split=SplitConfig(folds=3)))
    with pytest.raises(UserError, match=r"data.split.folds=3 was given together with data.split.by=every"):
        SplitConfig(by="every", folds=3)
    with pytest.raises(UserError, match=r"data.split.untouched=1 is not possible"):
        prepare([spike_trials()], DataConfig(split=SplitConfig(folds=3, fold=0, untouched=1.0)))


def test_every_nth_trial_is_tested_and_the_split_is_labeled():
    session = prepare([spike_trials(20)], DataConfig(split=SplitConfig(by="every", every=5, offset=2)))[0]
    assert session.test.table["trial"].tolist() == [2, 7, 12, 17]
    assert len(session.validation) == 3
    assert len(session.train) == 13
    assert any("slow drift is shared" in note for note in session.notes)


def test_listed_trials_are_rows_of_the_file_also_where_others_are_left_out():
    recording = spike_trials(10)
    recording.trials.loc[3, "start_s"] = np.nan
    split = SplitConfig(by="list", test_trials=[9, 4], validation_trials=[0])
    session = prepare([recording], DataConfig(split=split))[0]
    assert session.test.table["trial"].tolist() == [4, 9]
    assert session.train.table["trial"].tolist() == [1, 2, 5, 6, 7, 8]
    assert any("start or stop is NaN" in note for note in session.notes)


def test_training_trials_that_overlap_test_trials_are_left_out():
    session = prepare([spike_trials(20, every_s=1.0, length_s=1.5)], DataConfig(split=SplitConfig(by="every")))[0]
    tested = session.test.table[["start_s", "stop_s"]].to_numpy()
    for start, stop in session.train.table[["start_s", "stop_s"]].to_numpy():
        assert not ((tested[:, 0] < stop) & (tested[:, 1] > start)).any()
    assert any("overlapping" in note for note in session.notes)


def test_the_automatic_gap_covers_window_smoothing_and_memory():
    rng = np.random.default_rng(0)
    memory, white = np.zeros((4000, 20)), rng.normal(size=(4000, 20))
    for t in range(1, 4000):
        memory[t] = 0.95 * memory[t - 1] + white[t]  # falls to 1/e in 19.5 bins

    def gap(values: np.ndarray, **config: float) -> float:
        session = prepare([from_arrays(values)], DataConfig(**config), window_bins=7)[0]
        return float(session.test.start[0] - session.validation.stop[-1])

    assert gap(white) == 8  # the window and one bin
    assert 7 + 15 <= gap(memory) <= 7 + 24
    assert gap(1e-9 * memory) == gap(memory)  # volts as well as microvolts
    assert gap(white, smoothing_s=2.0, causal_smoothing=True) == 7 + 6 + 1
    drift = np.cumsum(white, axis=0)
    session = prepare([from_arrays(drift)], DataConfig())[0]
    assert session.test.start[0] - session.validation.stop[-1] == 200  # 5 % of the data
    assert any("capped at 5 %" in note for note in session.notes)


def test_autocorrelation_ignores_what_was_not_seen():
    rng = np.random.default_rng(0)
    values, seen = rng.normal(size=(300, 3)), (rng.random(300) < 0.7).astype(float)
    values[seen == 0] = 1e6
    found, pairs = mean_autocorrelation(values, seen)
    there = np.where(seen[:, None] > 0, values, np.nan)
    z = (there - np.nanmean(there, 0)) / np.nanstd(there, 0)
    for lag in (0, 1, 5):
        products = z[: 300 - lag] * z[lag:]
        assert pairs[lag] == np.isfinite(products[:, 0]).sum()
        assert found[lag] == pytest.approx(np.nanmean(products), abs=1e-6)


def changed(recording: Recording, first_bin: int) -> Recording:
    """Return the recording with other activity from a bin on."""
    assert isinstance(recording.activity, BinnedTrials)
    values = recording.activity.values.copy()
    values[first_bin:] = np.random.default_rng(99).poisson(50, values[first_bin:].shape)
    return replace(recording, activity=replace(recording.activity, values=values))


@pytest.mark.parametrize("smoothing_s", [0.0, 4.0])
def test_the_training_side_does_not_depend_on_other_data(smoothing_s: float):
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.linspace(0, 1, 30), (1000, 30)).astype(np.uint8)
    counts[:700, 5] = 0  # fires in the test data only: silent for whoever may look
    config = DataConfig(smoothing_s=smoothing_s, bin_width_s=1.0, minimum_rate_hz=0.2)
    recording = from_arrays(counts)
    one = prepare([recording], config, window_bins=5)[0]
    two = prepare([changed(recording, int(one.validation.start[0]))], config, window_bins=5)[0]
    assert "5" not in one.layout.unit_ids
    assert one.layout == two.layout
    np.testing.assert_array_equal(one.train.flat, two.train.flat)
    np.testing.assert_array_equal(one.train.activity[one.train.flat], two.train.activity[two.train.flat])
    assert not np.array_equal(one.test.activity[one.test.flat], two.test.activity[two.test.flat])


def test_smoothing_does_not_cross_a_cut_without_gap():
    counts = np.random.default_rng(0).poisson(2, (500, 4))
    config = DataConfig(smoothing_s=5.0, split=SplitConfig(gap_s=0.0))
    one = prepare([from_arrays(counts)], config)[0]
    counts[one.train.stop[-1] :] += 7
    two = prepare([from_arrays(counts)], config)[0]
    np.testing.assert_array_equal(one.train.activity[one.train.flat], two.train.activity[two.train.flat])
    assert any("looks ahead" in note for note in one.notes)


def test_held_out_units_are_drawn_from_the_seed_or_named_by_row():
    counts = np.random.default_rng(0).poisson(1, (500, 20))
    counts[:, 3] = 0
    recording = from_arrays(counts, regions=["b", "a"] * 10)

    def held(wanted: object, seed: int = 0) -> tuple[int, ...]:
        config = DataConfig(split=SplitConfig(held_out_units=wanted, seed=seed))
        return prepare([recording], config)[0].layout.held_out

    assert len(held(0.25)) == 5
    assert held(0.25) == held(0.25)
    assert held(0.25) != held(0.25, seed=1)
    # Rows of the file: 0 and 4 are the first and third unit of region b; 3 was silent; 5 is in region a.
    assert held([0, 3, 4, 5]) == (0, 2, 11)


def drift_r2(seed: int, split: SplitConfig) -> float:
    """Decode one slow drift from ten others that have nothing to do with it."""
    rng = np.random.default_rng(seed)
    bins, memory = 6000, 2000.0  # Ornstein-Uhlenbeck; the session is three memories long
    noise = rng.normal(size=(bins, 11)) * np.sqrt(2 / memory)
    noise[0] = rng.normal(size=11)
    drifts = lfilter([1.0], [1.0, -(1 - 1 / memory)], noise, axis=0)
    trials = [drifts[a : a + 50] for a in range(0, bins, 50)]
    recording = from_arrays([t[:, :10] for t in trials], {"target": [t[:, 10] for t in trials]})
    session = prepare([recording], DataConfig(split=split))[0]

    def of(part: Trials) -> tuple[np.ndarray, np.ndarray]:
        return part.activity.numpy()[part.flat], part.behavior["target"].numpy()[part.flat, 0]

    return float(r2_score(of(session.test)[1], Ridge(1.0).fit(*of(session.train)).predict(of(session.test)[0])))


def test_drift_canary():
    blocks = [drift_r2(seed, SplitConfig()) for seed in range(20)]
    interleaved = [drift_r2(seed, SplitConfig(by="every")) for seed in range(20)]
    assert np.median(blocks) <= 0.1
    assert np.median(interleaved) > 0.6  # the canary sings: the same data deceive an interleaved split


def test_segments_of_a_continuous_recording_can_be_interleaved():
    recording = from_arrays(np.random.default_rng(0).poisson(1, (1000, 3)))
    session = prepare([recording], DataConfig(segment_s=50.0, split=SplitConfig(by="every", every=4)))[0]
    assert session.test.table["trial"].tolist() == [0, 4, 8, 12, 16]
    with pytest.raises(UserError, match=r"data\.segment_s"):
        prepare([recording], DataConfig(split=SplitConfig(by="every")))
