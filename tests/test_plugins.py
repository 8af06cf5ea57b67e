"""A model in a package of its own: installed, listed, chosen, held to the contract; a broken one harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build and install the plugin package into a folder; return an environment that sees it."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation"]
    where = ["--disable-pip-version-check", "--target", str(target), str(ROOT / "tests" / "plugin")]
    subprocess.run([*pip, *where], check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}


def run(arguments: list[str], installed: dict[str, str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=installed, cwd=folder, capture_output=True, text=True, check=False
    )


def test_it_is_listed_and_the_broken_one_is_reported(installed: dict[str, str], tmp_path: Path) -> None:
    done = run(["-m", "lvmzoo.cli", "list"], installed, tmp_path)
    assert done.returncode == 0
    assert "mean_rate" in done.stdout
    assert "lds" in done.stdout
    assert "Plugin 'broken' could not be loaded: ModuleNotFoundError" in done.stdout
    assert "a_package_that_is_not_installed" in done.stdout


def test_it_can_be_chosen_and_its_types_are_checked(installed: dict[str, str], tmp_path: Path) -> None:
    done = run(["-m", "lvmzoo.cli", "train", "--cfg", "job", "model=mean_rate", "model.latents=3"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "name: mean_rate" in done.stdout
    assert "latents: 3" in done.stdout
    done = run(["-m", "lvmzoo.cli", "train", "model=mean_rate", "model.latens=3"], installed, tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'model.latents'?" in done.stderr


def test_it_keeps_the_promises_of_every_model(installed: dict[str, str]) -> None:
    arguments = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "mean_rate",
        "tests/contract/test_every_model.py",
    ]
    done = run(arguments, installed)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
