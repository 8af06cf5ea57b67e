"""What is wrong in every job of a sweep is said before the first one; a folder that is odd harms nothing."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lvmzoo import sweep_job
from lvmzoo.cli import main
from lvmzoo.errors import UserError
from lvmzoo.sweep_end import conclude
from lvmzoo.sweep_folder import Sweep, job_lock, job_numbers, outcomes_in, working_lock, write_outcome
from lvmzoo.sweep_watch import watching

SEARCH = ["hydra/sweeper=search", "model=factor_analysis", "model.latents=range(1,3)"]
REFUSED = {
    "a setting of a run": (["trainer.max_epochs=-3", "seed=0,1"], "trainer.max_epochs=-3 is not possible"),
    "a setting of a model": (["model=lds,gpfa", "model.latents=-3"], "model.latents is -3"),
    "values that are all wrong": (["model=pca", "model.latents=-3,-4"], "model.latents is -3"),
    "no time": (["time_limit_s=0", "seed=0,1"], "time_limit_s=0 is not possible"),
    "time below zero": (["time_limit_s=-1", "seed=0,1"], "time_limit_s=-1 is not possible"),
    "one fold": (["data.split.folds=1"], "data.split.folds=1 is not possible"),
    "a run that is resumed": (["resume=runs/x", "seed=0,1"], "resume=runs/x does not go with -m"),
    "a file that one job lacks": (["data=arrays", "data.path=a.npz,b.npz"], "There is no file 'b.npz'"),
    "more tasks than devices": (
        ["hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2", "seed=0,1"],
        "hydra.launcher.tasks_per_node=2 does not go with trainer.devices=1",
    ),
    "a setting of a search": ([*SEARCH, "hydra.sweeper.n_trial=3"], "Did you mean 'hydra.sweeper.n_trials'?"),
    "a search of nothing": ([*SEARCH, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 is not possible"),
    "a search for the highest": ([*SEARCH, "hydra.sweeper.direction=maximize"], "direction=maximize is not possible"),
    "a search without a setting": ([*SEARCH, "seed=???"], "The setting seed is missing"),
    "a search of a path to nothing": ([*SEARCH, "data.path=${data.nothing}"], "refers to something that is not there"),
    "a path that is too long": ([*SEARCH, f"data.path={'x' * 300}.nwb"], "is no path"),
    "a home of nobody": (["data.path='~nobodys/a.nwb'", "seed=0,1"], "is no path"),
    "a search by nobody": ([*SEARCH, "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs=0 is not possible"),
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_for_every_job_is_said_at_once(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = REFUSED[name]
    (place / "a.npz").touch()
    assert main(["train", "-m", "data=lds", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "_target_" not in err
    assert not (place / "runs").exists()


def swept(output: Path, *jobs: str) -> Sweep:
    return Sweep(output, ["seed=0,1"], [[job] for job in jobs])


def done(sweep: Sweep, number: int, **more: Any) -> None:
    known = {"job": number, "overrides": [f"seed={number}"], "status": "done", "code": 0, "error": [], "seconds": 1.0}
    write_outcome(sweep.folder, known | {"model": "pca", "folder": "", "scores": []} | more)


def test_the_folder_of_a_run_may_be_named_like_an_outcome(place: Path) -> None:
    sweep = swept(place, "seed=0")
    done(sweep, 0)
    (sweep.folder / "job-0-a.json").mkdir()
    (sweep.folder / "job-1.json").mkdir()
    assert job_numbers(sweep.folder) == [0]
    assert sweep.code == 0


def test_a_damaged_outcome_is_said_in_three_lines_and_ends_no_watching(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = swept(place, "seed=0", "seed=1")
    with watching(sweep, None):
        (sweep.folder / "job-0.json").write_text('{"job": 0')
        (sweep.folder / "job-x.json").write_text("{}")
        done(sweep, 1)
        time.sleep(1.5)
    said = capsys.readouterr().err
    assert "Job 1 done" in said
    assert "Traceback" not in said
    with pytest.raises(UserError) as error:
        outcomes_in(sweep.folder)
    assert str(error.value).count("It is damaged") == 1


def test_jobs_that_nobody_looks_after_are_settled(place: Path) -> None:
    sweep = swept(place, "seed=0", "seed=1", "seed=2", "seed=3")
    for number, status in enumerate(("done", "running", "ending", "running")):
        done(sweep, number, status=status)
    with job_lock(sweep.folder, 3):  # somebody does, elsewhere
        sweep.settle(wait_s=0.1)
    assert [outcome["status"] for outcome in outcomes_in(sweep.folder)] == ["done", "failed", "failed", "running"]
    assert "killed" in outcomes_in(sweep.folder)[1]["error"][0]
    sweep.stop(15)
    with working_lock(sweep.folder, 3):  # its process is still at work
        sweep.settle(wait_s=0.1)
        assert outcomes_in(sweep.folder)[3]["status"] == "running"
    sweep.settle(wait_s=0.1)
    assert [outcomes_in(sweep.folder)[3][key] for key in ("status", "code")] == ["stopped", 143]


def test_a_folder_that_disappears_is_said_and_not_made_anew(place: Path) -> None:
    sweep = swept(place, "seed=0", "seed=1")
    done(sweep, 0)
    sweep.folder.rename(place / "elsewhere")
    with pytest.raises(UserError, match="is gone"):
        done(sweep, 1)
    assert not sweep.folder.exists()
    sweep.folder.mkdir()  # as Hydra does for the next job
    with pytest.raises(UserError, match="is gone"):
        done(sweep, 1)
    assert sweep.code == 1
    sweep.close()
    assert not sweep.folder.exists()


def test_a_search_says_that_its_study_is_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "runs").mkdir()
    (place / "runs/search.db").write_text("no database")
    assert main(["train", "-m", "data=lds", *SEARCH, "hydra/sweeper=search_stored"]) == 2
    assert "sqlite:///runs/search.db, which is damaged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said(place: Path) -> None:
    sweep = swept(place, "seed=0")
    done(sweep, 0)
    sweep.close()
    (sweep.folder / ".lock").unlink()
    (sweep.folder / ".lock").mkdir()
    with pytest.raises(UserError, match="The folder of the sweep cannot be written"):
        swept(place, "seed=0")


def test_what_was_asked_may_be_anything_in_the_folders_of_others(place: Path) -> None:
    (place / "sweep-0").mkdir()
    (place / "sweep-0/sweep.json").write_bytes(b"\xff\xfe")
    assert not swept(place, "seed=0").continued


def test_a_finished_sweep_that_is_said_again_writes_no_page(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr("lvmzoo.sweep_end.present", lambda folder, outcomes: written.append(folder))
    sweep = swept(place, "seed=0")
    done(sweep, 0)
    conclude(sweep, "lvmzoo train -m")
    assert written == [sweep.folder]
    page = sweep.folder / "leaderboard.html"
    page.touch()
    conclude(sweep, "lvmzoo train -m")
    said = capsys.readouterr().out
    assert len(written) == 1
    assert f"Leaderboard: {page}" in said
    assert "1 of 1 runs done" in said
    os.utime(page, (1, 1))
    conclude(sweep, "lvmzoo train -m")
    assert len(written) == 2


def test_a_disk_that_is_full_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: Any, task: Any) -> None:
        raise UserError("It failed.", "", "") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lvmzoo.sweep_command.call_hydra", refused)
    assert main(["train", "-m", "data=lds", "model=pca", "seed=0,1"]) == 2
    assert "There is no space left for what becomes of the jobs in runs/sweep-" in capsys.readouterr().err


class Ended:
    """A process that ends between a look at it and a signal."""

    pid = 2**22 + 1  # that no system gives

    def __init__(self) -> None:
        self.looks = iter([True, True, False])

    def is_alive(self) -> bool:
        return next(self.looks)

    def join(self, timeout: float | None = None) -> None:
        """Wait for nothing."""

    kill = join


def test_a_job_that_ends_while_it_is_stopped_was_stopped() -> None:
    process: Any = Ended()
    assert sweep_job._wait(process, None, lambda: signal.SIGTERM) == "It was stopped with the sweep."


def test_the_last_words_of_a_log_are_read_from_its_end(place: Path) -> None:
    log = place / "job-0.log"
    log.write_bytes(b"x" * 10_000_000 + b"\n\xff the last words \n\n")
    assert sweep_job._cause(1, log).endswith("the last words")
    assert len(sweep_job._end_of(log)) <= sweep_job.LAST_BYTES


def test_a_disk_that_is_full_ends_no_run_by_its_progress(place: Path) -> None:
    live = sweep_job._Live(place / "nowhere" / ".job-0.live")
    live.say("half of it")
    live.emit(logging.LogRecord("lvmzoo", logging.INFO, "", 0, "half of it", None, None))
    assert not live._path.exists()
