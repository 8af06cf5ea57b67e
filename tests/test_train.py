"""The one path: run folders, signals, validation, faults."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvmzoo.batch import PairSampling
from lvmzoo.checkpoint import read_checkpoint, write_bytes, write_checkpoint
from lvmzoo.config import LoggerConfig
from lvmzoo.data.module import TrainingData
from lvmzoo.errors import DivergedError, Interrupted, UserError
from lvmzoo.models.single_region.lds import LDS, LDSConfig
from lvmzoo.run import experiment_from_plain, experiment_to_plain, load_run, read_experiment
from lvmzoo.train import train
from tests.contract import world
from tests.contract.test_every_model import experiment


def test_a_run_folder_holds_everything(tmp_path: Path) -> None:
    run = train(dataclasses.replace(experiment("lds"), output=str(tmp_path), report=True), [world.recording()])
    assert run.folder is not None
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {
        "checkpoints", "config.yaml", "history.csv", "latents.npz", "log.txt", "metrics.csv", "metrics.json",
        "model.safetensors", "readouts.safetensors", "report.html", "run.json",
    }  # fmt: skip
    facts = json.loads((run.folder / "run.json").read_text())["facts"]
    assert facts["versions"]["torch"] == torch.__version__
    assert len(facts["fingerprint"]) == 32
    latents = np.load(run.folder / "latents.npz", allow_pickle=False)
    assert run.sessions is not None
    test = run.sessions[0].test
    assert latents["arrays/test/latents"].shape == (test.n_bins, 2)
    assert latents["arrays/test/time_s"][0] == pytest.approx(test.table["start_s"].iloc[0] + 0.025)


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    made = [
        train(
            dataclasses.replace(experiment("lds", max_epochs=1), output=str(tmp_path), name="same"), [world.recording()]
        )
        for _ in range(3)
    ]
    assert sorted(str(run.folder and run.folder.name) for run in made) == ["same", "same-2", "same-3"]


def test_an_experiment_survives_the_way_to_disk_and_back() -> None:
    made = experiment("reduced_rank_regression")
    assert experiment_from_plain(json.loads(json.dumps(experiment_to_plain(made)))) == made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_can_go_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(experiment("lds"), [world.recording()], write=False)
    statistics, calls = LDS.statistics, [0]

    def interrupted(self: LDS, batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == 5:
            os.kill(os.getpid(), number)
        return statistics(self, batch)

    monkeypatch.setattr(LDS, "statistics", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="resume=") as stopped:
        train(dataclasses.replace(experiment("lds"), output=str(tmp_path), name="run"), [world.recording()])
    assert stopped.value.signal == number
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    resumed = train(dataclasses.replace(experiment("lds"), resume=str(tmp_path / "run")), [world.recording()])
    assert len(resumed.history) == len(whole.history)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_resuming_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    first = train(dataclasses.replace(experiment("lds"), output=str(tmp_path), name="run"), [world.recording()])
    again = train(dataclasses.replace(experiment("lds"), resume=str(tmp_path / "run")), [world.recording()])
    assert len(again.history) == len(first.history)
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_the_parameters_kept_are_the_best_on_validation_data(monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(experiment("lds", max_epochs=12), [world.recording(trials=12)], write=False)
    scores = run.history["validation/log_likelihood_per_bin"]
    assert run.sessions is not None
    batch = run.sessions[0].validation.batch()
    kept = float(run.model.log_likelihood(batch).sum() / batch.valid.sum())
    assert kept == pytest.approx(scores.max(), rel=1e-9)
    patient = train(experiment("lds", max_epochs=200, patience=2), [world.recording(trials=12)], write=False)
    best = int(patient.history["validation/log_likelihood_per_bin"].argmax())
    assert len(patient.history) in (best + 3, 200)


def test_the_learning_rate_falls_where_validation_stops_improving() -> None:
    plan = experiment(
        "contrastive", max_steps=60, validate_every_steps=4, learning_rate=0.05, decay=0.5, decay_patience=2
    )
    history = train(plan, [world.recording(trials=12)], write=False).history
    rate, waited, lowest = 0.05, 0, float("inf")
    for loss, used in zip(history["validation/loss"], history["learning_rate"], strict=True):
        assert used == pytest.approx(rate)
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        rate *= 0.5 if waited and waited % 2 == 0 else 1.0
    assert rate < 0.05


def test_divergence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LDS, "update", lambda self, statistics: torch.tensor(float("nan")))
    with pytest.raises(DivergedError, match="pass 1 is nan"):
        train(experiment("lds"), [world.recording()], write=False)


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    run = train(dataclasses.replace(experiment("lds"), output=str(tmp_path)), [world.recording()])
    again = dataclasses.replace(run.experiment, resume=str(run.folder))
    train(again, [world.recording()])
    with pytest.raises(UserError, match="The data are not those"):
        train(again, [world.recording(seed=5)])


def test_what_a_model_cannot_honor_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="lvmzoo"):
        train(experiment("contrastive", max_epochs=3, max_steps=2), [world.recording()], write=False)
    assert "trainer.max_epochs=3 does not limit contrastive" in caplog.text


def test_a_learning_rate_of_zero_is_zero() -> None:
    one, three = (
        train(experiment("contrastive", learning_rate=0.0, max_steps=steps), [world.recording()], write=False).model
        for steps in (1, 3)
    )
    for name, value in one.state_dict().items():
        assert torch.equal(value, three.state_dict()[name]), name


def test_half_precision_is_refused_where_it_would_lose_the_solution() -> None:
    with pytest.raises(UserError, match="bf16"):
        train(experiment("lds", precision="bf16"), [world.recording()], write=False)


def test_a_run_of_a_later_release_says_so(tmp_path: Path) -> None:
    run = train(dataclasses.replace(experiment("lds"), output=str(tmp_path)), [world.recording()])
    assert run.folder is not None
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(UserError, match="format 99"):
        load_run(run.folder)
    (run.folder / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read"):
        load_run(run.folder)
    with pytest.raises(UserError, match="no finished run"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: [", r"config\.yaml, line 1 is not valid YAML"),
        ("unknown: 3\nmodel: {name: lds}", r"config\.yaml cannot be read"),
        ("{}", r"config\.yaml cannot be read"),
    ],
)
def test_settings_that_cannot_be_read_are_the_users_to_mend(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_experiment(tmp_path)


@pytest.mark.parametrize("lost", ["metrics.json", "history.csv", "readouts.safetensors"])
def test_a_run_that_lost_a_file_says_so(lost: str, tmp_path: Path) -> None:
    run = train(experiment("lds"), [world.recording()], write=False)
    (run.save(tmp_path) / lost).unlink()
    with pytest.raises(UserError, match="no finished run"):
        load_run(tmp_path)


def test_tensorboard_gets_the_history(tmp_path: Path) -> None:
    made = dataclasses.replace(experiment("lds"), output=str(tmp_path), logger=LoggerConfig(name="tensorboard"))
    run = train(made, [world.recording()])
    assert run.folder is not None
    assert list((run.folder / "tensorboard").glob("events*"))


def test_an_unknown_logger_is_named() -> None:
    with pytest.raises(UserError, match="Did you mean 'wandb'"):
        LoggerConfig(name="wandbb")


def test_wandb_without_a_network_is_logged_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvmzoo.learners.loggers._online", lambda: False)
    made = dataclasses.replace(experiment("lds"), output=str(tmp_path), logger=LoggerConfig(name="wandb"))
    run = train(made, [world.recording()])
    assert run.folder is not None
    assert list((run.folder / "wandb").glob("offline-run-*"))


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path) == {"step": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, {"step": 1})
    write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path) == {"step": 2}
    write_bytes(path, b"damaged")
    assert read_checkpoint(path) == {"step": 1}
    path.with_name("last.ckpt.previous").unlink()
    with pytest.raises(UserError, match="no usable checkpoint"):
        read_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"step": Path("/")}, path)
    with pytest.raises(UserError, match="no usable checkpoint"):
        read_checkpoint(path)


def test_regions_that_a_model_leaves_out_are_said() -> None:
    pair = world.recording()
    three = dataclasses.replace(pair, units=pair.units.assign(region=["V1"] * 5 + ["M1"] * 4 + ["V2"] * 7))
    plain = experiment("reduced_rank_regression")
    made = dataclasses.replace(plain, model=dataclasses.replace(plain.model, source="V1", target="V2", rank=1))
    for recording, said in ((pair, False), (three, True)):
        sessions = train(made, [recording], write=False).sessions
        assert sessions is not None
        assert any("V1 predicts V2; not used: M1" in note for note in sessions[0].notes) is said


@pytest.mark.parametrize(("latents", "said"), [(2, False), (16, True)])
def test_latents_that_can_copy_every_unit_are_said(latents: int, said: bool) -> None:
    made = dataclasses.replace(experiment("lds", max_epochs=1), model=LDSConfig(latents=latents))
    sessions = train(made, [world.recording()], write=False).sessions
    assert sessions is not None
    assert any("can copy the activity" in note for note in sessions[0].notes) is said


@pytest.mark.parametrize(("latents", "said"), [(2, False), (7, True)])
def test_latents_that_can_copy_every_unit_of_a_region_are_said(latents: int, said: bool) -> None:
    made = experiment("multi_region_lds", max_epochs=1)
    made = dataclasses.replace(made, model=dataclasses.replace(made.model, latents=latents))
    sessions = train(made, [world.recording()], write=False).sessions
    assert sessions is not None
    assert any("7 latents for 7 units of V2 can copy" in note for note in sessions[0].notes) is said


def test_held_out_pairs_that_cannot_be_drawn_are_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    session = world.session()
    first = session.validation.select([0])
    short = dataclasses.replace(first, stop=first.start + 2)
    sampling = PairSampling(0, 1, time_offset_bins=5)
    assert TrainingData([session.train], [first], sampling, 16, 0, shuffle=True).validates()
    with caplog.at_level("WARNING", logger="lvmzoo"):
        assert not TrainingData([session.train], [short], sampling, 16, 0, shuffle=True).validates()
    assert "training goes on without" in caplog.text


@pytest.mark.parametrize(
    ("name", "limits", "said"),
    [
        ("lds", {"max_epochs": 2}, "after 2 passes, its limit"),
        ("lds", {"max_epochs": 500, "tolerance": 1e-3}, ""),
        ("reduced_rank_regression", {"max_epochs": 1}, ""),
        ("neural_ode", {"max_steps": 20, "validate_every_steps": 5}, "after 20 steps, its limit"),
    ],
)
def test_a_fit_that_ends_at_its_limit_says_so(
    name: str, limits: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lvmzoo"):
        train(experiment(name, **limits), [world.recording()], write=False)
    ended = [record.getMessage() for record in caplog.records if "The fit ended" in record.getMessage()]
    assert len(ended) == bool(said)
    assert not said or said in ended[0]
