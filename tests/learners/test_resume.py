"""A killed run, resumed, ends bit for bit where the uninterrupted one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lvmzoo import registry

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in ("lds", "contrastive") if name in registry.entries()]
POINTS = [("step", 4), ("step", 14), ("replace", 3)]


@pytest.mark.timeout(300)
def test_resumed_weights_are_those_of_the_uninterrupted_run(tmp_path: Path) -> None:
    jobs = []
    for name in NAMES:
        jobs.append({"name": name, "output": str(tmp_path / name / "whole"), "kill": None, "resume": None})
        for number, point in enumerate(POINTS):
            output = tmp_path / name / str(number)
            jobs.append({"name": name, "output": str(output), "kill": point, "resume": None})
            jobs.append({"name": name, "output": str(output), "kill": None, "resume": str(output / "run")})
    done = subprocess.run(
        [sys.executable, "-m", "tests.learners.killed"],
        input="\n".join(map(json.dumps, jobs)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    codes = [int(line) for line in done.stdout.split()]
    expected = [-9 if job["kill"] else 0 for job in jobs]
    assert codes == expected, done.stderr[-3000:]
    for name in NAMES:
        whole = tmp_path / name / "whole" / "run"
        for number in range(len(POINTS)):
            resumed = tmp_path / name / str(number) / "run"
            first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
            assert first.keys() == second.keys()
            for key, value in first.items():
                assert value.equal(second[key]), (name, number, key)
            columns = [(folder / "history.csv").read_text().splitlines() for folder in (whole, resumed)]
            assert len(columns[0]) == len(columns[1])
