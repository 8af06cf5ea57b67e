#!/usr/bin/env python3
"""sbatch, srun, sacct, scancel and scontrol of a cluster of one machine: jobs run at once, one after the other.

Called by one of these names. It keeps its state in $FAKE_SLURM, a folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def option(text: str, name: str, default: str) -> str:
    found = re.search(rf"--{name}[= ](\S+)", text)
    return found[1] if found else default


def sbatch(words: list[str]) -> None:
    """Queue a job, or an array of them."""
    script = Path(words[-1]).read_text()
    job = str(1000 + len(list(STATE.glob("*.job"))))
    (STATE / f"{job}.job").write_text(script)
    subprocess.Popen(
        [sys.executable, __file__, "--run", job, words[-1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    print(f"Submitted batch job {job}")


def run(job: str, script: str) -> None:
    """Run what was queued."""
    text = Path(script).read_text()
    array = option(text, "array", "")
    last = int(array.split("%")[0].split("-")[-1]) if array else None
    for index in range(last + 1) if last is not None else [None]:
        own = {"SLURM_JOB_ID": str(int(job) * 100 + (index or 0)), "SLURM_JOB_NAME": option(text, "job-name", "lvmzoo")}
        if index is not None:
            own |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(index)}
        tasks = option(text, "ntasks-per-node", "1")
        own |= {"SLURM_NTASKS": tasks, "SLURM_NTASKS_PER_NODE": tasks, "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
        own |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_NODELIST": "localhost", "SLURM_JOB_NODELIST": "localhost"}
        subprocess.run(["bash", script], env={**os.environ, **own}, check=False)
        (STATE / f"{job}_{index}.over" if array else STATE / f"{job}.over").touch()


def srun(words: list[str]) -> None:
    """Start the tasks of a job, and wait for them."""
    rest = words[words.index("-u") - 1 :]  # after the options, the interpreter
    started = []
    for task in range(int(os.environ["SLURM_NTASKS"])):
        place = {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}
        log = (STATE / f"{os.environ['SLURM_JOB_ID']}_{task}.log").open("w")
        started.append(subprocess.Popen(rest, env={**os.environ, **place}, stdout=log, stderr=log))
    sys.exit(max(process.wait() for process in started))


def sacct(words: list[str]) -> None:
    """Say how jobs stand."""
    print("JobID|State|NodeList")
    for job in STATE.glob("*.job"):
        over = sorted(STATE.glob(f"{job.stem}*.over"))
        for name in {path.stem for path in over}:
            print(f"{name}|COMPLETED|localhost")
        if not over:
            print(f"{job.stem}|RUNNING|localhost")


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    if sys.argv[1:2] == ["--run"]:
        run(*sys.argv[2:])
    elif name in ("sbatch", "srun", "sacct"):
        globals()[name](sys.argv[1:])
