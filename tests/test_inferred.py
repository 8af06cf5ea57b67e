"""What a run infers comes with the right times, and into xarray and pynapple as their users expect."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lvmzoo import Estimator, UserError, from_arrays, load
from lvmzoo.batch import Kind
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.data.recording import Recording, Signal
from lvmzoo.inferred import Inferred, infer
from lvmzoo.models.single_region.lds import LDSConfig
from lvmzoo.train import train

BIN_S = 0.05
RANDOM = np.random.default_rng(0)


def spiking(session: str = "monday", trials: pd.DataFrame | None = None, **options: Any) -> Recording:
    """Return 20 s of 8 units in two regions, their ids out of order, and behavior."""
    times = [np.sort(RANDOM.uniform(100, 120, 200)) for _ in range(8)]
    heading = np.mod(np.linspace(0, 12, 400), 2 * np.pi)
    behavior = {
        "hand": Signal(RANDOM.normal(size=(400, 2)).cumsum(0), start_s=100.0, rate_hz=20.0, unit="meters"),
        "heading": Signal(heading, start_s=100.0, rate_hz=20.0, kind=Kind.CIRCULAR, unit="radians"),
    }
    return Recording.from_spike_times(
        session,
        times,
        regions=["M1", "PMd"] * 4,
        unit_ids=[str(i) for i in (7, 0, 3, 5, 1, 2, 4, 6)],
        start_s=100.0,
        stop_s=120.0,
        trials=trials,
        behavior=behavior,
        **options,
    )


def table(*bounds: tuple[float, float], **columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"start_s": [a for a, _ in bounds], "stop_s": [b for _, b in bounds], **columns})


TRIALS = table((101.0, 102.0), (102.5, 104.0), (105.03, 106.0), (107.0, 108.5))


def fitted(*recordings: Recording, **data: Any) -> Estimator:
    trainer = {"max_epochs": 3, "progress": False}
    model = Estimator("factor_analysis", latents=2, trainer=trainer, data={"bin_width_s": BIN_S, **data})
    return model.fit(recordings[0])


@pytest.fixture(scope="module")
def model() -> Estimator:
    return fitted(spiking(trials=TRIALS))


def test_latents_are_those_of_transform_at_the_centers_of_their_bins(model: Estimator) -> None:
    recording = spiking(trials=TRIALS)
    inferred = model.infer(recording)
    trials = model.transform(recording)
    np.testing.assert_allclose(inferred.latents, np.concatenate(trials), atol=1e-5)
    for row, (start, latents) in enumerate(zip(TRIALS["start_s"], trials, strict=True)):
        np.testing.assert_allclose(
            inferred.time_s[inferred.trial == row], start + BIN_S * (np.arange(len(latents)) + 0.5)
        )
    assert inferred.session == "monday"


def test_rates_are_in_hz_and_in_the_order_of_the_recording(model: Estimator) -> None:
    recording = spiking(trials=TRIALS)
    inferred = model.infer(recording)
    assert list(inferred.units["id"]) == list(recording.units["id"])
    assert inferred.rates_unit == "Hz"
    batch = model._trials(recording).batch()
    expected = model.run_.model.rates(batch)[batch.valid].numpy() / BIN_S
    order = [model.run_.model.layouts["monday"].unit_ids.index(unit) for unit in inferred.units["id"]]
    np.testing.assert_allclose(inferred.rates, expected[:, order], rtol=1e-4, atol=1e-4)


def test_decoded_behavior_is_that_of_predict(model: Estimator) -> None:
    recording = spiking(trials=TRIALS)
    inferred, predicted = model.infer(recording), model.predict(recording)
    assert {name: found.unit for name, found in inferred.behavior.items()} == {"hand": "meters", "heading": "radians"}
    for name, found in inferred.behavior.items():
        np.testing.assert_allclose(found.values, np.concatenate(predicted[name]), rtol=1e-3, atol=1e-4)


def test_a_model_that_decodes_is_asked_itself() -> None:
    activity = RANDOM.normal(size=(400, 6)).cumsum(0)
    hand = activity[:, :2] + RANDOM.normal(size=(400, 2))
    model = Estimator("psid", latents=2, relevant=2, horizon_bins=3, bin_width_s=BIN_S).fit(activity, {"hand": hand})
    inferred = model.infer(activity)
    np.testing.assert_allclose(inferred.behavior["hand"].values, model.predict(activity), rtol=1e-4, atol=1e-4)
    assert inferred.rates_unit == ""


def test_what_was_not_recorded_is_nan(model: Estimator) -> None:
    counts = RANDOM.poisson(1.0, (100, 5)).astype(float)
    counts[40:50] = np.nan
    inferred = Estimator("factor_analysis", latents=2, bin_width_s=BIN_S).fit(counts).infer(counts)
    gap = np.isnan(inferred.latents).all(1)
    np.testing.assert_array_equal(np.flatnonzero(gap), np.arange(40, 50))
    assert np.isnan(inferred.rates[gap]).all()
    assert np.isfinite(inferred.rates[~gap]).all()


def test_units_that_the_recording_lacks_have_no_rates(model: Estimator) -> None:
    whole = spiking(trials=TRIALS)
    spikes = [whole.activity.unit(row) for row in range(6)]
    fewer = Recording.from_spike_times(
        "tuesday", spikes, regions=["M1", "PMd"] * 3, unit_ids=list(whole.units["id"])[:6], start_s=100.0,
        stop_s=120.0, trials=TRIALS,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="lacks 2 of 8 units"):
        inferred = model.infer(fewer)
    assert inferred.rates.shape[1] == 6
    assert inferred.behavior["hand"].unit == ""
    assert inferred.origin["training data"].startswith("no")


def test_where_trials_overlap_each_moment_is_kept_once() -> None:
    recording = spiking(trials=table((101.0, 103.0), (102.0, 104.0), (102.5, 103.5), (110.0, 111.0)))
    inferred = fitted(recording).infer(recording)
    assert len(inferred.time_s) == 120
    kept = inferred.in_order()
    expected = np.concatenate([101 + BIN_S * (np.arange(60) + 0.5), 110 + BIN_S * (np.arange(20) + 0.5)])
    np.testing.assert_allclose(kept.time_s, expected)
    assert list(np.unique(kept.trial)) == [0, 1, 3]


def test_the_session_has_to_be_clear() -> None:
    two = [spiking("monday"), spiking("tuesday")]
    plan = Experiment(
        LDSConfig(latents=2, initialization="factor_analysis"),
        DataConfig(bin_width_s=BIN_S, split=SplitConfig(validation=0.0, test=0.0)),
        TrainerConfig(max_epochs=2, progress=False),
    )
    run = train(plan, two, write=False)
    assert infer(run, two[1]).session == "tuesday"
    other = dataclasses.replace(two[0], session="friday")
    with pytest.raises(UserError, match="none is named 'friday'"):
        infer(run, other)
    assert infer(run, other, "monday").session == "monday"
    with pytest.raises(UserError, match="session 'mnday'"):
        infer(run, other, "mnday")


def test_it_says_where_it_comes_from(model: Estimator, tmp_path: Path) -> None:
    recording = spiking(trials=TRIALS)
    assert model.infer(recording).origin["run"] == "in memory"
    model.save(tmp_path / "kept")
    origin = load(tmp_path / "kept").infer(recording).origin
    assert origin["run"] == "kept"
    assert hashlib.sha256((tmp_path / "kept" / "config.yaml").read_bytes()).hexdigest() in origin["settings"]
    assert model.infer(recording).origin["settings"] == origin["settings"]
    assert origin["citation"].endswith("https://doi.org/10.1007/BF02293851")
    assert origin["training data"].startswith("in part")


# --- other packages


@pytest.fixture(scope="module")
def inferred(model: Estimator) -> Inferred:
    return model.infer(spiking(trials=TRIALS))


def test_xarray_has_seconds_units_and_trials(inferred: Inferred) -> None:
    xr = pytest.importorskip("xarray")
    data = inferred.to_xarray()
    assert isinstance(data, xr.Dataset)
    assert set(data.data_vars) == {"latents", "rates", "decoded_hand", "decoded_heading"}
    assert data["latents"].dims == ("time", "latent")
    assert data["decoded_heading"].dims == ("time",)
    assert data["time"].attrs["units"] == "s"
    assert data["rates"].attrs["units"] == "Hz"
    second = data["latents"].sel(time=slice(102.5, 104.0))
    assert set(second["trial"].to_numpy()) == {1}
    np.testing.assert_array_equal(second.to_numpy(), inferred.latents[inferred.trial == 1])
    np.testing.assert_array_equal(data["rates"].sel(unit=3).to_numpy(), inferred.rates[:, 2])
    assert str(data["region"].sel(unit=3).item()) == "M1"
    assert data["latents"].groupby("trial").mean().sizes == {"trial": 4, "latent": 2}
    assert data.attrs["model"] == "factor_analysis"


def test_pynapple_has_its_own_types(inferred: Inferred) -> None:
    nap = pytest.importorskip("pynapple")
    data = inferred.to_pynapple()
    assert isinstance(data["latents"], nap.TsdFrame)
    assert isinstance(data["decoded_heading"], nap.Tsd)
    np.testing.assert_allclose(data["latents"].t, inferred.time_s, atol=1e-6)
    np.testing.assert_array_equal(data["latents"].d, inferred.latents)
    np.testing.assert_allclose(data["latents"].time_support.start, TRIALS["start_s"], atol=1e-6)
    lengths = np.bincount(inferred.trial) * BIN_S
    np.testing.assert_allclose(data["latents"].time_support.end, TRIALS["start_s"] + lengths, atol=1e-6)
    assert list(data["rates"].columns) == [7, 0, 3, 5, 1, 2, 4, 6]
    assert list(data["rates"].metadata["region"]) == ["M1", "PMd"] * 4
    inside = data["latents"].restrict(nap.IntervalSet(102.5, 104.0))
    np.testing.assert_array_equal(inside.d, inferred.latents[inferred.trial == 1])


@pytest.mark.filterwarnings("error")
def test_trials_side_by_side_are_one_stretch_of_time() -> None:
    pytest.importorskip("pynapple")
    counts = RANDOM.poisson(1.0, (4, 30, 5))
    model = Estimator("factor_analysis", latents=2, bin_width_s=BIN_S, trainer={"progress": False}).fit(counts)
    latents = model.infer(counts).to_pynapple()["latents"]
    assert len(latents) == 120
    np.testing.assert_allclose(latents.time_support.values, [[0.0, 6.0]])


def test_categories_keep_their_levels() -> None:
    pytest.importorskip("xarray")
    counts = RANDOM.poisson(1.0, (200, 5))
    side = np.where(np.arange(200) % 20 < 10, "left", "right")
    model = Estimator("factor_analysis", latents=2).fit(counts, {"side": side})
    decoded = model.infer(counts).to_xarray()["decoded_side"]
    assert decoded.attrs["levels"] == ["left", "right"]
    assert set(decoded.to_numpy()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", ["xarray", "pynapple"])
def test_a_package_that_is_missing_is_named(inferred: Inferred, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is not installed(.|\n)*pip install 'lvmzoo\[exchange\]'"):
        getattr(inferred, f"to_{name}")()


def test_arrays_have_times_from_zero() -> None:
    counts = RANDOM.poisson(1.0, (3, 10, 4))
    inferred = Estimator("pca", latents=2, bin_width_s=0.1).fit(counts).infer(counts)
    np.testing.assert_allclose(inferred.time_s, 0.1 * (np.arange(30) + 0.5))
    np.testing.assert_array_equal(inferred.trial, np.repeat([0, 1, 2], 10))


def test_several_trials_of_one_recording_stay_apart() -> None:
    recording = from_arrays([RANDOM.poisson(1.0, (n, 4)) for n in (5, 9)], bin_width_s=0.1)
    inferred = Estimator("pca", latents=2).fit(recording).infer(recording)
    np.testing.assert_array_equal(np.bincount(inferred.trial), [5, 9])
