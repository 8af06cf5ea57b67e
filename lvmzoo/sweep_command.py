"""``lvmzoo train -m``: every combination of values, and every fold, each a run; then what they come to."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import Timeout
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lvmzoo.cli import failure
from lvmzoo.comparison_settings import FOLD, flat
from lvmzoo.config import Experiment, SplitConfig
from lvmzoo.context import full
from lvmzoo.data.files import files_of
from lvmzoo.errors import UserError
from lvmzoo.processes import process_number
from lvmzoo.run import experiment_to_plain
from lvmzoo.store import load, parse, to_experiment
from lvmzoo.sweep_checks import check_processes, check_sweep, tasks_of
from lvmzoo.sweep_end import conclude
from lvmzoo.sweep_folder import (
    KEPT,
    Sweep,
    check_there,
    job_lock,
    job_path,
    outcomes_in,
    read_outcome,
    stopped_by,
    write_outcome,
)
from lvmzoo.sweep_job import GRACE_S, attempt, run_job, train_job
from lvmzoo.sweep_study import begin_study, unreadable
from lvmzoo.sweep_watch import watching
from lvmzoo.train_command import call_hydra
from lvmzoo.wrong_config import explain

__all__ = ["run"]

GRID, SEARCH = "BasicSweeper", "OptunaSweeper"  # of Hydra: every combination; values that a search draws
SEVERAL = "JoblibLauncher"  # at a time, on one machine
SAME_S = 2.0  # in which a signal that comes twice, to a process and to its group, is one
FIRST_TASK_S = 300.0  # that the other tasks of a job wait for the first one
_here: int | None = None  # the process that runs the sweep and gets its signals


def run(arguments: Sequence[str], options: argparse.Namespace) -> int:
    """Run every combination and return the exit code: 1 if any failed, 128 + signal if the sweep was stopped.

    Where the split has folds and none is chosen, every fold is run. The same sweep again, in the same output folder,
    runs what is not done there.

    Parameters
    ----------
    arguments : of ``lvmzoo train``.
    options : these arguments as Hydra's parser reads them.

    Raises
    ------
    UserError
        For a configuration that no job could run with.
    """
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")  # Optuna's storage needs release 1
    composed = load(_first_values(options.overrides), options.config_dir, hydra=True)
    folds = _all_folds(composed)
    jobs = _jobs(composed, [*options.overrides, *folds])
    try:
        check_sweep(composed, jobs, options.config_dir)
    except OmegaConfBaseException as error:
        raise explain(error, options.overrides) from error
    if composed.hydra.launcher._target_.endswith(SEVERAL) and composed.trainer.threads is None:
        arguments = [*arguments, "trainer.threads=1"]  # threads of several runs would wait for each other
    extra = list(folds)
    if composed.hydra.sweeper._target_.endswith(SEARCH):
        extra.append("hydra.sweeper.max_failure_rate=1.0")  # else the first failure ends the search
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        logging.getLogger("hydra_plugins").setLevel(logging.ERROR)  # it warns of each run that has no objective
        if said := begin_study(composed, options.overrides):
            print(said)
    sweep = Sweep(Path(composed.output), arguments, jobs)
    quoted = str(sweep.folder).replace("\\", "\\\\").replace("'", "\\'")
    extra.append(f"hydra.sweep.dir='{quoted}'")
    try:
        return _run(sweep, [*arguments, *extra], composed, f"lvmzoo train {shlex.join(arguments)}")
    except Exception as error:
        if full(error) is None:
            raise
        raise UserError(
            f"There is no space left for what becomes of the jobs in {sweep.folder}.",
            "What was written before is whole.",
            "Free some space, then give the same command again.",
        ) from error


def _run(sweep: Sweep, words: Sequence[str], composed: DictConfig, command: str) -> int:
    """Let Hydra run the jobs, and say at the end what became of them; return the exit code."""
    try:
        with _stoppable(sweep), watching(sweep, composed.hydra.sweeper.get("n_trials")):
            call_hydra(words, _job)
    except UserError as error:
        if stopped_by(sweep.folder) is None:  # else the launcher's own processes got the signal, too
            raise _explained(error, sweep, composed) from error.__cause__
    finally:
        if sweep.started:
            sweep.settle(GRACE_S)
            conclude(sweep, command)
        code = sweep.code
        sweep.close()
    return code


def _explained(error: UserError, sweep: Sweep, composed: DictConfig) -> UserError:
    """Return what ended a sweep in words that help."""
    found = any("objective" in outcome for outcome in outcomes_in(sweep.folder))
    if sweep.jobs is None and sweep.started and not found:
        return UserError(
            "No run of the search has anything to minimize.",
            "That is the validation loss, or minus the log-likelihood of validation data.",
            "Leave data.split.validation above 0 and choose a model with either, or sweep over named values.",
        )
    cause = error.__cause__
    if cause is not None and type(cause).__module__.startswith("sqlalchemy"):
        return unreadable(composed.hydra.sweeper.storage, cause)
    if cause is not None and not type(cause).__module__.startswith(("hydra.", "omegaconf", "yaml", "lvmzoo")):
        return UserError(
            f"The launcher failed: {str(cause).strip().partition(chr(10))[0] or type(cause).__name__}",
            f"What became of each job stands in {sweep.folder}; jobs on other machines may still run.",
            f"Look into its logs ({sweep.folder}/.submitit for submitit), or use hydra/launcher=basic.",
        )
    return error


def _jobs(composed: DictConfig, overrides: Sequence[str]) -> list[list[str]] | None:
    """Return the overrides of every job, as Hydra will number them; None for a search, which draws them."""
    sweeper = composed.hydra.sweeper
    if not sweeper._target_.endswith(GRID):
        return None
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    words = [override for override in parse([*params, *overrides]) if not override.is_hydra_override()]
    (jobs,) = BasicSweeper.split_arguments(words, None)
    return jobs


def _all_folds(composed: DictConfig) -> list[str]:
    """Return the override that runs every fold, where there are folds and none is chosen; UserError for a search."""
    split, sweeper = OmegaConf.to_object(composed.data.split), composed.hydra.sweeper
    assert isinstance(split, SplitConfig)
    if split.by != "folds" or split.fold is not None or FOLD in (sweeper.get("params") or ()):
        return []
    assert split.folds is not None
    if not sweeper._target_.endswith(GRID):
        raise UserError(
            f"data.split.folds={split.folds} does not go with a search.",
            "A search chooses all values of a run, and would choose the fold that is the easiest.",
            f"Search with {FOLD}=0, then run all folds with the values that it finds.",
        )
    return [f"{FOLD}={','.join(map(str, range(split.folds)))}"]


@contextlib.contextmanager
def _stoppable(sweep: Sweep) -> Iterator[None]:
    """Hand SIGINT and SIGTERM on to all jobs, wherever they run; a later second signal ends this process at once."""
    global _here
    _here = os.getpid()
    asked_at: list[float] = []

    def receive(number: int, frame: Any) -> None:
        asked_at.append(time.monotonic())
        if len(asked_at) == 1:
            sweep.stop(number)
            print("Stopping: jobs save and end …", file=sys.stderr)
        elif asked_at[-1] - asked_at[0] > SAME_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _here = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """In a process of a launcher: leave Ctrl-C to the sweep, which hands it on."""
    if os.getpid() == _here or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _job(composed: DictConfig) -> float | str:
    """Run one job of a sweep, in whatever process the launcher puts it; return what a search minimizes.

    Where there is no such thing it is a word: a search leaves out what is no number, but would end at a NaN.
    """
    settings = HydraConfig.get()
    folder, number = Path(settings.sweep.dir), int(settings.job.num)
    tasks, task = tasks_of(settings.launcher), process_number("SLURM_PROCID")
    if tasks > 1 and task > 0:
        return _beside(composed, folder, number)
    with _undisturbed():
        outcome = _outcome(composed, folder, number, [str(word) for word in settings.overrides.task], tasks)
    objective = outcome.get("objective")
    return str(outcome["status"]) if objective is None else float(objective)


def _outcome(composed: DictConfig, folder: Path, number: int, overrides: list[str], tasks: int) -> dict[str, Any]:
    """Run a job, unless the same was done before or another process is at it; return what became of it.

    The first of several tasks of a job, each a device of one run, does so where the launcher put it.
    """
    check_there(folder)
    path, asked = job_path(folder, number), lambda: stopped_by(folder)
    lock = job_lock(folder, number)
    try:
        lock.acquire(timeout=0)
    except Timeout:  # a job that a launcher left behind on another machine
        return read_outcome(path)
    try:
        earlier = read_outcome(path) if path.exists() else {"status": "queued"}
        outcome: dict[str, Any] = {"job": number, "overrides": overrides, "status": "queued", "code": 1}
        try:
            experiment = to_experiment(composed)
            check_processes(experiment.trainer.devices, tasks)
            outcome |= {"model": experiment.model.name, "settings": _decided_by(experiment)}
        except Exception as error:
            code, lines = failure(error)
            outcome |= {"status": "failed", "code": code, "error": lines}
            write_outcome(folder, outcome)
            return outcome
        same = earlier.get("settings") == outcome["settings"]
        if (same and earlier["status"] in KEPT) or asked() is not None:
            return earlier
        outcome |= {"status": "running", "continued": same}
        write_outcome(folder, outcome)
        if tasks > 1:
            write_outcome(folder, attempt(experiment, folder, outcome))
        else:
            run_job(experiment, folder, outcome, asked)
        return read_outcome(path)
    finally:
        lock.release()


def _beside(composed: DictConfig, folder: Path, number: int) -> str:
    """Train as a further task of a job, in step with the first one, which says whether and how."""
    until = time.monotonic() + FIRST_TASK_S
    while time.monotonic() < until:
        outcome = read_outcome(job_path(folder, number))
        if outcome["status"] != "queued":
            break
        time.sleep(1)
    if outcome["status"] == "running":
        train_job(to_experiment(composed), folder, outcome, [])
    return str(outcome["status"])


def _decided_by(experiment: Experiment) -> str:
    """Return a digest of all that decides what a run computes: its settings, its files, the release."""
    plain: dict[str, Any] = flat(experiment_to_plain(experiment))
    if experiment.data.path is not None:
        stats = [(str(path.resolve()), path.stat()) for path in files_of(experiment.data.path)]
        plain["files"] = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    plain["version"] = version("lvmzoo")
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _first_values(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the first job of a sweep; ranges that a sweeper draws from are left out."""
    first = []
    for override in parse(overrides):
        if not override.is_sweep_override():
            first.append(str(override.input_line))
        elif override.is_discrete_sweep():
            first.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
    return first
