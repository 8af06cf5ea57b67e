"""Bins hold what np.histogram, direct loops and hand-made cases say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from lvmzoo.batch import Kind, Observation
from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.arrays import from_arrays
from lvmzoo.data.binning import bin_activity, bin_spikes
from lvmzoo.data.grid import make_grid
from lvmzoo.data.load import apply, prepare
from lvmzoo.data.recording import Recording, Signal, SpikeTimes
from lvmzoo.data.resample import resample
from lvmzoo.data.smoothing import smooth


def trains(n_units: int = 5, seconds: float = 50.0, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0, seconds, rng.integers(50, 400)) for _ in range(n_units)]


def test_counts_equal_histogram():
    spikes = trains()
    recording = Recording.from_spike_times("a", spikes, stop_s=50.0)
    grid = make_grid(recording, DataConfig(bin_width_s=0.13))
    counts = bin_spikes(recording.activity, grid, np.arange(5))
    edges = np.arange(grid.total_bins + 1) * 0.13
    expected = np.stack([np.histogram(t, edges)[0] for t in spikes], axis=1)
    expected[-1] = counts[-1]  # numpy closes its last bin at the right
    assert counts.dtype == np.uint8
    np.testing.assert_array_equal(counts, expected)


def test_windows_may_overlap_and_count_spikes_twice():
    spikes = trains()
    events = np.array([5.0, 5.4, 20.0, 31.7])
    trials = pd.DataFrame({"start_s": events - 1, "stop_s": events + 1, "go_time": events})
    recording = Recording.from_spike_times("a", spikes, stop_s=50.0, trials=trials)
    grid = make_grid(recording, DataConfig(bin_width_s=0.05, align="go_time", window_s=[-0.5, 1.0]))
    counts = bin_spikes(recording.activity, grid, np.arange(5)).reshape(4, 30, 5)
    for trial, event in enumerate(events):
        edges = event - 0.5 + np.arange(31) * 0.05
        for unit, times in enumerate(spikes):
            np.testing.assert_array_equal(counts[trial, :, unit], np.histogram(times, edges)[0])


def test_spikes_on_bin_edges_belong_to_the_later_bin():
    # 0.3 / 0.1 is 2.9999999999999996: without a tolerance the spike would fall into bin 2.
    times = np.arange(30) / 10
    recording = Recording.from_spike_times("a", [times], stop_s=3.0)
    grid = make_grid(recording, DataConfig(bin_width_s=0.1))
    np.testing.assert_array_equal(bin_spikes(recording.activity, grid, np.arange(1))[:, 0], np.ones(30))


@pytest.mark.parametrize(("number", "dtype"), [(255, np.uint8), (256, np.int16), (40_000, np.int32)])
def test_counts_take_the_smallest_type_that_holds_them(number: int, dtype: type):
    spikes = [np.array([0.5]), np.full(number, 1.5)]
    recording = Recording.from_spike_times("a", spikes, stop_s=3.0)
    counts = bin_activity(recording, make_grid(recording, DataConfig(bin_width_s=1.0)), np.arange(2)).activity
    assert counts.dtype == dtype
    np.testing.assert_array_equal(counts, [[1, 0], [0, number], [0, 0]])


def test_spike_times_are_read_one_unit_at_a_time():
    class Spy:
        def __init__(self, values: np.ndarray) -> None:
            self.values, self.longest = values, 0

        def __len__(self) -> int:
            return len(self.values)

        def __getitem__(self, rows: slice) -> np.ndarray:
            taken = self.values[rows]
            self.longest = max(self.longest, len(taken))
            return taken

    source = Recording.from_spike_times("a", trains(), stop_s=50.0)
    spy = Spy(source.activity.times)
    grid = make_grid(source, DataConfig())
    bin_spikes(SpikeTimes(spy, source.activity.offsets), grid, np.arange(5))
    assert spy.longest == np.diff(source.activity.offsets).max()


def test_bins_in_gaps_of_the_recording_are_not_valid():
    observed = np.array([[0.0, 2.05], [3.0, 10.0]])
    recording = Recording.from_spike_times("a", [np.linspace(0, 9.9, 100)], stop_s=10.0, observed=observed)
    grid = make_grid(recording, DataConfig(bin_width_s=0.1))
    binned = bin_activity(recording, grid, np.arange(1))
    np.testing.assert_array_equal(np.flatnonzero(~binned.valid), np.arange(20, 30))  # 2.0-2.1 is seen in part only


def test_long_gaps_divide_a_session():
    observed = np.array([[0.0, 5.0], [4000.0, 4005.0]])
    recording = Recording.from_spike_times("a", [np.array([1.0, 4001.0])], stop_s=4005.0, observed=observed)
    assert make_grid(recording, DataConfig(bin_width_s=0.1)).total_bins == 100


def test_traces_are_averaged_over_wide_bins():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 3))
    values[100:140, 1] = np.nan
    signal = Signal(values, start_s=2.0, rate_hz=100.0)
    recording = Recording(
        "a", signal, Observation.CONTINUOUS, from_arrays(np.ones((2, 3))).units, start_s=2.0, stop_s=12.0
    )
    binned = bin_activity(recording, make_grid(recording, DataConfig(bin_width_s=0.2)), np.array([2, 1]))
    expected = values.reshape(50, 20, 3).mean(axis=1)[:, [2, 1]]
    assert binned.missing is not None
    np.testing.assert_array_equal(np.argwhere(binned.missing), [[5, 1], [6, 1]])
    there = ~binned.missing
    np.testing.assert_allclose(binned.activity[there], expected[there], rtol=1e-5)


def behavior_at(signal: Signal, seconds: float = 10.0, width: float = 0.1) -> np.ndarray:
    recording = Recording.from_spike_times("a", [np.array([0.5])], stop_s=seconds, behavior={"x": signal})
    return resample(signal, make_grid(recording, DataConfig(bin_width_s=width)))


def test_continuous_behavior_is_interpolated_at_bin_centers():
    times = -1 + np.cumsum(np.random.default_rng(0).uniform(0.01, 0.03, 620))
    values = np.stack([np.sin(times), times**2], axis=1)
    found = behavior_at(Signal(values, timestamps_s=times))
    centers = (np.arange(100) + 0.5) * 0.1
    expected = np.stack([np.interp(centers, times, values[:, k]) for k in range(2)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_angles_are_interpolated_on_the_circle():
    times = np.arange(0, 10.01, 0.2)
    found = behavior_at(Signal(np.mod(3 * times, 2 * np.pi), timestamps_s=times, kind=Kind.CIRCULAR))[:, 0]
    centers = (np.arange(100) + 0.5) * 0.1
    error = np.angle(np.exp(1j * (found - 3 * centers)))
    assert np.abs(error).max() < 1e-4
    assert found.min() >= 0
    assert found.max() <= 2 * np.pi + 1e-6


def test_untracked_stretches_stay_nan():
    times = np.arange(0, 10, 0.05)
    values = np.ones(200)
    values[60:100] = np.nan  # 3 to 5 s not tracked
    keep = (times < 7) | (times >= 8)  # and no samples at all from 7 to 8 s
    found = behavior_at(Signal(values[keep], timestamps_s=times[keep]))[:, 0]
    centers = (np.arange(100) + 0.5) * 0.1
    lost = ((centers > 2.95) & (centers < 5.0)) | ((centers > 6.95) & (centers < 8.0))
    np.testing.assert_array_equal(np.isnan(found), lost)


def test_categories_hold_until_they_change():
    signal = Signal(
        np.array([0.0, 2.0, np.nan, 1.0]), timestamps_s=np.array([1.0, 3.0, 5.0, 7.0]), kind=Kind.CATEGORICAL
    )
    found = behavior_at(signal)[:, 0]
    np.testing.assert_array_equal(found[10:30], 0.0)
    np.testing.assert_array_equal(found[30:50], 2.0)
    assert np.isnan(found[:10]).all()
    assert np.isnan(found[50:70]).all()
    np.testing.assert_array_equal(found[70:], 1.0)


@pytest.mark.parametrize("causal", [False, True])
def test_smoothing_equals_weights_written_out(causal: bool):
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (60, 3))
    recording = from_arrays(counts)
    grid = make_grid(recording, DataConfig())
    binned = bin_activity(recording, grid, np.arange(3))
    binned.valid[[7, 30]] = False
    found = smooth(binned, [(0, 25), (25, 60)], 2.0, causal).activity
    for first, last in ((0, 25), (25, 60)):
        for t in range(first, last):
            s = np.arange(max(first, t - 6), min(last, t + 1 if causal else t + 7))
            s = s[binned.valid[s]]
            weight = np.exp(-0.5 * ((s - t) / 2.0) ** 2)
            np.testing.assert_allclose(found[t], weight @ counts[s] / weight.sum(), rtol=1e-5)


def test_arrays_keep_trials_missing_samples_and_columns():
    rng = np.random.default_rng(0)
    trials = [rng.normal(size=(n, 4)) for n in (8, 5, 9, 7, 6)]
    trials[1][2, 3] = np.nan
    trials[2][4] = np.nan
    recording = from_arrays(trials, {"speed": [t[:, 0] for t in trials]}, conditions=list("abaab"), bin_width_s=0.1)
    session = prepare([recording], DataConfig(split=SplitConfig(by="list", test_trials=[4], validation_trials=[0])))[0]
    batch = session.train.batch()
    assert list(session.train.table["condition"]) == ["b", "a", "a"]
    assert not batch.observed[0, 2, 3]
    assert batch.observed[0, 2, :3].all()
    assert not batch.valid[1, 4]
    np.testing.assert_allclose(batch.activity[2, :7], trials[3].astype(np.float32))
    np.testing.assert_allclose(batch.behavior["speed"][0, :5, 0], trials[1][:, 0].astype(np.float32))


def test_a_trial_column_can_be_a_variable():
    recording = from_arrays(np.ones((6, 10, 3)) * np.arange(10)[:, None], conditions=["a", "b", "a", "b", "b", "a"])
    session = prepare([recording], DataConfig(behavior=["condition"]))[0]
    assert session.layout.behavior["condition"].levels == ("a", "b")
    batch = session.train.batch()
    np.testing.assert_array_equal(batch.behavior["condition"][:, 0, 0], [0, 1, 0, 1][: batch.n_trials])


def test_new_recordings_are_matched_by_unit_id():
    counts = np.random.default_rng(0).poisson(3, (200, 4))
    fitted = from_arrays(counts, regions=["b", "a", "b", "a"], unit_ids=["u0", "u1", "u2", "u3"])
    layout = prepare([fitted], DataConfig())[0].layout
    assert layout.unit_ids == ("u0", "u2", "u1", "u3")
    new = from_arrays(counts[:50, [3, 0, 1]], regions=["a", "b", "a"], unit_ids=["u3", "u0", "u1"])
    with pytest.warns(UserWarning, match="lacks 1 of 4 units"):
        trials = apply(new, DataConfig(), layout)
    batch = trials.batch()
    np.testing.assert_array_equal(batch.activity[0][:, [0, 2, 3]], counts[:50, [0, 1, 3]])
    assert not batch.observed[..., 1].any()
    assert batch.observed[..., [0, 2, 3]].all()


def test_the_array_of_the_user_is_not_changed():
    counts = np.random.default_rng(0).poisson(3, (50, 2)).astype(np.uint8)
    layout = prepare([from_arrays(counts, unit_ids=["lost", "kept"])], DataConfig())[0].layout
    given = counts.copy()
    with pytest.warns(UserWarning, match="lacks 1 of 2 units"):
        apply(from_arrays(given, unit_ids=["other", "kept"]), DataConfig(), layout)
    np.testing.assert_array_equal(given, counts)


def test_truth_follows_units_and_bins():
    rates = np.random.default_rng(0).uniform(5, 20, (1000, 4))
    recording = Recording.from_spike_times(
        "a",
        trains(4, 100.0),
        regions=["b", "a", "b", "a"],
        stop_s=100.0,
        truth={"rates": Signal(rates, start_s=0.05, rate_hz=10.0, unit="Hz")},
    )
    session = prepare([recording], DataConfig(bin_width_s=0.1))[0]
    np.testing.assert_allclose(session.train.truth["rates"], rates[:, [0, 2, 1, 3]] * 0.1, rtol=1e-5)


def test_segments_share_memory_and_cover_the_part():
    recording = from_arrays(np.random.default_rng(0).poisson(1, (1000, 3)))
    whole = prepare([recording], DataConfig())[0].train
    cut = prepare([recording], DataConfig(segment_s=64.0))[0].train
    assert len(whole) == 1
    assert cut.lengths.max() == 64
    np.testing.assert_array_equal(whole.flat, cut.flat)
    assert cut.activity.dtype == torch.uint8


def test_signals_that_never_change_are_dropped_also_where_samples_are_missing():
    values = np.random.default_rng(0).normal(size=(300, 4))
    values[:, 1] = 3.7
    values[:50, 1] = np.nan
    values[:, 2] = np.nan
    session = prepare([from_arrays(values)], DataConfig())[0]
    assert session.layout.unit_ids == ("0", "3")
    assert any("2 of 4 units were dropped" in note and "1, 2" in note for note in session.notes)
