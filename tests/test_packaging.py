"""The wheel works outside the checkout: its configs travel with it, and a user's own are added."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def call(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, env=environment, **options
    )


def test_the_wheel_holds_the_configs_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"lvmzoo/configs/{name}" for name in shipped} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_trains_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    assert call([sys.executable, "-m", "venv", "--without-pip", environment]).returncode == 0
    python = environment / "bin" / "python"
    site = Path(call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "lvmzoo/__init__.py" in names
    installed = call([sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps", wheel])
    assert installed.returncode == 0, installed.stderr
    # The dependencies of the environment that runs the tests, after what is installed here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    work = tmp_path / "work"
    (work / "mine" / "experiment").mkdir(parents=True)
    (work / "mine" / "experiment" / "small.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: arrays\n"
        "model: {latents: 2}\ntrainer: {max_epochs: 2, progress: false}\ndata: {path: counts.npz, bin_width_s: 0.02}\n"
    )
    counts = np.random.default_rng(0).poisson(1.0, (600, 6))
    np.savez(work / "counts.npz", counts=counts, trial_length_bins=np.full(30, 20))
    where = call([python, "-c", "import lvmzoo; print(lvmzoo.__file__)"], cwd=work).stdout.strip()
    assert where.startswith(str(site)), "the checkout must not be what is tested"
    done = call(
        [environment / "bin" / "lvmzoo", "train", "--config-dir", "mine", "model=lds", "experiment=small"], cwd=work
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (work / "runs").iterdir()
    assert (folder / "report.html").stat().st_size > 1000
    assert str(folder.relative_to(work)) in done.stdout


@pytest.mark.slow
def test_the_wheel_installs_with_everything_it_needs(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    assert call([sys.executable, "-m", "venv", environment]).returncode == 0
    pip = [environment / "bin" / "pip", "install", "-qq", "--no-compile", "-c", ROOT / "constraints.txt"]
    done = call([*pip, f"{wheel}[sweeps,tensorboard]"])
    assert done.returncode == 0, done.stderr
    assert call([environment / "bin" / "pip", "check"]).returncode == 0
    done = call([environment / "bin" / "lvmzoo", "train", "data=lds", "trainer.max_epochs=3"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
