"""The folder of a sweep: what was asked, what became of each job, and a lock, so that no two sweeps share it."""

from __future__ import annotations

import json
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
    "FINAL",
    "KEPT",
    "Sweep",
    "job_path",
    "live_path",
    "outcomes_in",
    "read_outcome",
    "stopped_by",
    "write_outcome",
]

# queued, running; then one of: done, failed (an exception, a kill, a limit), diverged, stopped (a signal), pruned
FINAL = ("done", "failed", "diverged", "stopped", "pruned")
KEPT = ("done", "pruned")  # what the same sweep does not run again


def job_path(folder: Path, number: int) -> Path:
    """Return the file that says what became of a job."""
    return folder / f"job-{number}.json"


def live_path(folder: Path, number: int) -> Path:
    """Return the file whose text says how far a running job is."""
    return folder / f".job-{number}.live"


def read_outcome(path: Path) -> dict[str, Any]:
    """Return what became of a job; raises UserError for a file that is damaged."""
    try:
        outcome: dict[str, Any] = read_json(path)
        known = {"job": int(outcome["job"]), "code": int(outcome["code"]), "overrides": list(outcome["overrides"])}
        return {"status": "failed" if outcome["code"] else "done"} | outcome | known
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read: {' '.join(str(error).split())}.",
            "It is damaged.",
            "Remove it; the same sweep runs that job again.",
        ) from error


def write_outcome(folder: Path, outcome: dict[str, Any]) -> None:
    """Replace what is known of a job, in one step."""
    write_bytes(job_path(folder, outcome["job"]), json.dumps(outcome, indent=2).encode())


def outcomes_in(folder: Path) -> list[dict[str, Any]]:
    """Return what became of all jobs, by number."""
    return sorted(map(read_outcome, folder.glob("job-*.json")), key=lambda outcome: int(outcome["job"]))


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
        When no folder can be made there.
    """

    def __init__(self, output: Path, words: Sequence[str], jobs: Sequence[Sequence[str]] | None) -> None:
        # Where and how it is run may change from one time to the next.
        self.asked = {"words": _deciding(words), "jobs": jobs and [_deciding(job) for job in jobs]}
        self.jobs = jobs
        self.continued = self._found(output) if jobs else False
        if not self.continued:
            self.folder = new_folder(output, time.strftime("sweep-%Y%m%d-%H%M%S"))
            self._lock = self._locked(self.folder)
        _stop_path(self.folder).unlink(missing_ok=True)
        write_bytes(self.folder / "sweep.json", json.dumps(self.asked).encode())
        for number, overrides in enumerate(jobs or ()):
            path = job_path(self.folder, number)
            earlier = read_outcome(path) if path.exists() else {"status": "queued"}
            if earlier["status"] not in KEPT:
                queued = {"job": number, "overrides": list(overrides), "status": "queued", "code": 1}
                write_outcome(self.folder, queued | {"settings": earlier.get("settings")})

    def _found(self, output: Path) -> bool:
        """Take the newest folder of the same sweep that no process is at work in."""
        for folder in sorted(output.glob("sweep-*"), key=lambda path: path.stat().st_mtime, reverse=True):
            asked = folder / "sweep.json"
            if asked.is_file() and asked.read_text() == json.dumps(self.asked):
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
        return int(any(outcome["status"] not in KEPT for outcome in outcomes_in(self.folder)))

    def close(self) -> None:
        """Let others continue the sweep; a folder in which nothing was started, by no launcher either, goes away."""
        self._lock.release()
        if not (self.started or self.continued or any(path.is_dir() for path in self.folder.iterdir())):
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


def _stop_path(folder: Path) -> Path:
    return folder / ".stop"
