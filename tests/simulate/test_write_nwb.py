"""A recording that is written comes back, and other people's tools find no fault with the file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from lvmzoo.batch import Kind
from lvmzoo.config import DataConfig
from lvmzoo.data.arrays import from_arrays
from lvmzoo.data.load import prepare
from lvmzoo.data.nwb import read_nwb
from lvmzoo.data.recording import Recording, Signal
from lvmzoo.data.write_nwb import write_nwb
from lvmzoo.errors import UserError
from lvmzoo.simulate import get
from lvmzoo.simulate.lds import lds

from .test_generators import SMALL


def assert_same_signal(found, expected):
    np.testing.assert_array_equal(np.asarray(found.values[:]), np.asarray(expected.values))
    np.testing.assert_allclose(found.times(), expected.times(), rtol=0, atol=1e-9)
    assert (found.kind, found.unit, found.description) == (expected.kind, expected.unit, expected.description)


@pytest.mark.parametrize("name", SMALL)
def test_everything_comes_back(tmp_path, name):
    written = get(name)(seed=2, **SMALL[name])
    write_nwb(written, tmp_path / "out.nwb")
    found = read_nwb(tmp_path / "out.nwb", DataConfig())
    assert found.n_units == written.n_units
    for unit in range(written.n_units):
        np.testing.assert_array_equal(found.activity.unit(unit), written.activity.unit(unit))
    pd.testing.assert_frame_equal(found.units[["id", "region"]], written.units, check_dtype=False)
    assert (found.trials is None) == (written.trials is None)
    if written.trials is not None:
        pd.testing.assert_frame_equal(found.trials, written.trials, check_dtype=False)
    assert (found.start_s, found.stop_s) == (written.start_s, written.stop_s)
    np.testing.assert_array_equal(found.observed, written.observed)
    assert (found.connections is None) == (written.connections is None)
    if written.connections is not None:
        pd.testing.assert_frame_equal(found.connections, written.connections, check_dtype=False)
    assert (found.modes is None) == (written.modes is None)
    if written.modes is not None:
        pd.testing.assert_frame_equal(found.modes, written.modes)
    for one, other in ((found.behavior, written.behavior), (found.truth, written.truth)):
        assert set(one) == set(other)
        for key in other:
            assert_same_signal(one[key], other[key])


@pytest.mark.parametrize("name", SMALL)
def test_nwbinspector_finds_no_fault(tmp_path, name):
    from nwbinspector import Importance, inspect_nwbfile

    write_nwb(get(name)(**SMALL[name]), tmp_path / "out.nwb")
    found = list(inspect_nwbfile(nwbfile_path=str(tmp_path / "out.nwb")))
    grave = [m for m in found if m.importance.value > Importance.BEST_PRACTICE_SUGGESTION.value]
    assert not grave
    # Its list of module names has none for what a simulation knows, and two regions have one connection.
    assert {m.check_function_name for m in found} <= {"check_processing_module_name", "check_single_row"}


def test_a_run_sees_the_same_from_the_file_as_from_the_simulator(tmp_path):
    recording = get("reach")(seed=0, **SMALL["reach"])
    write_nwb(recording, tmp_path / "reach.nwb")
    (one,) = prepare([recording], DataConfig(simulator="reach"))
    (other,) = prepare([read_nwb(tmp_path / "reach.nwb", DataConfig())], DataConfig(path="reach.nwb"))
    assert one.layout == dataclasses.replace(other.layout, session=one.layout.session)
    for part in ("train", "validation", "test"):
        a, b = getattr(one, part), getattr(other, part)
        assert (a.activity == b.activity).all()
        np.testing.assert_array_equal(a.start, b.start)
        for name in ("latents", "rates"):
            np.testing.assert_array_equal(a.truth[name], b.truth[name])


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path, monkeypatch):
    path = tmp_path / "out.nwb"
    path.write_text("precious")
    recording = lds(**SMALL["lds"])
    with pytest.raises(UserError, match="exists already"):
        write_nwb(recording, path)
    assert path.read_text() == "precious"

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pynwb.NWBHDF5IO.write", fail)
    with pytest.raises(OSError, match="disk full"):
        write_nwb(recording, tmp_path / "new.nwb")
    assert [file.name for file in tmp_path.iterdir()] == ["out.nwb"]


def test_names_silence_angles_and_timestamps_come_back(tmp_path):
    angle = np.linspace(0, 6, 50)
    behavior = {
        "heading": Signal(
            angle, timestamps_s=np.sort(np.random.default_rng(0).uniform(0, 5, 50)), kind=Kind.CIRCULAR, unit="radians"
        ),
        "speed": Signal(np.r_[np.nan, angle[1:]], rate_hz=10.0, unit="m/s"),
    }
    trials = pd.DataFrame(
        {"start_s": [0.5, 2.0], "stop_s": [1.5, 4.0], "side": ["left", "right"], "delay_s": [0.1, np.nan]}
    )
    written = Recording.from_spike_times(
        "odd",
        [np.array([0.25, 1.5, 4.0]), np.zeros(0), np.array([2.0])],
        regions=["CA1", "CA3", "CA1"],
        unit_ids=["t1c1", "t1c2", "t2c1"],
        stop_s=5.0,
        trials=trials,
        behavior=behavior,
        observed=np.array([[0.0, 3.0], [3.5, 5.0]]),
    )
    write_nwb(written, tmp_path / "odd.nwb")
    found = read_nwb(tmp_path / "odd.nwb", DataConfig())
    assert list(found.units["unit_name"]) == ["t1c1", "t1c2", "t2c1"]
    assert list(found.units["region"]) == ["CA1", "CA3", "CA1"]
    assert len(found.activity.unit(1)) == 0
    pd.testing.assert_frame_equal(found.trials, trials, check_dtype=False)
    np.testing.assert_array_equal(found.observed, written.observed)
    assert found.behavior["heading"].kind is Kind.CIRCULAR
    np.testing.assert_allclose(found.behavior["heading"].times(), behavior["heading"].timestamps_s)
    np.testing.assert_array_equal(found.behavior["speed"].values[:], behavior["speed"].values)


def test_that_no_region_drives_another_comes_back_too(tmp_path):
    """A table without rows says so; no table says nothing."""
    coupled = get("two_regions")(trials=3, units=2)
    write_nwb(dataclasses.replace(coupled, connections=coupled.connections[:0]), tmp_path / "apart.nwb")
    assert len(read_nwb(tmp_path / "apart.nwb", DataConfig()).connections) == 0
    write_nwb(get("two_regions")(delay_s=0.0, trials=3, units=2), tmp_path / "together.nwb")
    assert read_nwb(tmp_path / "together.nwb", DataConfig()).connections is None


def test_a_continuous_signal_is_written_as_a_series(tmp_path):
    written = lds(observation="gaussian", **SMALL["lds"])
    write_nwb(written, tmp_path / "out.nwb")
    found = read_nwb(tmp_path / "out.nwb", DataConfig(signal="activity"))
    np.testing.assert_array_equal(found.activity.values[:], written.activity.values)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="already binned"):
        write_nwb(from_arrays(np.ones((50, 3))), tmp_path / "out.nwb")
    category = Signal(np.zeros(10), rate_hz=1.0, kind=Kind.CATEGORICAL, levels=("a", "b"))
    recording = dataclasses.replace(lds(**SMALL["lds"]), behavior={"state": category})
    with pytest.raises(UserError, match="'state' is categorical"):
        write_nwb(recording, tmp_path / "out.nwb")
    assert not list(tmp_path.iterdir())
