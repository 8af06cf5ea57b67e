"""`lvmzoo transform`: the copy holds what was inferred, at the right times; the original is as it was."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from lvmzoo import Estimator, Recording, load
from lvmzoo.batch import Kind
from lvmzoo.cli import main
from lvmzoo.config import DataConfig
from lvmzoo.data.nwb import read_nwb
from lvmzoo.data.recording import Signal, SpikeTimes
from lvmzoo.data.write_nwb import write_nwb
from lvmzoo.simulate import get

BIN_S = 0.05
SERIES = {
    "ecephys": {"factor_analysis_latents", "factor_analysis_rates"},
    "behavior": {"factor_analysis_decoded_hand_position", "factor_analysis_decoded_hand_velocity"},
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_of(file: Path, folder: Path, **data: Any) -> Path:
    trainer = {"max_epochs": 3, "progress": False}
    model = Estimator("factor_analysis", latents=2, trainer=trainer, data={"bin_width_s": BIN_S, **data})
    return model.fit(file).save(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recording of reaches, and runs on its trials and on all of it."""
    folder = tmp_path_factory.mktemp("world")
    write_nwb(get("reach")(seed=0, trials=16, pmd_units=12, m1_units=8), folder / "reach.nwb")
    run_of(folder / "reach.nwb", folder / "by_trial")
    run_of(folder / "reach.nwb", folder / "session", trials="session")
    return folder


@pytest.fixture(autouse=True)
def at_home(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.delenv("LVMZOO_DEBUG", raising=False)


def read(path: str | Path) -> dict[str, Any]:
    """Return every new series by name, in memory."""
    from pynwb import NWBHDF5IO

    found = {}
    with NWBHDF5IO(str(path), mode="r") as io:
        for module in io.read().processing.values():
            for name, series in module.data_interfaces.items():
                if name.startswith("factor_analysis"):
                    found[name] = {
                        "module": module.name, "data": series.data[:], "unit": series.unit, "rate": series.rate,
                        "start": series.starting_time, "comments": series.comments, "description": series.description,
                        "times": None if series.timestamps is None else series.timestamps[:],
                    }  # fmt: skip
    return found


def bins_of_trials(path: str) -> np.ndarray:
    """Return the centers of the bins of all trials, from the table of the file alone."""
    with h5py.File(path) as file:
        bounds = zip(file["intervals/trials/start_time"][:], file["intervals/trials/stop_time"][:], strict=True)
        return np.concatenate([a + BIN_S * (np.arange(int((b - a) / BIN_S + 1e-3)) + 0.5) for a, b in bounds])


def test_bins_of_trials_have_timestamps(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sha256(Path("reach.nwb"))
    assert main(["transform", "by_trial", "reach.nwb", "--out", "trials.nwb"]) == 0
    assert sha256(Path("reach.nwb")) == before
    found = read("trials.nwb")
    expected = bins_of_trials("reach.nwb")
    for series in found.values():
        np.testing.assert_allclose(series["times"], expected, rtol=0, atol=1e-9)
        assert series["rate"] is None
    model = load("by_trial")
    np.testing.assert_allclose(
        found["factor_analysis_latents"]["data"], np.concatenate(model.transform("reach.nwb")), atol=1e-5
    )
    for name, values in model.predict("reach.nwb").items():
        decoded = found[f"factor_analysis_decoded_{name}"]
        np.testing.assert_allclose(decoded["data"], np.concatenate(values), atol=1e-5)
    printed = capsys.readouterr().out
    assert f"Inferred {len(expected)} bins of 0.05 s in 16 trials from 20 of the 20 units" in printed
    assert "processing/ecephys/factor_analysis_latents" in printed


def test_a_whole_session_has_a_rate(world: Path) -> None:
    assert main(["transform", "session", "reach.nwb", "--out", "session.nwb"]) == 0
    found = read("session.nwb")
    assert {name: series["module"] for name, series in found.items()} == {
        name: module for module, names in SERIES.items() for name in names
    }
    for series in found.values():
        assert series["times"] is None
        assert series["rate"] == pytest.approx(1 / BIN_S)
        assert series["start"] == pytest.approx(BIN_S / 2)
    assert found["factor_analysis_rates"]["unit"] == "Hz"
    assert found["factor_analysis_decoded_hand_velocity"]["unit"] == "m/s"
    np.testing.assert_allclose(
        found["factor_analysis_latents"]["data"], load("session").transform("reach.nwb")[0], atol=1e-5
    )


def test_gaps_of_a_session_are_nan(tmp_path: Path) -> None:
    spikes = [np.sort(np.random.default_rng(i).uniform(0, 20, 300)) for i in range(5)]
    observed = np.array([[0.0, 8.0], [10.0, 20.0]])
    spikes = [times[(times < 8) | (times >= 10)] for times in spikes]
    write_nwb(Recording.from_spike_times("gap", spikes, stop_s=20.0, observed=observed), tmp_path / "gap.nwb")
    run_of(tmp_path / "gap.nwb", tmp_path / "run")
    assert main(["transform", str(tmp_path / "run"), str(tmp_path / "gap.nwb"), "--out", str(tmp_path / "o.nwb")]) == 0
    latents = read(tmp_path / "o.nwb")["factor_analysis_latents"]
    times = latents["start"] + np.arange(len(latents["data"])) / latents["rate"]
    np.testing.assert_array_equal(np.isnan(latents["data"]).all(1), (times > 8) & (times < 10))


def test_the_rest_of_the_copy_is_the_original(world: Path) -> None:
    main(["transform", "by_trial", "reach.nwb", "--out", "rest.nwb"])
    with h5py.File("reach.nwb") as old, h5py.File("rest.nwb") as new:

        def compare(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and name != "identifier" and item.dtype != h5py.ref_dtype:
                np.testing.assert_array_equal(item[()], new[name][()], err_msg=name)

        old["units"].visititems(lambda name, item: compare(f"units/{name}", item))
        for group in ("acquisition", "intervals", "processing", "general", "stimulus"):
            old[group].visititems(lambda name, item, group=group: compare(f"{group}/{name}", item))
        assert old["identifier"][()] != new["identifier"][()]
    a, b = (read_nwb(path, DataConfig()) for path in ("reach.nwb", "rest.nwb"))
    assert set(a.behavior) == set(b.behavior), "what was inferred is not taken for measured behavior"


def test_everything_is_said_about_where_it_comes_from(world: Path) -> None:
    main(["transform", "by_trial", "reach.nwb", "--out", "origin.nwb"])
    for series in read("origin.nwb").values():
        said = series["comments"]
        assert "model: factor_analysis" in said
        assert "run: by_trial" in said
        assert f"sha256 {sha256(Path('by_trial/config.yaml'))}" in said
        assert "software: lvmzoo " in said
        assert "source: reach.nwb" in said
        assert "Rubin DB, Thayer DT (1982)" in said
        assert "bin of 0.05 s, at its center" in series["description"]
    assert "units, by column: 0, 1, 2" in read("origin.nwb")["factor_analysis_rates"]["comments"]


def test_nwbinspector_finds_nothing_that_it_did_not_find_before(world: Path) -> None:
    inspector = pytest.importorskip("nwbinspector")

    def complaints(path: str) -> set[tuple[str, str, str]]:
        found = inspector.inspect_nwbfile(nwbfile_path=path)
        return {(message.check_function_name, message.location, message.message) for message in found}

    for run in ("by_trial", "session"):
        main(["transform", run, "reach.nwb", "--out", f"{run}.nwb"])
        assert complaints(f"{run}.nwb") == complaints("reach.nwb")


def test_a_new_recording_of_the_same_units(world: Path) -> None:
    write_nwb(get("reach")(seed=5, trials=6, pmd_units=12, m1_units=8), world / "tuesday.nwb")
    assert main(["transform", "by_trial", "tuesday.nwb", "--out", "new.nwb"]) == 0
    found = read("new.nwb")
    np.testing.assert_allclose(found["factor_analysis_latents"]["times"], bins_of_trials("tuesday.nwb"), atol=1e-9)
    assert "training data: no" in found["factor_analysis_latents"]["comments"]


def test_two_runs_stand_side_by_side(world: Path) -> None:
    main(["transform", "by_trial", "reach.nwb", "--out", "one.nwb"])
    assert main(["transform", "session", "one.nwb", "--out", "both.nwb"]) == 0
    assert {"factor_analysis_latents", "factor_analysis_2_latents"} <= set(read("both.nwb"))


def test_categories_and_angles(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    trials = pd.DataFrame({"start_s": np.arange(20.0), "stop_s": np.arange(20) + 0.9, "side": ["left", "right"] * 10})
    heading = Signal(np.linspace(0, 6, 400), rate_hz=20.0, kind=Kind.CIRCULAR, unit="radians")
    spikes = [np.sort(random.uniform(0, 20, 300)) for _ in range(5)]
    write_nwb(
        Recording.from_spike_times("sides", spikes, stop_s=20.0, trials=trials, behavior={"heading": heading}),
        tmp_path / "sides.nwb",
    )
    run_of(tmp_path / "sides.nwb", tmp_path / "run", behavior=["side", "heading"])
    assert (
        main(["transform", str(tmp_path / "run"), str(tmp_path / "sides.nwb"), "--out", str(tmp_path / "o.nwb")]) == 0
    )
    found = read(tmp_path / "o.nwb")
    side, angle = found["factor_analysis_decoded_side"], found["factor_analysis_decoded_heading"]
    assert set(side["data"]) <= {0.0, 1.0}
    assert "0: left, 1: right" in side["description"]
    assert angle["data"].ndim == 1
    assert angle["unit"] == "radians"
    assert np.abs(angle["data"]).max() <= np.pi


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["by_trial", "reach.nwb"], "--out"),
        (["by_trial", "reach.nwb", "--out", "out.npz"], "Write out.nwb."),
        (["by_trial", "reach.nwb", "--out", "."], "Write reach_latents.nwb."),
        (["by_trial", "reach.nwb", "--out", ""], "Write reach_latents.nwb."),
        (["by_trial", "reach.nwb", "--out", "folder.nwb", "--overwrite"], "Write folder.nwb/reach_latents.nwb."),
        (["by_trial", "reach.nwb", "--out", f"{'x' * 250}.nwb"], "has 254 bytes"),
        (["by_trial", "[rp][er]*.nwb", "--out", "out.nwb"], "'[rp][er]*.nwb' stands for"),
        (["by_trial", "reach.nwb", "--out", "nowhere/out.nwb"], "mkdir -p nowhere"),
        (["by_trial", "reach.nwb", "--out", "reach.nwb", "--overwrite"], "is the recording itself"),
        (["by_trial", "link.nwb", "--out", "reach.nwb", "--overwrite"], "is the recording itself"),
        (["by_trial", "reach.nwb", "--out", "precious.nwb"], "add --overwrite"),
        (["by_trial", "reech.nwb", "--out", "out.nwb"], "Did you mean 'reach.nwb'?"),
        (["by_trial", "arrays.npz", "--out", "out.nwb"], "lvmzoo.load(RUN).transform(X)"),
        (["by_trial", "precious.nwb", "--out", "out.nwb"], "not an HDF5 file"),
        (["by_trial", "other.nwb", "--out", "out.nwb"], "3 of the 20 units"),
        (["nothing", "reach.nwb", "--out", "out.nwb"], "no finished run in nothing"),
        (["by_trial", "reach.nwb", "--out", "out.nwb", "--session", "recah"], "session 'recah'"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_written(
    world: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "precious.nwb").write_text("precious")
    (world / "folder.nwb").mkdir(exist_ok=True)
    (world / "link.nwb").unlink(missing_ok=True)
    (world / "link.nwb").symlink_to(world / "reach.nwb")
    np.savez(world / "arrays.npz", counts=np.ones((10, 20)))
    if not (world / "other.nwb").exists():
        spikes = [np.array([0.5, 1.5])] * 3
        write_nwb(Recording.from_spike_times("other", spikes, regions=["PMd"] * 3), world / "other.nwb")
    before = {path.name: sha256(path) for path in world.glob("*.n*") if path.is_file()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units that are not there
        assert main(["transform", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert said in "\n".join(lines)
    assert {path.name: sha256(path) for path in world.glob("*.n*") if path.is_file()} == before
    assert not list((world / "folder.nwb").iterdir())


def test_a_folder_that_cannot_be_written_to_is_said_before_the_work(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    monkeypatch.setattr("lvmzoo.transform_command.load_run", lambda _: pytest.fail("work was done"))
    assert main(["transform", "by_trial", "reach.nwb", "--out", "new.nwb"]) == 2
    assert "The folder '.' of --out cannot be written to." in capsys.readouterr().err


def test_odd_names_are_names(world: Path) -> None:
    (folder := world / "sub é [1]").mkdir()
    source = folder / "-a *ü.nwb"
    source.write_bytes((world / "reach.nwb").read_bytes())
    out = folder / f"{'x' * 200} [red].nwb"
    assert main(["transform", "by_trial", str(source), "--out", str(out)]) == 0
    assert sorted(folder.iterdir()) == sorted([source, out])


def test_reordered_and_missing_units_are_matched_by_id(world: Path) -> None:
    recording = get("reach")(seed=0, trials=16, pmd_units=12, m1_units=8)
    main(["transform", "by_trial", "reach.nwb", "--out", "as_is.nwb", "--overwrite"])
    expected = read("as_is.nwb")
    for name, rows in {"mixed": np.random.default_rng(0).permutation(20), "fewer": np.arange(15)}.items():
        parts = [recording.activity.unit(row) for row in rows]
        offsets = np.cumsum([0, *map(len, parts)])
        units = recording.units.iloc[rows].reset_index(drop=True)
        spikes = SpikeTimes(np.concatenate(parts), offsets)
        write_nwb(replace(recording, activity=spikes, units=units, truth={}), world / f"{name}.nwb")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that are not there
            assert main(["transform", "by_trial", f"{name}.nwb", "--out", f"{name}_out.nwb"]) == 0
        found = read(f"{name}_out.nwb")
        rates, latents = found["factor_analysis_rates"]["data"], found["factor_analysis_latents"]["data"]
        assert rates.shape[1] == len(rows)
        assert np.isfinite(latents).all()
        if name == "mixed":
            np.testing.assert_array_equal(latents, expected["factor_analysis_latents"]["data"])
            np.testing.assert_array_equal(rates, expected["factor_analysis_rates"]["data"][:, rows])


def test_a_file_is_replaced_where_it_is_asked_for(world: Path) -> None:
    (world / "old.nwb").write_text("old")
    assert main(["transform", "by_trial", "reach.nwb", "--out", "old.nwb", "--overwrite"]) == 0
    assert read("old.nwb")


def test_a_full_disk_leaves_nothing_behind(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pynwb.NWBHDF5IO.write", fail)
    before = {path.name for path in world.iterdir()}
    assert main(["transform", "by_trial", "reach.nwb", "--out", "full.nwb"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name for path in world.iterdir()} == before
