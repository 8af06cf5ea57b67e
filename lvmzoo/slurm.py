"""Jobs that SLURM ends and begins again: asking for it, and going on with the run that a job had begun.

SLURM begins a job again with the same command, which knows nothing of the run folder: a small file beside it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lvmzoo.checkpoint import write_bytes
from lvmzoo.config import Experiment
from lvmzoo.run import experiment_to_plain

__all__ = ["continued", "remembered", "requeue"]

logger = logging.getLogger("lvmzoo")

WAIT_S = 20  # for an answer of SLURM's controller


def continued(experiment: Experiment) -> Experiment:
    """Return the experiment, resuming the run that this SLURM job began and did not finish, if there is one."""
    path = _path(experiment)
    if experiment.resume or path is None or not path.is_file():
        return experiment
    folder = path.read_text()
    if not (Path(folder) / "config.yaml").is_file():
        return experiment
    logger.info("SLURM began this job again: the run in %s goes on.", folder)
    return dataclasses.replace(experiment, resume=folder)


@contextlib.contextmanager
def remembered(experiment: Experiment, folder: Path | None) -> Iterator[None]:
    """Remember, while SLURM may end the job, which folder its run is in; a run that failed is not begun again."""
    path = None if folder is None else _path(experiment)
    if path is None:
        yield
        return
    write_bytes(path, str(folder).encode())
    try:
        yield
    except Exception:  # begun again, it would fail again; a signal comes as Stopped, which is no Exception
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


def requeue(number: int) -> None:
    """Ask SLURM to begin this job again after a signal that announced its end, unless somebody cancelled it.

    Outside of SLURM, and after Ctrl-C, nothing is asked.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or number not in (signal.SIGUSR1, signal.SIGTERM):
        return
    try:
        if "JobState=CANCELLED" in _scontrol("show", "job", job):
            return
        _scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("SLURM did not take the job back (%s). The next one goes on with resume=RUN_FOLDER.", error)
    else:
        logger.info("SLURM begins job %s again, and the run goes on.", job)


def _scontrol(*words: str) -> str:
    """Run scontrol, which has to be on PATH, and return what it says."""
    command = ["scontrol", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S).stdout  # noqa: S603


def _path(experiment: Experiment) -> Path | None:
    """Return the file that remembers the run of this job; a job may have several runs, and tasks of the same run."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    task = os.environ.get("SLURM_PROCID", "0") if experiment.trainer.devices == 1 else ""
    asked = json.dumps([experiment_to_plain(dataclasses.replace(experiment, resume=None)), task], sort_keys=True)
    digest = hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()
    return Path(experiment.output) / f".slurm-{job}-{digest}"
