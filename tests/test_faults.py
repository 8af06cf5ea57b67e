"""What a run survives: signals at every stage, SLURM, changed settings and data, divergence."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lvmzoo.train as training
from lvmzoo.checkpoint import read_checkpoint
from lvmzoo.config import Experiment
from lvmzoo.errors import DivergedError, Interrupted, UserError
from lvmzoo.learners.gradient import GradientLearner
from lvmzoo.models.behavior.contrastive import Contrastive
from lvmzoo.models.single_region.lds import LDS
from lvmzoo.run import Run, load_run, write_experiment
from lvmzoo.signals import Signals, Stopped
from lvmzoo.train import train
from lvmzoo.train_command import train_and_print
from tests.contract import world
from tests.contract.test_every_model import experiment

DATA = world.recording(trials=12)  # seven of them for training


def small(name: str, **trainer: Any) -> Experiment:
    limits = {"max_epochs": 4, "batch_size": 4} if name == "lds" else {"max_steps": 13, "validate_every_steps": 5}
    return experiment(name, **limits, **trainer)


def in_folder(made: Experiment, folder: Path) -> Experiment:
    return dataclasses.replace(made, output=str(folder.parent), name=folder.name)


def at_call(count: int, original: Callable[..., Any], act: Callable[[], Any]) -> Callable[..., Any]:
    """Return a function that acts before its ``count``-th call."""
    calls = 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            act()
        return original(*arguments, **named)

    return called


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same_weights(one: Run, other: Run) -> None:
    state = other.model.state_dict()
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert len(one.history) == len(other.history)


@pytest.fixture(scope="module", autouse=True)
def no_scores() -> Iterator[None]:
    """Leave scoring out: it takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "score_all", lambda evaluations: [])
        patch.setattr(training, "readouts", lambda evaluations: {})
        yield


STAGES: list[tuple[str, Any, str, int]] = [
    ("lds", training, "prepare", 1),
    ("lds", LDS, "prepare", 1),
    ("lds", LDS, "statistics", 6),
    ("lds", LDS, "update", 2),
    ("lds", LDS, "log_likelihood", 2),
    ("lds", training, "score_all", 1),
    ("contrastive", Contrastive, "loss", 8),
    ("contrastive", Contrastive, "loss", 7),  # in the validation after five steps
    ("contrastive", GradientLearner, "optimizer_step", 13),
]


@pytest.fixture(scope="module")
def whole(no_scores: None) -> dict[str, Run]:
    return {name: train(small(name), [DATA], write=False) for name in ("lds", "contrastive")}


@pytest.mark.parametrize(("name", "owner", "method", "count"), STAGES)
def test_a_signal_at_any_stage_loses_nothing(
    name: str,
    owner: Any,
    method: str,
    count: int,
    whole: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, at_call(count, getattr(owner, method), terminated))
        with pytest.raises(Interrupted) as stopped:
            train(in_folder(small(name), folder), [DATA])
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert (stopped.value.folder is None) == (owner is training and method == "prepare")
    if stopped.value.folder is None:
        assert not folder.exists()
        return
    assert f"resume={folder}" in str(stopped.value)
    assert "Stopped" in (folder / "log.txt").read_text()
    resumed = train(dataclasses.replace(small(name), resume=str(folder)), [DATA])
    assert_same_weights(whole[name], resumed)
    assert (folder / "latents.npz").is_file()


def test_a_pass_that_takes_long_is_left_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []

    def long_step(self: LDS, batch: Any) -> None:
        terminated()
        reached.append("the end of the pass")

    monkeypatch.setattr(LDS, "statistics", long_step)
    with pytest.raises(Interrupted):
        train(in_folder(small("lds"), tmp_path / "run"), [DATA])
    assert not reached


def test_what_is_written_as_a_whole_is_finished_before_a_signal_is_honored() -> None:
    signals, done = Signals(), []

    def work() -> None:
        with signals.held():
            terminated()
            done.append("what is held")
        done.append("what comes after it")

    with signals.listening(), pytest.raises(Stopped):
        work()
    assert done == ["what is held"]
    assert signals.received == signal.SIGTERM


def ended_by(act: Callable[[], None]) -> int:
    """Return how a child process that does this ends."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_second_signal_ends_at_once() -> None:
    def twice() -> None:
        signals = Signals()
        with signals.listening(), signals.held():
            terminated()
            terminated()

    assert ended_by(twice) == -signal.SIGTERM


def test_what_a_terminal_and_a_parent_both_send_is_one_wish() -> None:
    def both() -> None:
        with Signals().listening() as signals:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except Stopped:
                terminated()
            os._exit(signals.received or 0)

    assert ended_by(both) == signal.SIGINT


def test_no_handler_of_errors_keeps_a_signal_from_ending_the_run() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(whole: dict[str, Run], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_experiment(in_folder(small("lds"), folder), folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / ".last.ckpt.x.partial").write_bytes(b"as a kill left it")
    resumed = train(dataclasses.replace(small("lds"), resume=str(folder)), [DATA])
    assert_same_weights(whole["lds"], resumed)
    assert not list(folder.rglob("*.partial"))


# SLURM


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return what the fake scontrol of a SLURM job was asked."""
    asked = tmp_path / "asked"
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {asked}\ncat {tmp_path}/state 2>/dev/null; true\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "fit")
    return lambda: asked.read_text().splitlines() if asked.exists() else []


def stopped_in_job(number: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    made = dataclasses.replace(in_folder(small("lds"), folder), data=dataclasses.replace(world.DATA, path="x.npz"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "load", lambda config: [DATA])
        patch.setattr(LDS, "statistics", at_call(6, LDS.statistics, lambda: os.kill(os.getpid(), number)))
        train_and_print(made)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_begins_the_job_again_and_the_run_goes_on(
    number: int,
    slurm: Callable[[], list[str]],
    whole: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "out" / "run"
    with pytest.raises(Interrupted):
        stopped_in_job(number, monkeypatch, folder)
    assert slurm() == ["show job 77", "requeue 77"]
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["progress"]["passes"] == 2
    stopped_in_job(0, monkeypatch, folder)  # the same command; signal 0 is none
    assert_same_weights(whole["lds"], load_run(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_job_that_was_cancelled_is_not_begun_again(
    slurm: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("JobId=77 JobState=CANCELLED Reason=None")
    for number in (signal.SIGTERM, signal.SIGINT):
        with pytest.raises(Interrupted):
            stopped_in_job(number, monkeypatch, tmp_path / f"out{number}" / "run")
    assert slurm() == ["show job 77"]


def test_a_run_that_failed_is_not_gone_on_with(
    slurm: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LDS, "update", lambda self, statistics: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(in_folder(small("lds"), tmp_path / "out" / "run"), [DATA])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run"]


# What changed since a run began


@pytest.fixture(scope="module")
def finished(no_scores: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(in_folder(small("lds"), tmp_path_factory.mktemp("runs") / "run"), [DATA])


def test_a_resumed_run_names_the_settings_that_changed(finished: Run, tmp_path: Path) -> None:
    assert finished.folder is not None
    path = finished.folder / "config.yaml"
    text = path.read_text()
    assert "max_epochs: 4" in text
    path.write_text(text.replace("max_epochs: 4", "max_epochs: 9").replace("seed: 0\noutput", "seed: 3\noutput"))
    try:
        with pytest.raises(UserError, match=r"seed was 0 and is 3; trainer\.max_epochs was 4 and is 9"):
            train(dataclasses.replace(finished.experiment, resume=str(finished.folder)), [DATA])
    finally:
        path.write_text(text)


def test_a_run_is_resumed_by_the_release_that_began_it(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    with pytest.raises(UserError, match=r"was begun with lvmzoo .*; this is lvmzoo 9\.9"):
        train(dataclasses.replace(finished.experiment, resume=str(finished.folder)), [DATA])


def test_a_resumed_run_names_the_file_that_changed_and_how(finished: Run) -> None:
    again = dataclasses.replace(finished.experiment, resume=str(finished.folder))
    behind = dataclasses.replace(DATA, source="monday.npz", behavior={"hand": DATA.behavior["hand"]})
    with pytest.raises(UserError, match=r"session 'arrays' \(monday\.npz\) has other behavior \(16 units, .* then"):
        train(again, [behind])
    with pytest.raises(UserError, match=r"has other activity and split and behavior .*7/.* then, .*6/.* now"):
        train(again, [world.recording(trials=10)])
    with pytest.raises(UserError, match="session 'arrays' is gone; session 'tuesday' is new"):
        train(again, [dataclasses.replace(DATA, session="tuesday")])


def test_a_run_whose_folder_was_moved_goes_on(finished: Run, tmp_path: Path) -> None:
    assert finished.folder is not None
    moved = finished.folder.rename(tmp_path / "elsewhere")
    try:
        again = train(dataclasses.replace(finished.experiment, resume=str(moved)), [DATA])
        assert_same_weights(finished, again)
    finally:
        moved.rename(finished.folder)


# Divergence


def test_divergence_names_step_term_and_learning_rate_and_leaves_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Contrastive.loss

    def exploding(self: Contrastive, batch: Any, step: int) -> Any:
        loss = original(self, batch, step)
        first = next(iter(loss.terms))
        return loss._replace(terms={**loss.terms, first: loss.terms[first] * float("nan" if step == 7 else 1)})

    monkeypatch.setattr(Contrastive, "loss", exploding)
    made = small("contrastive", learning_rate=0.004)
    folder = tmp_path / "run"
    term = next(iter(original(*_first(made)).terms))
    with pytest.raises(DivergedError, match=rf"nan at step 8, in its term '{term}' .*learning rate 0\.004") as said:
        train(in_folder(made, folder), [DATA])
    assert f"{folder}/last_good" in str(said.value)
    left = load_run(folder / "last_good")
    assert all(value.isfinite().all() for value in left.model.parameters())
    assert left.facts["diverged"].startswith("The loss became nan at step 8")
    state = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert all(value.isfinite().all() for value in state["model"].values())


def _first(made: Experiment) -> tuple[Contrastive, Any, int]:
    """Return the arguments of a first call of the loss."""
    found: list[Any] = []

    def kept(self: Contrastive, batch: Any, step: int) -> Any:
        found.append((self, batch, step))
        raise KeyError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contrastive, "loss", kept)
        with pytest.raises(KeyError):
            train(made, [DATA], write=False)
    return found[0]


@pytest.mark.parametrize("how", ["nan", "singular"])
def test_divergence_of_em_names_pass_and_quantity(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = LDS.update

    def bad(self: LDS, statistics: Any) -> Any:
        if how == "singular":
            raise torch.linalg.LinAlgError("not positive-definite")
        return update(self, statistics) * float("nan")

    calls = 0

    def later(self: LDS, statistics: Any) -> Any:
        nonlocal calls
        calls += 1
        return (bad if calls == 3 else update)(self, statistics)

    monkeypatch.setattr(LDS, "update", later)
    said = "log-likelihood of pass 3 " + ("is nan" if how == "nan" else "could not be solved: not positive-definite")
    with pytest.raises(DivergedError, match=said):
        train(in_folder(small("lds"), tmp_path / "run"), [DATA])
    left = load_run(tmp_path / "run" / "last_good")
    assert all(value.isfinite().all() for value in left.model.state_dict().values() if value.is_floating_point())
    assert "pass 3" in json.loads((tmp_path / "run" / "last_good" / "run.json").read_text())["facts"]["diverged"]
