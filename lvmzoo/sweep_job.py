"""One job of a sweep, in a process of its own: whatever happens to it there, its outcome is known and others go on."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvmzoo.cli import failure
from lvmzoo.config import Experiment
from lvmzoo.errors import DivergedError, Interrupted, UserError
from lvmzoo.sweep_folder import ENDING, job_path, live_path, read_outcome, working_lock, write_outcome

if TYPE_CHECKING:
    from lvmzoo.run import Run

__all__ = ["GRACE_S", "attempt", "run_job", "train_job"]

GRACE_S = 30.0  # that a job has to save and end after a signal
POLL_S = 0.2
LAST_BYTES = 10_000  # of a log, that its last words are looked for in
CO_SMOOTHING = ("co_bps", "co_r2")
PRELOADED = ["lvmzoo.train", "lvmzoo.report.page"]  # once in a process from which those of the jobs are forked

logger = logging.getLogger("lvmzoo")


def run_job(experiment: Experiment, folder: Path, outcome: dict[str, Any], asked: Callable[[], int | None]) -> None:
    """Train in a process of its own, and write into the folder of the sweep what became of it.

    Parameters
    ----------
    experiment : what to run.
    folder : of the sweep.
    outcome : what is known of the job: its number, overrides, and whether it is "continued": then it goes on from the
        checkpoint that an earlier attempt left, if there is one.
    asked : the number of the signal that the job is to end by; None as long as it may go on.
    """
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(kind)
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method(kind, force=True)  # joblib's workers name one that no other process knows
    if kind == "forkserver":
        context.set_forkserver_preload(PRELOADED)
        _start_server()
    began = time.monotonic()
    process = context.Process(target=_work, args=(experiment, folder, outcome))
    try:
        process.start()
        reason = _wait(process, experiment.time_limit_s, asked)
    except (OSError, EOFError) as error:  # too many processes, no memory for one more
        reason = f"No process could be started for it: {error}."
    live_path(folder, outcome["job"]).unlink(missing_ok=True)
    ended = read_outcome(job_path(folder, outcome["job"]))
    if ended["status"] == "running":
        stopped = asked()
        reason = reason or _cause(process.exitcode, folder / f"job-{outcome['job']}.log")
        ended |= {"status": "stopped", "code": 128 + stopped} if stopped else {"status": "failed", "code": 1}
        ended["error"] = [reason]
    elif ended["status"] == ENDING:
        ended["status"] = "stopped"
        if asked() is None:  # by its limit, or by somebody who meant this job alone
            ended |= {"status": "failed", "code": 1, "error": [reason or ended["error"][0]]}
    ended.setdefault("seconds", round(time.monotonic() - began, 3))
    write_outcome(folder, ended)


def _start_server() -> None:
    """Start the process that those of the jobs are forked from; Ctrl-C, which reaches it too, is not meant for it."""
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(process: BaseProcess, limit_s: float | None, asked: Callable[[], int | None]) -> str | None:
    """Wait until the process ends; after its limit, or when asked, end it. Return why it was ended."""
    began, reason = time.monotonic(), None
    while process.is_alive():
        process.join(POLL_S)
        number = asked()
        if number is not None:
            reason = "It was stopped with the sweep."
        elif limit_s is not None and time.monotonic() - began > limit_s:
            number = signal.SIGTERM
            reason = f"It took longer than time_limit_s={limit_s:g}. Raise it, or go on from its checkpoint as it is."
        if number is not None and process.is_alive():
            assert process.pid is not None
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(process.pid, number)
            process.join(GRACE_S)
            process.kill()
            process.join()
    return reason


def _cause(code: int | None, log: Path) -> str:
    """Return why a process ended before its run was done, with the last words of its log."""
    if code == -signal.SIGKILL:
        reason = "Its process was killed (SIGKILL): out of memory, or by somebody."
    elif code is not None and code < 0:
        reason = f"Its process ended by {signal.Signals(-code).name}."
    else:
        reason = f"Its process ended by itself, with exit code {code}, before the run was done."
    last = next((line.strip() for line in reversed(_end_of(log).split("\n")) if line.strip()), "")
    return f"{reason} {log.name} ends with: {last}" if last else reason


def _end_of(log: Path) -> str:
    """Return the last characters of a log, which may be longer than the memory holds."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        return file.read().decode(errors="replace")


def _work(experiment: Experiment, folder: Path, outcome: dict[str, Any]) -> None:
    """Train, in the process of the job; what it prints goes to job-N.log."""
    number = outcome["job"]
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C reaches the sweep, which hands it on
    try:
        log = os.open(folder / f"job-{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # the folder is gone, or its disk is full: who waits for this process says so
        sys.exit(1)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with working_lock(folder, number):
        ended = attempt(experiment, folder, outcome)
        write_outcome(folder, ended | ({"status": ENDING} if ended["status"] == "stopped" else {}))


def attempt(experiment: Experiment, folder: Path, outcome: dict[str, Any]) -> dict[str, Any]:
    """Train in this process, and return what became of it; parameters as of ``run_job``."""
    from lvmzoo.learners.sweeping import Pruned, Pruning, Told

    number = outcome["job"]
    live = _Live(live_path(folder, number))
    logger.addHandler(live)
    began = time.perf_counter()
    try:
        callbacks: list[Any] = [Told(live.say)]
        if experiment.prune:
            callbacks.append(Pruning(experiment, folder))
        finished = train_job(experiment, folder, outcome, callbacks)
    except Exception as error:
        if isinstance(error, Pruned):
            outcome |= {"status": "pruned", "code": 0, "error": [str(error)], "objective": error.objective}
        else:
            if not isinstance(error, Interrupted | UserError):
                traceback.print_exc()
            code, lines = failure(error, folder / f"job-{number}.log")
            kinds = {DivergedError: "diverged", Interrupted: "stopped"}
            outcome |= {"status": kinds.get(type(error), "failed"), "code": code, "error": lines}
    else:
        outcome |= {
            "status": "done",
            "code": 0,
            "error": [],
            "folder": str(finished.folder),
            "scores": [asdict(score) for score in finished.scores],
            **_objective(finished),
        }
    finally:
        logger.removeHandler(live)
    return outcome | {"seconds": round(time.perf_counter() - began, 3)}


def train_job(experiment: Experiment, folder: Path, outcome: dict[str, Any], callbacks: Sequence[Any]) -> Run:
    """Train into the folder of the sweep, or go on from what an earlier attempt left there."""
    from lvmzoo.train import train

    number = outcome["job"]
    experiment = replace(experiment, trainer=replace(experiment.trainer, progress=True))
    folders = (
        *folder.glob(f"job-{number}-*"),
        folder / f"job-{number}",
    )  # the latter of a name that no folder can have
    left = [path / "checkpoints" / "last.ckpt" for path in folders]
    left = sorted((path for path in left if path.exists()), key=lambda path: path.stat().st_mtime)
    if outcome["continued"] and left:
        try:
            return train(replace(experiment, resume=str(left[-1].parents[1])), callbacks=callbacks)
        except UserError as error:  # damaged, or of other data: it is not to be continued
            logger.warning("The run in %s is not continued: %s", left[-1].parents[1], error.what)
    name = f"job-{number}-{experiment.name or experiment.model.name}"
    return train(replace(experiment, output=str(folder), name=name), callbacks=callbacks)


def _objective(finished: Run) -> dict[str, float]:
    """Return what a search minimizes, nothing where there is no such thing.

    Minus the co-smoothing of held-out units in validation data, where units are held out: it tells how many latents
    there are where a likelihood goes on rising. Else the lowest validation loss, or minus the highest held-out
    log-likelihood.
    """
    smoothed = [s.validation for s in finished.scores if s.metric in CO_SMOOTHING and s.validation is not None]
    found = [-sum(smoothed) / len(smoothed)] if smoothed else []
    for column, sign in (("validation/loss", 1.0), ("validation/log_likelihood_per_bin", -1.0)):
        if column in finished.history:
            found.append(float((sign * finished.history[column]).min()))
    return {"objective": found[0]} if found and math.isfinite(found[0]) else {}


def _end_with_parent() -> None:
    """Save and end when the process that started this one is gone, for nobody waits for it any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


class _Live(logging.Handler):
    """Keeps the newest thing that a run says of itself in a small file, written at most once a second.

    Where it cannot be written, on a full disk, the run goes on without.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self._path = path
        self._written = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self._write(record.getMessage())

    def say(self, text: str) -> None:
        """Keep how far the training is."""
        if time.monotonic() - self._written > 1:
            self._written = time.monotonic()
            self._write(text)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._path.write_text(text)
