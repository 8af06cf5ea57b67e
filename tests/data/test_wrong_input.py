"""What a user can get wrong in files, arrays and splits, and the text that must come back.

Each line of the tables was written before the code that answers it: the part of the message that names the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.arrays import from_arrays
from lvmzoo.data.load import load, prepare
from lvmzoo.data.recording import Recording, Signal
from lvmzoo.errors import UserError

Writer = Callable[..., Path]
COUNTS = np.random.default_rng(0).poisson(2.0, (300, 5))


def run(config: DataConfig) -> None:
    prepare(load(config), config)


def refused(action: Callable[[], Any], expected: str) -> UserError:
    with pytest.raises(UserError) as caught:
        action()
    error = caught.value
    assert expected in str(error)
    assert all(line.strip() for line in (error.what, error.why, error.fix))
    return error


# ------------------------------------------------------------------ files


def cut_index(file: h5py.File) -> None:
    index = file["units/spike_times_index"]
    index[2] = index[3] + 1


def short_index(file: h5py.File) -> None:
    file["units/spike_times_index"][-1] -= 5


def external_link(file: h5py.File) -> None:
    file["acquisition/elsewhere"] = h5py.ExternalLink("/etc/hostname", "/x")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("acquisition/raw", (10,), "f8", external=[("/etc/hostname", 0, 80)])


def huge(file: h5py.File) -> None:
    file.create_dataset("analysis/huge", (10**12,), "f8", chunks=(1024,))


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (5,))
    file["analysis"].create_virtual_dataset("virtual", layout)


def unknown_extension(file: h5py.File) -> None:
    group = file["acquisition"].create_group("odd")
    group.attrs["namespace"], group.attrs["neurodata_type"], group.attrs["object_id"] = "ndx-nowhere", "Odd", "1"


BROKEN_FILES = [
    (cut_index, "are corrupt: the index of 'spike_times'"),
    (short_index, "are corrupt: the index of 'spike_times'"),
    (external_link, "a link to '/etc/hostname'"),
    (external_storage, "stored in '/etc/hostname'"),
    (virtual, "put together from other files"),
    (huge, "declares 8000 GB in /analysis/huge"),
    (unknown_extension, "could not be read as NWB: \"'ndx-nowhere' not a namespace\""),
]


@pytest.mark.parametrize(("change", "expected"), BROKEN_FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_files(nwb_path: Writer, change: Callable[[h5py.File], None], expected: str):
    path = nwb_path()
    with h5py.File(path, "r+") as file:
        change(file)
    refused(lambda: run(DataConfig(path=str(path))), expected)


def test_files_that_are_none(tmp_path: Path, nwb_path: Writer):
    (tmp_path / "text.nwb").write_text("not HDF5")
    (tmp_path / "data.mat").write_bytes(b"x")
    (tmp_path / "text.npz").write_text("not a zip")
    good = nwb_path(name="monkey.nwb")
    truncated = tmp_path / "truncated.nwb"
    truncated.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    for path, expected in (
        (tmp_path / "text.nwb", "is not an HDF5 file"),
        (tmp_path / "text.npz", "cannot be read"),
        (tmp_path / "data.mat", "ends in '.mat'"),
        (tmp_path / "monky.nwb", "Did you mean 'monkey.nwb'?"),
        (tmp_path / "*.hdf", "There is no file"),
        (tmp_path, "is a folder"),
        (truncated, "is damaged"),
    ):
        refused(lambda path=path: run(DataConfig(path=str(path))), expected)
    refused(lambda: run(DataConfig(path=[str(good), str(good)])), "twice")
    refused(lambda: run(DataConfig()), "data.path is null")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"regions": ["v1"]}, "Did you mean 'V1'?"),
        ({"unit_ids": ["99"]}, "There is no unit named '99'"),
        ({"unit_columns": {"qualty": "good"}}, "Did you mean 'quality'?"),
        ({"unit_columns": {"quality": "great"}}, "No unit is left of 6"),
        ({"behavior": ["sped"]}, "There is no behavior variable named 'sped'"),
        ({"signal": "dff"}, "There is no series (data.signal)"),
        ({"tags": ["wake"]}, "Tags belong to epochs or trials"),
        ({"trials": "trials"}, "has no trials"),
        ({"trials": "trial"}, "Did you mean 'trials'?"),
        ({"align": "go_time"}, "There is no trial column named 'go_time'"),
        ({"align": "start_s", "window_s": [0.5, -0.5]}, "with before < after"),
        ({"bin_width_s": 0.0}, "data.bin_width_s is 0.0"),
        ({"minimum_rate_hz": 1000.0}, "All 6 units are silent or below"),
        ({"bin_width_s": 100.0}, "holds a bin of 100 s"),
    ],
)
def test_wrong_choices(nwb_path: Writer, config: dict[str, Any], expected: str):
    refused(lambda: run(DataConfig(path=str(nwb_path()), **config)), expected)


def test_units_without_spikes(nwb_path: Writer):
    def no_times(nwbfile: Any) -> None:
        nwbfile.add_unit_column("location", "region")
        nwbfile.add_unit(location="V1")

    def silent(nwbfile: Any) -> None:
        nwbfile.add_unit(spike_times=np.zeros(0))

    refused(lambda: run(DataConfig(path=str(nwb_path(no_times, spikes=False)))), "have no spike_times")
    refused(lambda: run(DataConfig(path=str(nwb_path(silent, name="b.nwb", spikes=False)))), "and no spike")


def test_repeated_unit_ids_are_numbered_with_a_warning(nwb_path: Writer):
    path = nwb_path()
    with h5py.File(path, "r+") as file:
        file["units/id"][3] = 1
    with pytest.warns(UserWarning, match="unit ids repeat"):
        assert load(DataConfig(path=str(path)))[0].units["id"].tolist() == list("012345")


def test_negative_spike_times_are_kept_with_a_warning(nwb_path: Writer):
    path = nwb_path()
    with h5py.File(path, "r+") as file:
        file["units/spike_times"][0] = -3.0
    with pytest.warns(UserWarning, match="spikes begin at -3 s"):
        assert load(DataConfig(path=str(path)))[0].start_s == -3.0


def test_a_series_with_too_few_timestamps_is_left_out_with_a_warning(nwb_path: Writer):
    from pynwb import TimeSeries

    def change(nwbfile: Any) -> None:
        clock = np.arange(100) / 10.0
        nwbfile.add_acquisition(TimeSeries(name="speed", data=np.arange(100.0), unit="cm/s", timestamps=clock))

    path = nwb_path(change)
    with h5py.File(path, "r+") as file:
        attributes = dict(file["acquisition/speed/timestamps"].attrs)
        del file["acquisition/speed/timestamps"]
        clock = file["acquisition/speed"].create_dataset("timestamps", data=np.arange(90) / 10.0)
        clock.attrs.update(attributes)
    with pytest.warns(UserWarning, match="100 samples and 90 timestamps"):
        assert load(DataConfig(path=str(path)))[0].behavior == {}


# ----------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"activity": np.ones(5)}, "The activity has shape (5,)"),
        ({"activity": np.ones((0, 3))}, "The activity has shape (0, 3)"),
        ({"activity": [np.ones((5, 3)), np.ones((5, 4))]}, "not in their number of columns"),
        ({"activity": np.array([["a", "b"]])}, "It must be numbers"),
        ({"activity": np.full((5, 2), np.inf)}, "holds infinite values"),
        ({"activity": COUNTS, "behavior": np.ones(299)}, "Behavior variable 'behavior' has 299 bins"),
        ({"activity": [COUNTS, COUNTS], "behavior": {"x": [np.ones(299), np.ones(301)]}}, "in trials as long as"),
        ({"activity": COUNTS, "regions": ["a"]}, "1 regions were given for 5 units"),
        ({"activity": COUNTS, "unit_ids": list("aabcd")}, "Unit id 'a' occurs more than once"),
        ({"activity": [COUNTS, COUNTS], "conditions": [1]}, "Trial column 'condition' has shape (1,)"),
        ({"activity": COUNTS, "bin_width_s": 0.0}, "bin_width_s is 0.0"),
    ],
)
def test_wrong_arrays(arguments: dict[str, Any], expected: str):
    refused(lambda: from_arrays(**arguments), expected)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"spikes": COUNTS}, "named counts, activity, residuals, observations"),
        ({"counts": COUNTS - 5}, "negative or not whole"),
        ({"counts": COUNTS, "trial_length_bins": np.array([100, 100])}, "adds up to 200 bins and 'counts' has 300"),
        ({"counts": COUNTS[None], "trial_length_bins": np.array([200])}, "trials are shorter"),
        ({"counts": COUNTS, "timestep": np.zeros(300, int)}, "timestep does not ascend"),
        ({"counts": np.array([[1], None], dtype=object)}, "it holds Python objects"),
        ({"counts": COUNTS, "region": np.array(["V1"] * 4)}, "4 regions were given for 5 units"),
    ],
)
def test_wrong_npz(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(lambda: run(DataConfig(path=str(tmp_path / "a.npz"))), expected)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"x": "circle"}, "Did you mean 'circular'?"),
        ({"x": "circular"}, "its values span 999"),
        ({"xy": "circular"}, "has 2 channels"),
        ({"xy": "categorical"}, "has 2 channels"),
        ({"word": "continuous"}, "its levels are a, b"),
        ({"y": "continuous"}, "There is no behavior variable named 'y'"),
    ],
)
def test_wrong_kinds_of_behavior(kinds: dict[str, str], expected: str):
    behavior = {"x": np.linspace(0, 999, 300), "xy": np.ones((300, 2)), "word": ["a", "b"] * 150}
    recording = from_arrays(COUNTS, behavior)
    refused(lambda: prepare([recording], DataConfig(behavior_kinds=kinds)), expected)


def test_spike_times_in_python():
    refused(lambda: Recording.from_spike_times("a", [np.array([1.0, np.nan])]), "NaN or infinite")
    refused(lambda: Recording.from_spike_times("a", [np.array([1.0, 9.0])], stop_s=5.0), "from 1 to 9 s")


def test_degrees_without_a_unit_are_converted_with_a_warning():
    angle = np.linspace(0.0, 359.0, 300)
    with pytest.warns(UserWarning, match="taken as degrees"):
        recording = from_arrays(COUNTS, {"head_direction": angle})
    np.testing.assert_allclose(recording.behavior["head_direction"].values, np.deg2rad(angle), rtol=1e-5)


# ----------------------------------------------------------------- splits


def trials(n: int) -> Recording:
    return from_arrays([COUNTS[:20]] * n)


@pytest.mark.parametrize(
    ("n", "split", "expected"),
    [
        (2, {}, "2 trials cannot be split into 3 parts"),
        (10, {"by": "block"}, "Did you mean 'blocks'?"),
        (10, {"validation": 0.5, "test": 0.5}, "leave no training data"),
        (10, {"test": -0.1}, "not negative"),
        (10, {"gap_s": 1000.0}, "leaves no validation data"),
        (10, {"gap_s": -1.0}, "A gap is not negative"),
        (10, {"by": "folds", "fold": 5}, "data.split.fold=5 of data.split.folds=5 does not exist"),
        (10, {"by": "every", "every": 1}, "every is at least 2"),
        (10, {"by": "every", "every": 5, "offset": 7}, "offset is from 0 to every - 1"),
        (10, {"by": "list"}, "names no trials"),
        (10, {"by": "list", "test_trials": [10]}, "names trial 10, which does not exist"),
        (10, {"by": "list", "test_trials": [1], "train_trials": [1]}, "Trial 1 is named in data.split.train_trials"),
        (2, {"by": "list", "test_trials": [0, 1]}, "leaves no training trials"),
        (10, {"held_out_units": 1.5}, "It is a fraction from 0 to below 1"),
        (10, {"held_out_units": [7]}, "rows of the unit table from 0 to 4"),
        (10, {"held_out_units": [0, 1, 2, 3, 4]}, "holds out every unit"),
    ],
)
def test_wrong_splits(n: int, split: dict[str, Any], expected: str):
    refused(lambda: prepare([trials(n)], DataConfig(split=SplitConfig(**split))), expected)


def test_two_recordings_of_one_name():
    refused(lambda: prepare([trials(5), trials(5)], DataConfig()), "Two recordings are named 'arrays'")


def test_trials_that_are_all_without_bounds():
    table = pd.DataFrame({"start_s": [1.0, 2.0], "stop_s": [np.nan, np.nan]})
    recording = Recording.from_spike_times("a", [np.arange(9.0)], trials=table)
    refused(lambda: prepare([recording], DataConfig()), "No trial of session 'a'")


def test_a_session_too_long_for_its_bins():
    recording = Recording.from_spike_times("a", [np.array([0.0, 1.7e9])] * 3)  # times of the wall clock
    refused(lambda: prepare([recording], DataConfig(bin_width_s=0.001)), "needs")


@pytest.mark.parametrize(
    ("behavior", "advice"),
    [({"speed": np.ones(300)}, "Choose one of the available"), (None, "This recording has no behavior")],
)
def test_advice_on_unknown_behavior_fits_the_recording(behavior: Any, advice: str):
    recording = from_arrays(COUNTS, behavior)
    refused(lambda: prepare([recording], DataConfig(behavior=["heading"])), advice)


def test_behavior_that_is_never_tracked_is_dropped_with_a_note():
    recording = from_arrays(COUNTS, {"x": np.full(300, np.nan)})
    session = prepare([recording], DataConfig())[0]
    assert session.layout.behavior == {}
    assert any("dropped, because it has no value" in note and "x" in note for note in session.notes)


def test_a_signal_faster_than_its_bins_is_said(nwb_path: Writer):
    signal = Signal(np.random.default_rng(0).normal(size=(400, 3)), start_s=0.0, rate_hz=10.0)
    from lvmzoo.batch import Observation

    recording = Recording("a", signal, Observation.CONTINUOUS, trials(3).units.iloc[:3], start_s=0.0, stop_s=40.0)
    with pytest.warns(UserWarning, match=r"Set data\.bin_width_s=0\.1 or more"):
        prepare([recording], DataConfig(bin_width_s=0.02))
