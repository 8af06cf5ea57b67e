"""A killed run, resumed, ends bit for bit where the uninterrupted one does."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lvmzoo import registry

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in ("lds", "contrastive") if name in registry.entries()]
POINTS = [("step", 4), ("step", 14), ("replace", 3)]


class Jobs:
    """A process that does jobs of `killed`, each in a child of its own."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        command = [sys.executable, "-m", "tests.learners.killed"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors.open("w"), text=True, cwd=ROOT
        )

    def do(self, name: str, output: Path, kill: tuple[str, float] | None = None, resume: bool = False) -> float:
        """Do a job that has to end as it is meant to; return the seconds that it took, 0 if no kill came in time."""
        assert self._process.stdin
        assert self._process.stdout
        job = {"name": name, "output": str(output), "kill": kill, "resume": str(output / "run") if resume else None}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code, seconds = self._process.stdout.readline().split()
        if kill and kill[0] == "after" and int(code) == 0:
            return 0.0
        assert int(code) == (-9 if kill else 0), self._errors.read_text()[-3000:]
        return float(seconds)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "errors.txt")
    yield made
    made.close()


def assert_same(whole: Path, resumed: Path) -> None:
    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.equal(second[key]), (resumed, key)
    columns = [(folder / "history.csv").read_text().splitlines() for folder in (whole, resumed)]
    assert len(columns[0]) == len(columns[1])


@pytest.mark.timeout(300)
def test_resumed_weights_are_those_of_the_uninterrupted_run(jobs: Jobs, tmp_path: Path) -> None:
    for name in NAMES:
        jobs.do(name, tmp_path / name)
        for number, point in enumerate(POINTS):
            output = tmp_path / f"{name}-{number}"
            jobs.do(name, output, kill=point)
            jobs.do(name, output, resume=True)
            assert_same(tmp_path / name / "run", output / "run")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["lds", "reduced_rank_regression", "neural_ode", "contrastive"])
def test_twenty_kills_at_any_moment_change_no_weight(name: str, jobs: Jobs, tmp_path: Path) -> None:
    seconds = [jobs.do(name, tmp_path / f"whole-{number}") for number in range(2)][1]
    draw, begun = random.Random(0), 0
    for number in range(20):
        output = tmp_path / str(number)
        moment = draw.uniform(0.02, 1.0) * seconds
        while not jobs.do(name, output, kill=("after", moment)):  # it was done before: another machine load
            shutil.rmtree(output)
            moment *= 0.7
        left = (output / "run" / "config.yaml").is_file()
        if not left:  # it was killed before there was anything to resume; a new run leaves the folder of another alone
            shutil.rmtree(output, ignore_errors=True)
        begun += (output / "run" / "checkpoints" / "last.ckpt").is_file()
        jobs.do(name, output, resume=left)
        assert_same(tmp_path / "whole-0" / "run", output / "run")
        assert not list(output.rglob("*.partial"))
    assert begun >= 5  # many were killed during training, or after it
