"""Sweeps whose jobs raise, exit, are killed and hang: the others end well, the failed ones are named and run again."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PLUGIN = Path(__file__).parent / "faulty_plugin.py"
TINY = ["data=lds", "data.simulator_options={trials: 6, units: 5}", "report=false", "data.split.test=0.3"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Install the plugin as pip would, into a folder that the sweep sees."""
    site = tmp_path / "site"
    described = site / "faulty-1.0.dist-info"
    described.mkdir(parents=True)
    shutil.copy(PLUGIN, site / "faulty_plugin.py")
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[lvmzoo.models]\nfaulty = faulty_plugin\n")
    return tmp_path


def sweep(place: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(place / "site"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lvmzoo.cli", "train", "-m", "model=faulty", *TINY, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=place, stdout=pipe, stderr=pipe, text=True, **options)


def outcomes(place: Path) -> Mapping[int, dict[str, Any]]:
    (folder,) = place.glob("runs/sweep-*")
    found = [json.loads(path.read_text()) for path in folder.glob("job-*.json")]
    return {outcome["job"]: outcome for outcome in found}


def attempts(place: Path) -> list[int]:
    return sorted(map(int, (place / "attempts.txt").read_text().split()))


def check(place: Path, jobs: int, wrong: Mapping[str, str], *words: str, limit_s: int, twice: bool) -> None:
    """Run a sweep with faults, and perhaps run it again."""
    faults = [f"model.{kind}='{turns}'" for kind, turns in wrong.items()]
    line = [f"model.turn=range(0,{jobs})", *faults, f"time_limit_s={limit_s}", *words]
    failing = {int(turn): kind for kind, turns in wrong.items() for turn in turns.split()}
    reasons = {"raises": "a planted fault", "exits": "exit code 0", "killed": "SIGKILL", "hangs": "time_limit_s"}
    started = sweep(place, *line)
    out, err = started.communicate(timeout=1500)
    assert started.returncode == 1, err
    assert f"{jobs - len(failing)} of {jobs} runs done, {len(failing)} failed" in out
    assert attempts(place) == list(range(jobs))
    for job, outcome in outcomes(place).items():
        assert outcome["status"] == ("failed" if job in failing else "done"), outcome
        if job in failing:
            assert reasons[failing[job]] in " ".join(outcome["error"])
            assert reasons[failing[job]] in " ".join(err.split())
    if not twice:
        return
    again = sweep(place, *line)
    out, err = again.communicate(timeout=1500)
    assert again.returncode == 1
    assert attempts(place) == sorted([*range(jobs), *failing]), "only what failed is run again"
    assert f"{jobs - len(failing)} of {jobs} runs done, {len(failing)} failed" in out


def test_each_kind_of_fault_harms_its_own_job_alone(place: Path) -> None:
    check(place, 5, {"raises": "0", "exits": "1", "killed": "2", "hangs": "3"}, limit_s=6, twice=False)


FIFTY = {"raises": "3 11 19 27 35", "exits": "5 25", "killed": "7 37", "hangs": "13"}
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=laptop", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=local_jobs", "hydra.sweeper.max_batch_size=3"],
    "ray": ["hydra/launcher=gpu_server", "hydra.launcher.ray.remote={num_gpus: 0}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.timeout(3000)
def test_fifty_runs_of_which_ten_fail(place: Path, name: str) -> None:
    if name == "ray" and importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        pytest.skip("the extra 'ray' is not installed")
    check(place, 50, FIFTY, *LAUNCHERS[name], limit_s=60, twice=True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_signal_ends_the_sweep_in_time(place: Path, number: int, code: int, launcher: str) -> None:
    running = sweep(place, "model.turn=range(0,4)", "model.hangs='1 2'", *LAUNCHERS[launcher], start_new_session=True)
    began = time.monotonic()
    while time.monotonic() - began < 120 and not (place / "attempts.txt").exists():
        time.sleep(0.2)
    while time.monotonic() - began < 120 and 1 not in attempts(place):
        time.sleep(0.2)
    sent = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
    os.killpg(running.pid, number)  # and once more, as `timeout` sends it, to all processes of the sweep
    _, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    assert time.monotonic() - sent < 40  # of which up to 30 s are the run's, to save
    assert outcomes(place)[1]["status"] == "stopped"
    assert "Run the rest" in err


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_slurm_runs_one_trial_a_job_with_all_its_processes(place: Path, processes: int) -> None:
    commands, state = place / "bin", place / "state"
    commands.mkdir()
    state.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        command = commands / name
        command.write_text((Path(__file__).parent / "fake_slurm.py").read_text())
        command.chmod(0o755)
    launcher = "slurm" if processes == 1 else "slurm_gpus"
    words = [f"hydra/launcher={launcher}", "trainer.accelerator=cpu", f"trainer.devices={processes}", "report=false"]
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "FAKE_SLURM": str(state)}
    command = [sys.executable, "-m", "lvmzoo.cli", "train", "-m", "model=lds", *TINY, *words, "seed=0,1"]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs done" in done.stdout
    assert len(list(place.glob("runs/sweep-*/job-*-lds"))) == 2
    with np.load(next(place.glob("runs/sweep-*/job-0-lds/latents.npz"))) as latents:
        assert all(np.isfinite(latents[name]).all() for name in latents.files)
