"""NWB files as they come: real ones, and odd ones written by pynwb."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lvmzoo.batch import Kind, Observation
from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.load import describe, load, prepare
from lvmzoo.data.recording import Recording, Signal
from lvmzoo.errors import UserError

Writer = Callable[..., Path]


def read(path: Path, **config: Any) -> Recording:
    return load(DataConfig(path=str(path), **config))[0]


def series(name: str = "x", n: int = 600, rate: float = 10.0, unit: str = "cm", **kwargs: Any) -> Any:
    from pynwb import TimeSeries

    if "timestamps" not in kwargs:
        kwargs |= {"rate": rate, "starting_time": 0.0}
    kwargs.setdefault("data", np.sin(np.arange(n) / 10.0))
    return TimeSeries(name=name, unit=unit, description="d", **kwargs)


def with_behavior(*items: Any) -> Callable[[Any], None]:
    def change(nwbfile: Any) -> None:
        module = nwbfile.create_processing_module("behavior", "d")
        for item in items:
            module.add(item)

    return change


def test_units_keep_region_columns_and_spikes(nwb_path: Writer):
    path = nwb_path()
    recording = read(path, unit_columns={"quality": "good"})
    assert recording.units["region"].tolist() == ["V1", "V2"] * 3
    assert recording.units["quality"].tolist() == ["good"] * 3 + ["mua"] * 3
    with h5py.File(path) as file:
        ends = file["units/spike_times_index"][:].astype(int)
        expected = file["units/spike_times"][ends[2] : ends[3]]
    np.testing.assert_array_equal(recording.activity.unit(3), expected)
    layout = prepare([recording], DataConfig(unit_columns={"quality": "good"}))[0].layout
    assert layout.units == {"V1": 2, "V2": 1}
    assert layout.unit_ids == ("0", "2", "1")


def test_a_recording_stays_on_disk_and_can_be_pickled(nwb_path: Writer):
    recording = read(nwb_path())
    assert not isinstance(recording.activity.times, np.ndarray)
    again = pickle.loads(pickle.dumps(recording))
    np.testing.assert_array_equal(again.activity.unit(2), recording.activity.unit(2))


def test_regions_come_from_electrodes_where_units_have_none(nwb_path: Writer):
    def change(nwbfile: Any) -> None:
        device = nwbfile.create_device("d")
        group = nwbfile.create_electrode_group("g", description="d", location="fallback", device=device)
        for location in ("CA1", "CA1", "CA3", "unknown"):
            nwbfile.add_electrode(group=group, location=location)
        for electrodes in ([0, 1], [2], [1, 2, 0], [3]):
            nwbfile.add_unit(spike_times=np.arange(1.0, 60.0), electrodes=electrodes, electrode_group=group)

    recording = read(nwb_path(change, spikes=False))
    assert recording.units["region"].tolist() == ["CA1", "CA3", "CA1", "fallback"]


def test_trials_epochs_and_tags(nwb_path: Writer):
    def change(nwbfile: Any) -> None:
        nwbfile.add_trial_column("go_time", "time of the go cue")
        nwbfile.add_trial_column("choice", "side")
        for k in range(20):
            nwbfile.add_trial(start_time=3.0 * k, stop_time=3.0 * k + 2, go_time=3.0 * k + 1, choice="lr"[k % 2])
        nwbfile.add_epoch(0.0, 30.0, tags=["task", "early"])
        nwbfile.add_epoch(30.0, 60.0, tags=["late"])

    path = nwb_path(change)
    config = DataConfig(path=str(path), align="go_time", window_s=[-0.5, 0.5], tags=["early"])
    session = prepare(load(config), config)[0]
    every = [*session.train.table["trial"], *session.validation.table["trial"], *session.test.table["trial"]]
    assert max(every) == 9
    assert set(session.train.lengths) == {50}
    assert session.train.table["choice"].tolist()[:4] == ["l", "r", "l", "r"]
    np.testing.assert_allclose(session.train.table["start_s"][:3], [0.5, 3.5, 6.5])
    config = DataConfig(path=str(path), trials="epochs", tags=["late"])
    late = prepare(load(config), config)[0]
    assert late.train.table["start_s"].tolist() == [30.0]
    assert late.test.table["stop_s"].iloc[-1] == pytest.approx(60.0)


def test_behavior_kinds_and_clocks(nwb_path: Writer):
    from pynwb.behavior import CompassDirection, Position, SpatialSeries

    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.03, 2990))
    heading = SpatialSeries(
        name="heading", data=np.mod(50 * times, 360), reference_frame="r", unit="degrees", timestamps=times
    )
    place = SpatialSeries(
        name="SpatialSeries", data=np.stack([times, -times], 1), reference_frame="r", timestamps=times
    )
    path = nwb_path(
        with_behavior(
            CompassDirection(spatial_series=heading),
            Position(name="arena", spatial_series=place),
            series("speed", conversion=2.0),
            series("state", data=np.repeat([3, 5, 4], 200).astype(np.int8), unit="n.a."),
            series("flag", data=np.repeat([True, False], 300), unit="bool"),
        )
    )
    behavior = read(path).behavior
    assert {name: signal.kind for name, signal in behavior.items()} == {
        "heading": Kind.CIRCULAR,
        "arena": Kind.CONTINUOUS,
        "speed": Kind.CONTINUOUS,
        "state": Kind.CATEGORICAL,
        "flag": Kind.CATEGORICAL,
    }
    assert behavior["state"].levels == ("3", "4", "5")
    config = DataConfig(path=str(path), bin_width_s=0.05)
    train = prepare(load(config), config)[0].train
    centers = (np.arange(1200) + 0.5) * 0.05
    inside = train.flat[1:-30]
    error = np.angle(np.exp(1j * (train.behavior["heading"].numpy()[:, 0] - np.deg2rad(50 * centers))))[inside]
    assert np.nanmax(np.abs(error)) < 1e-3
    np.testing.assert_allclose(
        train.behavior["speed"].numpy()[inside, 0],
        np.interp(centers, np.arange(600) / 10, 2 * np.sin(np.arange(600) / 10))[inside],
        atol=1e-5,
    )
    np.testing.assert_allclose(train.behavior["arena"].numpy()[inside, 1], -centers[inside], atol=1e-4)


def test_observation_intervals_become_gaps(nwb_path: Writer):
    def change(nwbfile: Any) -> None:
        for unit in range(3):
            intervals = [[0.0, 20.0], [25.0, 60.0]] if unit < 2 else [[0.0, 20.0], [30.0, 60.0]]
            nwbfile.add_unit(spike_times=np.arange(0.5, 60), obs_intervals=intervals)

    path = nwb_path(change, spikes=False)
    config = DataConfig(path=str(path), bin_width_s=1.0, split=SplitConfig(gap_s=0.0, test=0.1, validation=0.1))
    session = prepare(load(config), config)[0]
    np.testing.assert_array_equal(np.flatnonzero(~session.train.valid.numpy()), np.arange(20, 25))
    assert session.train.missing is not None
    np.testing.assert_array_equal(np.argwhere(session.train.missing.numpy()), [[b, 2] for b in range(25, 30)])


def test_unsorted_and_nan_spike_times_are_repaired_with_a_warning(nwb_path: Writer):
    def change(nwbfile: Any) -> None:
        nwbfile.add_unit(spike_times=np.array([5.0, 1.0, np.nan, 9.0]), location="V1", quality="good")

    path = nwb_path(change)
    with (
        pytest.warns(UserWarning, match="1 spike times are NaN"),
        pytest.warns(UserWarning, match="spike times of 1 units are not sorted"),
    ):
        recording = read(path)
    np.testing.assert_array_equal(recording.activity.unit(6), [1.0, 5.0, 9.0])


def test_trials_without_bounds_or_outside_are_left_out_and_named(nwb_path: Writer):
    def change(nwbfile: Any) -> None:
        for k in range(12):
            nwbfile.add_trial(start_time=4.0 * k, stop_time=np.nan if k == 2 else 4.0 * k + 3)
        nwbfile.add_trial(start_time=500.0, stop_time=503.0)

    config = DataConfig(path=str(nwb_path(change)))
    session = prepare(load(config), config)[0]
    notes = " ".join(session.notes)
    assert "1 of 13 trials were left out: their start or stop is NaN" in notes
    assert "1 of 12 trials were left out: they lie outside the recording" in notes
    assert 2 not in session.train.table["trial"].tolist()


def test_behavior_on_another_clock_is_left_out_with_a_warning(nwb_path: Writer):
    late = series("speed", timestamps=1e6 + np.arange(600) / 10.0)
    with pytest.warns(UserWarning, match="on another clock"):
        assert read(nwb_path(with_behavior(late))).behavior == {}


def test_a_frozen_tracker_is_not_tracking(nwb_path: Writer):
    data = np.cumsum(np.random.default_rng(0).normal(size=(600, 2)), axis=0)
    data[400:] = data[399]
    with pytest.warns(UserWarning, match="taken as not tracked"):
        signal = read(nwb_path(with_behavior(series("position", data=data)))).behavior["position"]
    np.testing.assert_array_equal(np.isnan(signal.values[:, 0]), np.arange(600) >= 399)


def test_series_of_one_name_take_the_name_of_their_container(nwb_path: Writer):
    from pynwb.behavior import BehavioralTimeSeries

    left = BehavioralTimeSeries(time_series=[series("speed")], name="left")
    right = BehavioralTimeSeries(time_series=[series("speed")], name="right")
    assert set(read(nwb_path(with_behavior(left, right))).behavior) == {"left_speed", "right_speed"}


def test_a_series_can_be_the_activity(nwb_path: Writer):
    data = np.random.default_rng(0).normal(size=(600, 5))
    path = nwb_path(with_behavior(series("traces", data=data)), spikes=False)
    with pytest.raises(UserError, match="no units and no fluorescence"):
        read(path)
    recording = read(path, signal="traces")
    assert recording.observation is Observation.CONTINUOUS
    config = DataConfig(path=str(path), signal="traces", bin_width_s=0.1)
    session = prepare(load(config), config)[0]
    # Samples lie at the beginning of their bins; values are taken at the centers, between two samples.
    expected = (data[:-1] + data[1:]) / 2
    np.testing.assert_allclose(session.train.activity.numpy()[:390], expected[:390], rtol=1e-4, atol=1e-5)


def test_ground_truth_of_simulations_is_read(nwb_path: Writer):
    def change(nwbfile: Any) -> None:
        module = nwbfile.create_processing_module("ground_truth", "d")
        module.add(series("latents", data=np.random.default_rng(0).normal(size=(600, 3)), unit="n.a."))

    config = DataConfig(path=str(nwb_path(change)))
    recording = load(config)[0]
    assert recording.behavior == {}
    train = prepare([recording], config)[0].train
    assert train.truth["latents"].shape == (len(train.valid), 3)


def test_several_files_are_several_sessions(nwb_path: Writer, tmp_path: Path):
    nwb_path(name="b.nwb")
    nwb_path(name="a.nwb")
    config = DataConfig(path=str(tmp_path / "*.nwb"))
    assert [s.layout.session for s in prepare(load(config), config)] == ["a", "b"]


def test_head_direction(shared_data: Path):
    path = shared_data / "mouse_head_direction.nwb"
    config = DataConfig(path=str(path), tags=["wake"], regions=["adn"], behavior=["ry"], bin_width_s=0.1)
    recordings = load(config)
    session = prepare(recordings, config)[0]
    assert session.layout.units == {"adn": 7}
    assert session.layout.behavior["ry"].kind is Kind.CIRCULAR
    counts = session.test.activity.numpy()[session.test.flat]
    start = session.test.table["start_s"].iloc[0]
    edges = start + np.arange(len(counts) + 1) * 0.1
    for column, name in enumerate(session.layout.unit_ids):
        times = recordings[0].activity.unit(int(name))
        assert (
            np.abs(counts[:, column].astype(int) - np.histogram(times, edges)[0]).sum() <= 2
        )  # edges but for rounding
    text = describe(path, DataConfig())
    assert "tag wake: 1 (10 min)" in text
    assert "'data.tags=[wake]'" in text


@pytest.mark.parametrize("name", ["rat_linear_track.nwb", "mouse_calcium.nwb", "m1_reach_50ms_moving.npz"])
def test_real_files_are_described_and_prepared(shared_data: Path, name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = DataConfig(path=str(shared_data / name))
        session = prepare(load(config), config)[0]
        text = describe(shared_data / name, config)
    assert session.train.n_bins > session.test.n_bins > 0
    assert "A run would use" in text
    assert f"data.path={shared_data / name}" in text


def test_trials_with_gaps_are_spread_over_their_time_steps(shared_data: Path):
    path = shared_data / "m1_reach_50ms_moving.npz"
    config = DataConfig(path=str(path), split=SplitConfig(by="every"))
    session = prepare(load(config), config)[0]
    with np.load(path) as stored:
        lengths, steps, counts = stored["trial_length_bins"], stored["timestep"], stored["counts"]
        velocity = stored["hand_velocity"]
    begin = np.cumsum(lengths) - lengths
    gaps = 0
    for part in (session.train, session.validation, session.test):
        for trial, first, last in zip(part.table["trial"], part.start, part.stop, strict=True):
            rows = slice(begin[trial], begin[trial] + lengths[trial])
            place = steps[rows] - steps[rows][0]
            valid = part.valid[first:last].numpy()
            np.testing.assert_array_equal(np.flatnonzero(valid), place)
            units = [int(i) for i in session.layout.unit_ids]
            np.testing.assert_array_equal(part.activity[first:last].numpy()[valid], counts[rows][:, units])
            np.testing.assert_array_equal(part.behavior["hand_velocity"][first:last].numpy()[valid], velocity[rows])
            assert np.isnan(part.behavior["hand_velocity"][first:last].numpy()[~valid]).all()
            gaps += int((~valid).sum())
    assert gaps == 1768 - 1731


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_pipes_are_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.nwb")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path / "pipe.nwb")


def test_signal_times_and_intervals():
    signal = Signal(np.zeros(5), start_s=2.0, rate_hz=4.0)
    np.testing.assert_allclose(signal.times(1, 4), [2.25, 2.5, 2.75])
    assert signal.span_s == (2.0, 3.25)
