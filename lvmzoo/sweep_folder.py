"""The folder of a sweep: what was asked, what became of each job, and a lock, so that no two sweeps share it."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lvmzoo.checkpoint import write_bytes
from lvmzoo.comparison_settings import INCIDENTAL
from lvmzoo.errors import UserError
from lvmzoo.run import new_folder
from lvmzoo.run_files import read_json

__all__ = [
    "ENDING",
    "FINAL",
    "KEPT",
    "Sweep",
    "check_there",
    "job_lock",
    "job_numbers",
    "job_path",
    "live_path",
    "outcome_paths",
    "outcomes_in",
    "read_outcome",
    "stopped_by",
    "working_lock",
    "write_outcome",
]

# queued, running; then one of: done, failed (an exception, a kill, a limit), diverged, stopped (a signal), pruned
ENDING = "ending"  # after a signal: whether it is stopped or failed is for the process that sent it to say
ALONE = "The process that looked after it was killed, or ended by itself."
FINAL = ("done", "failed", "diverged", "stopped", "pruned")
KEPT = ("done", "pruned")  # what the same sweep does not run again


def job_path(folder: Path, number: int) -> Path:
    """Return the file that says what became of a job."""
    return folder / f"job-{number}.json"


def live_path(folder: Path, number: int) -> Path:
    """Return the file whose text says how far a running job is."""
    return folder / f".job-{number}.live"


def job_lock(folder: Path, number: int) -> FileLock:
    """Return the lock that whoever looks after a job holds."""
    return FileLock(folder / f".job-{number}.lock")


def working_lock(folder: Path, number: int) -> FileLock:
    """Return the lock that the process of a job holds."""
    return FileLock(folder / f".job-{number}.working")


def job_numbers(folder: Path) -> list[int]:
    """Return the numbers of the jobs that something is known of."""
    found = (re.fullmatch(r"job-(\d+)\.json", path.name) for path in outcome_paths(folder))
    return sorted(int(match[1]) for match in found if match)


def read_outcome(path: Path) -> dict[str, Any]:
    """Return what became of a job; raises UserError for a file that is damaged."""
    try:
        outcome: dict[str, Any] = read_json(path)
        known = {"job": int(outcome["job"]), "code": int(outcome["code"]), "overrides": list(outcome["overrides"])}
        return {"status": "failed" if outcome["code"] else "done"} | outcome | known
    except UserError as error:
        raise UserError(error.what, "It is damaged.", "Remove it; the same sweep runs that job again.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileNotFoundError):
            check_there(path.parent)
        raise UserError(
            f"{path} cannot be read: {' '.join(str(error).split())}.",
            "It is damaged.",
            "Remove it; the same sweep runs that job again.",
        ) from error


def write_outcome(folder: Path, outcome: dict[str, Any]) -> None:
    """Replace what is known of a job, in one step; raises UserError where the folder is gone."""
    check_there(folder)
    write_bytes(job_path(folder, outcome["job"]), json.dumps(outcome, indent=2).encode())


def outcomes_in(folder: Path) -> list[dict[str, Any]]:
    """Return what became of all jobs, by number."""
    return sorted(map(read_outcome, outcome_paths(folder)), key=lambda outcome: int(outcome["job"]))


def outcome_paths(folder: Path) -> list[Path]:
    """Return the files that say what became of jobs; the folder of a run may be named like one."""
    return [path for path in folder.glob("job-*.json") if not path.is_dir()]


def check_there(folder: Path) -> None:
    """Raise UserError where the folder of a sweep is gone; Hydra makes an empty one for the next job."""
    if not _words_path(folder).is_file():
        raise UserError(
            f"The folder of the sweep, {folder}, is gone.",
            "It was moved or removed while the sweep ran.",
            "Give the same command again: it goes on where the folder is back, and begins anew where it is not.",
        )


class Sweep:
    """A sweep that this process runs, alone.

    Parameters
    ----------
    output : where the folders of sweeps lie.
    words : what was asked, as on the command line.
    jobs : the overrides of each job; None where they are not known before, as in a search.

    Raises
    ------
    UserError
        When no folder can be made there, or the one that is continued cannot be written.
    """

    def __init__(self, output: Path, words: Sequence[str], jobs: Sequence[Sequence[str]] | None) -> None:
        # Where and how it is run may change from one time to the next.
        self.asked = {"words": _deciding(words), "jobs": jobs and [_deciding(job) for job in jobs]}
        self.jobs = jobs
        try:
            self.continued = self._found(output) if jobs else False
            if not self.continued:
                self.folder = new_folder(output, time.strftime("sweep-%Y%m%d-%H%M%S"))
                self._lock = self._locked(self.folder)
            self._prepare()
        except OSError as error:
            raise UserError(
                f"The folder of the sweep cannot be written: {error}.",
                "What becomes of the jobs is kept there.",
                "Make it writable, or choose another output=DIR.",
            ) from error

    def _prepare(self) -> None:
        """Write what was asked, and that each job that is not done is queued."""
        _stop_path(self.folder).unlink(missing_ok=True)
        write_bytes(_words_path(self.folder), self._words)
        for number, overrides in enumerate(self.jobs or ()):
            path = job_path(self.folder, number)
            earlier = read_outcome(path) if path.exists() else {"status": "queued"}
            if earlier["status"] not in KEPT:
                queued = {"job": number, "overrides": list(overrides), "status": "queued", "code": 1}
                write_outcome(self.folder, queued | {"settings": earlier.get("settings")})

    @property
    def _words(self) -> bytes:
        return json.dumps(self.asked).encode()

    def _found(self, output: Path) -> bool:
        """Take the newest folder of the same sweep that no process is at work in."""
        size = len(self._words)
        for folder in sorted(output.glob("sweep-*"), key=lambda path: path.stat().st_mtime, reverse=True):
            asked = _words_path(folder)
            if asked.is_file() and asked.stat().st_size == size and asked.read_bytes() == self._words:
                try:
                    self.folder, self._lock = folder, self._locked(folder)
                except Timeout:
                    continue
                return True
        return False

    @staticmethod
    def _locked(folder: Path) -> FileLock:
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
        return lock

    def stop(self, number: int) -> None:
        """Ask all jobs, wherever they run, to save and end, as if they had got this signal."""
        write_bytes(_stop_path(self.folder), str(number).encode())

    @property
    def started(self) -> bool:
        """Whether any job was begun."""
        return any(outcome["status"] != "queued" for outcome in outcomes_in(self.folder))

    @property
    def code(self) -> int:
        """The exit code: 128 + signal if it was stopped, 1 if any job is not done, else 0."""
        if (number := stopped_by(self.folder)) is not None:
            return 128 + number
        outcomes = outcomes_in(self.folder)
        return int(len(outcomes) < len(self.jobs or ()) or any(outcome["status"] not in KEPT for outcome in outcomes))

    def settle(self, wait_s: float) -> None:
        """Say what became of jobs that nobody looks after any more: a launcher's own processes may be killed, too.

        Parameters
        ----------
        wait_s : in which the process of such a job may save and end.
        """
        number = stopped_by(self.folder)
        for outcome in outcomes_in(self.folder):
            if outcome["status"] not in ("running", ENDING):
                continue
            try:
                with job_lock(self.folder, outcome["job"]).acquire(timeout=0):
                    with working_lock(self.folder, outcome["job"]).acquire(timeout=wait_s):
                        outcome = read_outcome(job_path(self.folder, outcome["job"]))
                    if outcome["status"] in ("running", ENDING):
                        ended: dict[str, Any] = {"status": "failed", "code": 1, "error": [ALONE]}
                        if number is not None:
                            ended = {
                                "status": "stopped",
                                "code": 128 + number,
                                "error": ["It was stopped with the sweep."],
                            }
                        write_outcome(self.folder, outcome | ended)
            except Timeout:  # it goes on, on another machine perhaps
                continue

    def close(self) -> None:
        """Let others continue the sweep; a folder in which nothing was started, by no launcher either, goes away."""
        self._lock.release()
        if self.folder.is_dir() and not (
            self.started or self.continued or any(path.is_dir() for path in self.folder.iterdir())
        ):
            shutil.rmtree(self.folder)


def _deciding(words: Sequence[str]) -> list[str]:
    """Return the words but for those that change nothing of what is computed."""
    keys = ("hydra/launcher", "hydra.launcher", "hydra.sweeper.max_batch_size", *INCIDENTAL)
    return [
        word for word in words if not word.lstrip("+").startswith(tuple(f"{key}{end}" for key in keys for end in "=."))
    ]


def stopped_by(folder: Path) -> int | None:
    """Return the number of the signal that the jobs of a sweep were asked to end by."""
    try:
        return int(_stop_path(folder).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _words_path(folder: Path) -> Path:
    return folder / "sweep.json"


def _stop_path(folder: Path) -> Path:
    return folder / ".stop"
